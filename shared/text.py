"""The text of a completion, and the turns that two conversations share."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

Chat = list[dict[str, Any]]


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


def without_common_turns(chosen: Chat, rejected: Chat) -> tuple[Chat, Chat, Chat]:
    """Return the turns with which both conversations begin, and what follows in each: at least its last turn."""
    turns = zip(chosen[:-1], rejected[:-1], strict=False)
    common = sum(1 for _ in takewhile(lambda both: both[0] == both[1], turns))
    return chosen[:common], chosen[common:], rejected[common:]
