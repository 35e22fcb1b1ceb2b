"""Render conversations in a model's own chat template, the same on every day and for every form of content.

Message contents come as strings or as lists of parts. A template that reads strings gets strings, one that reads only
parts gets parts. A part that is no text, such as a picture, cannot be read by a text model: `EmptyInput`.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from reward_service.errors import EmptyInput

FIXED_DATE = datetime(2024, 7, 26, tzinfo=UTC)
"""The date in templates that print today's, Llama's own default: no score depends on when it is asked for."""
MARKER = "Xq7marker"
SystemTurns = Literal["keep", "fold", "drop"]
ChatMessage = dict[str, Any]


class ChatTemplate:
    """A tokenizer's chat template. `reading` describes everything about it that a score depends on."""

    def __init__(self, tokenizer: Any, *, system: SystemTurns = "keep", arguments: Mapping[str, Any] = {}) -> None:
        self._tokenizer, self._system, self._arguments = tokenizer, system, dict(arguments)
        self.reading = ""
        if "strftime_now" in str(tokenizer.chat_template):
            tokenizer.chat_template = _without_clock(tokenizer.chat_template)
            self.reading = f", on {FIXED_DATE:%Y-%m-%d}"
        self._takes_parts = self._reads_parts_only()
        self.drops_completion = self._drops_completion()
        """Whether it leaves out what the assistant says, so that all completions of a prompt are one text."""

    def render(
        self, messages: Sequence[ChatMessage], *, tools: Any = None, arguments: Mapping[str, Any] | None = None
    ) -> str:
        """Return the conversation as one text. Raise `EmptyInput` where the template refuses it."""
        turns = [self._with_content(message) for message in system_turns(messages, self._system)]
        settings = {**self._arguments, **(arguments or {})}
        try:
            return self._render(turns, tools=tools, **settings)
        except Exception as error:  # a template is code too, and may refuse what it does not know
            raise EmptyInput(f"the model's chat template refuses this conversation: {error}") from error

    def _render(self, turns: Sequence[ChatMessage], **settings: Any) -> str:
        return str(self._tokenizer.apply_chat_template(list(turns), tokenize=False, **settings))

    def _with_content(self, message: ChatMessage) -> ChatMessage:
        if message.get("content") is None:
            return {**message, "content": [] if self._takes_parts else ""}
        text = plain_text(message["content"])
        return {**message, "content": [{"type": "text", "text": text}] if self._takes_parts else text}

    def _drops_completion(self) -> bool:
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": MARKER}]
        try:
            return MARKER.lower() not in self.render(turns).lower()
        except EmptyInput:  # it wants other roles: the conversations themselves will show
            return False

    def _reads_parts_only(self) -> bool:
        """Return whether the template loses a content that is a string and keeps one that is a list of parts."""

        def keeps(content: Any) -> bool:
            try:
                turns = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
                return MARKER in self._render(turns, **self._arguments)
            except Exception:  # it wants another form, or other roles: the conversations themselves will show
                return False

        return not keeps(MARKER) and keeps([{"type": "text", "text": MARKER}])


def plain_text(content: Any) -> str:
    """Return a message's text: a string, or its text parts joined. Raise `EmptyInput` for a part that is no text."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content or ():
        text = part.get("text")
        if not isinstance(text, str):
            raise EmptyInput(
                f"a message has a part of the kind {str(part.get('type', 'unknown'))[:40]!r}, which the model cannot "
                f"read: send text parts alone"
            )
        texts.append(text)
    return "".join(texts)


def system_turns(messages: Sequence[ChatMessage], system: SystemTurns) -> list[ChatMessage]:
    """Return the conversation with its system turns kept, dropped, or folded into the user turn that follows."""
    if system == "keep":
        return list(messages)
    turns: list[ChatMessage] = []
    folded: list[str] = []
    for message in messages:
        if message.get("role") == "system":
            folded.append(plain_text(message.get("content") or ""))
        elif system == "fold" and folded and message.get("role") == "user":
            content = "\n\n".join([*folded, plain_text(message.get("content") or "")])
            turns.append({**message, "content": content})
            folded = []
        else:
            turns.append(message)
    if system == "fold" and folded:
        turns.insert(0, {"role": "user", "content": "\n\n".join(folded)})
    return turns


def _without_clock(template: Any) -> Any:
    """Return a template, or one of each name, in which `strftime_now` prints a fixed date instead of today's."""
    if isinstance(template, dict):
        return {name: _without_clock(text) for name, text in template.items()}
    codes = [*(f"-{code}" for code in "dmHIMSjy"), *"aAwdbBmyYHIpMSfzZjUWcxXGuVeDFTRh"]
    replaced = "".join(f"|replace('%{code}', '{FIXED_DATE.strftime(f'%{code}')}')" for code in codes)
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro -%}}{template}"
