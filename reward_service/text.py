"""Extract the text that a reward reads from a completion or a prompt, which are strings or lists of chat messages."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from shared.schemas import ContentPart, Message, Text


def completion_text(completion: Text) -> str:
    """Return the text of a completion: a string unchanged, or the assistant's messages joined by newlines.

    A message without content (a tool call) adds nothing.
    """
    if isinstance(completion, str):
        return completion
    return _joined(message for message in completion if message.role == "assistant")


def prompt_text(prompt: Text) -> str:
    """Return the text of a prompt: a string unchanged, or all messages joined by newlines."""
    return prompt if isinstance(prompt, str) else _joined(prompt)


def _joined(messages: Iterable[Message]) -> str:
    return "\n".join(_content_text(message.content) for message in messages if message.content is not None)


def _content_text(content: str | list[ContentPart]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text or "" for part in content)


def after_last(text: str, tag: str | None) -> str:
    """Return what follows the last occurrence of a tag, nothing where it is missing; without a tag the whole text."""
    if tag is None:
        return text
    _, found, rest = text.rpartition(tag)
    return rest if found else ""


def without_end_of_turn(text: str, markers: Sequence[str]) -> str:
    """Return the text without the markers at its end, and without whitespace between and after them.

    The text is matched backwards, in linear time.
    """
    match = _reversed_markers(tuple(markers)).match(text[::-1])
    return text[: len(text) - match.end()] if match else text


@lru_cache
def _reversed_markers(markers: tuple[str, ...]) -> re.Pattern[str]:
    alternatives = "|".join(re.escape(marker[::-1]) for marker in markers)
    return re.compile(rf"(?:\s*(?:{alternatives}))+" if markers else r"(?!)")
