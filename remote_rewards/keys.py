"""The key that a service is asked with: given, or read from a file and read again when it no longer opens."""

import contextlib
import re
from pathlib import Path

from shared.errors import InvalidApiKey

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
        with contextlib.suppress(InvalidApiKey):  # half written, or gone for a moment
            self._value = self._read()
        return self.header != sent

    def _read(self) -> str:
        """Raises `InvalidApiKey`."""
        value = first_of(self._source) if isinstance(self._source, Path) else (self._source or "").strip()
        if value and not VISIBLE.fullmatch(value):
            raise InvalidApiKey(
                "the API key holds characters that cannot be sent: is it a whole file, or another text?"
            )
        return value


def first_of(file: Path) -> str:
    """Give the key in a file; of several, which a service's own file has while one replaces another, the first.

    Raises `InvalidApiKey`.
    """
    try:
        keys = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidApiKey(
            f"cannot read the API key file {file}: {type(error).__name__}; write the key into it"
        ) from None
    if not keys:
        raise InvalidApiKey(f"{file} holds no API key: it is empty; write the key into it")
    return keys[0]
