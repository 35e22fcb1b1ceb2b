"""The text of a completion, for reward functions."""

from collections.abc import Mapping, Sequence
from typing import Any


def text_of(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a completion: a string unchanged, or the contents of the assistant's messages, line by line.

    A content may be a string, a list of parts, of which those with a text count, or None, as in a tool call.
    """
    if isinstance(completion, str):
        return completion
    contents = [message.get("content") for message in completion if message.get("role") == "assistant"]
    return "\n".join(_content_text(content) for content in contents if content is not None)


def _content_text(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content)
