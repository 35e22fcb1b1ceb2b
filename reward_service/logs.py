"""Logging: JSON lines, or plain text on a terminal. Never logs a scored text or a key."""

import json
import logging
import sys
import time
from typing import TextIO

REQUEST_FIELDS = ("request_id", "route", "status", "ms")
"""Fields of an access log line besides its message."""


class JsonFormatter(logging.Formatter):
    """Format each record as one line of JSON, whatever its message contains."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        content = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in REQUEST_FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            content["trace"] = self.formatException(record.exc_info)
        return json.dumps(content)


def configure(stream: TextIO | None = None) -> None:
    """Log to standard error: as text on a terminal, as JSON otherwise."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(text if stream.isatty() else JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
