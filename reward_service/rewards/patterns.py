"""Regular expressions and JSON schemas that are matched in time linear in the text: both engines never backtrack."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema_rs
import pydantic_core
import re2

MAX_SHOWN = 80


def compile_pattern(pattern: str, *, ignore_case: bool) -> Callable[[str], bool]:
    """Return a function that tells whether the pattern occurs in a text. Raise `ValueError` with the reason if not."""
    options = re2.Options()
    options.case_sensitive, options.never_capture, options.log_errors = not ignore_case, True, False
    try:
        compiled = re2.compile(_utf8(pattern).decode(), options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        raise ValueError(
            f"RE2, which never backtracks, cannot match {pattern[:MAX_SHOWN]!r}: {reason}; what needs look-around or "
            f"backreferences can be a reward function, which has a timeout"
        ) from None
    return lambda text: compiled.search(_utf8(text)) is not None


def compile_schema(schema: Mapping[str, Any] | None) -> Callable[[str], bool]:
    """Return a function that tells whether a text is JSON that fits a schema. Raise `ValueError` for a wrong schema."""
    try:
        validator = jsonschema_rs.validator_for(
            {} if schema is None else dict(schema), offline=True, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise ValueError(f"this is no JSON schema: {str(error).splitlines()[0]}") from None

    def is_valid(text: str) -> bool:
        try:
            value = pydantic_core.from_json(_utf8(text), allow_inf_nan=False)
        except ValueError:
            return False
        return validator.is_valid(value)

    return is_valid


def script_test(scripts: tuple[str, ...]) -> Callable[[str], bool]:
    """Return a function that tells whether a letter belongs to one of Unicode's scripts."""
    names = "".join(rf"\p{{{script.capitalize()}}}" for script in scripts)
    return functools.lru_cache(4096)(compile_pattern(f"[{names}]", ignore_case=False))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # halves of surrogate pairs, which are no characters, become question marks
