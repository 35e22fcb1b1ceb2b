"""Render conversations in a model's own chat template, the same on every day and for every form of content.

Message contents come as strings or as lists of parts. A template that reads strings gets strings, one that reads only
parts gets parts. A part that is no text, such as a picture, cannot be read by a text model: `EmptyInput`.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from jinja2 import TemplateSyntaxError

from reward_service.errors import EmptyInput

FIXED_DATE = datetime(2024, 7, 26, tzinfo=UTC)
"""The date in templates that print today's, Llama's own default: no score depends on when it is asked for."""
MARKER = "Xq7marker"
RESERVED = {
    *("conversation", "messages", "chat_template", "tools", "tokenize", "padding", "truncation", "max_length"),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
}
"""Parameters of `apply_chat_template` that are no arguments of a template."""
SystemTurns = Literal["keep", "fold", "drop"]
ChatMessage = dict[str, Any]


class ChatTemplate:
    """A tokenizer's chat template. `reading` describes everything about it that a score depends on."""

    def __init__(self, tokenizer: Any, *, system: SystemTurns = "keep", arguments: Mapping[str, Any] = {}) -> None:
        self._tokenizer, self._system, self._arguments = tokenizer, system, dict(arguments)
        self.reading = ""
        if "strftime_now" in f"{tokenizer.chat_template} {arguments.get('chat_template')}":
            tokenizer.chat_template = _without_clock(tokenizer.chat_template)
            if "strftime_now" in str(arguments.get("chat_template")):
                self._arguments["chat_template"] = _without_clock(arguments["chat_template"])
            self.reading = f", on {FIXED_DATE:%Y-%m-%d}"
        self._parts_roles = {role for role in ("user", "assistant") if self._reads_parts_only(role)}
        self.problem = self._problem()
        """Why no conversation can be scored with it; empty where one can."""

    def render(
        self, messages: Sequence[ChatMessage], *, tools: Any = None, arguments: Mapping[str, Any] | None = None
    ) -> str:
        """Return the conversation as one text. Raise `EmptyInput` where the template refuses it."""
        turns = [self._with_content(message) for message in system_turns(messages, self._system)]
        settings = {**self._arguments, **(arguments or {})}
        if reserved := sorted(RESERVED.intersection(arguments or ())):
            raise EmptyInput(
                f"the column `chat_template_kwargs` holds {reserved[0]!r}, which is no argument of the model's chat "
                f"template: leave it out"
            )
        try:
            return self._render(turns, tools=tools, **settings)
        except Exception as error:  # a template is code too, and may refuse what it does not know
            raise EmptyInput(f"the model's chat template refuses this conversation: {error}") from error

    def _render(self, turns: Sequence[ChatMessage], **settings: Any) -> str:
        return str(self._tokenizer.apply_chat_template(list(turns), tokenize=False, **settings))

    def _with_content(self, message: ChatMessage) -> ChatMessage:
        takes_parts = message.get("role") in self._parts_roles or len(self._parts_roles) == 2
        if message.get("content") is None:
            return {**message, "content": [] if takes_parts else ""}
        text = plain_text(message["content"])
        return {**message, "content": text_parts(text) if takes_parts else text}

    def _problem(self) -> str:
        """Return why all completions would fail or score alike; empty also where only the conversations can show it."""
        if reserved := sorted((RESERVED - {"chat_template"}).intersection(self._arguments)):
            return f"has no argument {reserved[0]!r}; leave it out of template_args"
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": MARKER}]
        try:
            text, again = self.render(turns), self.render(turns)
        except EmptyInput as error:  # it may want other roles
            broken = isinstance(error.__cause__, TemplateSyntaxError)
            return (
                f"is broken ({error.__cause__}); save the one there that the model was trained with" if broken else ""
            )
        if text != again:
            return "writes the same conversation another way each time; save one there without random parts"
        if MARKER.lower() not in text.lower():
            return (
                "leaves out what the assistant says, so that all completions would score alike; save the template "
                "there that the model was trained with"
            )
        return ""

    def _reads_parts_only(self, role: str) -> bool:
        """Return whether the template loses a role's content as a string, and keeps it as a list of parts."""

        def keeps(form: Callable[[str], Any]) -> bool:
            return any(self._keeps(role, form(MARKER), other("Hi")) for other in (str, text_parts))

        return not keeps(str) and keeps(text_parts)

    def _keeps(self, role: str, content: Any, other: Any) -> bool:
        """Return whether the template writes a role's content that holds the marker."""
        turns = [{"role": name, "content": content if name == role else other} for name in ("user", "assistant")]
        try:
            return MARKER in self._render(turns, **self._arguments)
        except Exception:  # it wants another form, or other roles: the conversations themselves will show
            return False


def text_parts(text: str) -> list[dict[str, str]]:
    """Return a content as a list of parts."""
    return [{"type": "text", "text": text}]


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
    replaced = (
        "".join(f"|replace('%{code}', '{FIXED_DATE.strftime(f'%{code}')}')" for code in codes) + "|replace('%%', '%')"
    )
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro +%}}{template}"
