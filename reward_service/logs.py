"""What the service logs: one line of JSON each, or words on a terminal. Never a text, never a key."""

import json
import logging
import sys
import time
from typing import TextIO

FIELDS = ("request_id", "route", "status", "ms")
"""What a request's line has besides its message."""


class JsonLines(logging.Formatter):
    """One JSON object a line, whatever a message holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Lay a record out."""
        content = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in FIELDS if hasattr(record, name)},
        }
        if record.exc_info:
            content["trace"] = self.formatException(record.exc_info)
        return json.dumps(content)


def configure(stream: TextIO | None = None) -> None:
    """Log to standard error: in words where somebody watches, in JSON where a program does."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    words = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(words if stream.isatty() else JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
