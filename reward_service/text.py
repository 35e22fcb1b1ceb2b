"""Extract the text that a reward reads from a completion or a prompt, which are strings or lists of chat messages."""

from collections.abc import Iterable

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
