"""The key that a service is asked with: given, or read from a file and read again when it no longer opens."""

import contextlib
import re
from pathlib import Path

VISIBLE = re.compile(r"[!-~]+")


class ApiKey:
    """A key that nothing prints."""

    def __init__(self, source: str | Path | None) -> None:
        self._source = source
        self._value = self._read()

    def __repr__(self) -> str:
        return f"ApiKey({self._source})" if isinstance(self._source, Path) else "ApiKey(…)"

    @property
    def header(self) -> dict[str, str]:
        """Give what is sent: nothing, where there is no key."""
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def renewed(self, sent: dict[str, str]) -> bool:
        """Read the file again where it can be, and tell whether it holds another key than the one that was `sent`."""
        with contextlib.suppress(ValueError, OSError):  # half written, or gone for a moment
            self._value = self._read()
        return self.header != sent

    def _read(self) -> str:
        """Raises `ValueError`, which does not tell the key, where there is none in the file or it could not be sent."""
        if isinstance(self._source, Path):
            keys = self._source.read_text(encoding="utf-8").split()
            if not keys:
                raise ValueError(f"{self._source} holds no API key: it is empty")
            value = keys[0]  # a service's own file may hold several while one replaces another
        else:
            value = self._source.strip() if self._source else ""
        if value and not VISIBLE.fullmatch(value):
            raise ValueError("the API key holds characters that cannot be sent: is it a whole file, or another text?")
        return value
