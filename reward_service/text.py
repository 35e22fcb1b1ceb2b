"""Extract the text that a reward reads from a completion or a prompt, which are strings or lists of chat messages."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from shared.schemas import ContentPart, Message, Text

THINKING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold its thinking, where the content is the answer alone."""
CLOSES_THINKING = re.compile("think|thought|reason", re.IGNORECASE)
"""What occurs in tags that close thinking: `</think>`, `[/THINK]`, `</reasoning>`, unlike in `####`."""


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


def thinks_apart(fields: Mapping[str, Any], tag: str) -> bool:
    """Return whether a message has its thinking in a field of its own, as parsers of responses write it, for this tag.

    Its content is then what follows the tag that would have closed the thinking.
    """
    return CLOSES_THINKING.search(tag) is not None and any(fields.get(name) for name in THINKING_FIELDS)


def answer_apart(completion: Text, tag: str | None) -> str | None:
    """Return the last assistant turn's text if it has its thinking apart and no such tag; else None."""
    if tag is None or isinstance(completion, str):
        return None
    last = next((message for message in reversed(completion) if message.role == "assistant"), None)
    if last is None or not last.content or not thinks_apart(last.model_extra or {}, tag):
        return None
    text = _content_text(last.content)
    return None if tag in text else text


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
