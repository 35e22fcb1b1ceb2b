"""What a model reward reads of each item, by its configuration. Pure: items in, `ModelInput` or the reason out.

`completion` reads the completion alone; `text` prompt and completion as one string, as TRL's RewardTrainer and
RLOOTrainer read standard data; `pair` prompt and completion as a sentence pair; `chat` both as a conversation in the
model's chat template. What nobody said is never scored: it is `EmptyInput`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from reward_service.backends.base import ModelInput
from reward_service.backends.chat_template import ChatMessage, plain_text
from reward_service.errors import ConfigError, DoesNotFit, EmptyInput, RewardServiceError
from reward_service.rewards.base import Items
from reward_service.specs import ModelRewardSpec
from reward_service.text import CLOSES_THINKING, THINKING_FIELDS, thinks_apart
from shared.schemas import Message, Text

CHAT_COLUMNS = ("tools", "chat_template_kwargs")
"""Columns that `input: chat` reads, as TRL's RewardTrainer does."""
MAX_CUTS = 8
"""Attempts to make a conversation fit by cutting its prompt."""

Reading = ModelInput | RewardServiceError


class Renders(Protocol):
    """A chat template."""

    problem: str
    """Why no conversation can be scored with it; empty where one can."""

    def render(
        self, messages: Sequence[ChatMessage], *, tools: Any = None, arguments: Mapping[str, Any] | None = None
    ) -> str:
        """Return the conversation as one text. Raise `EmptyInput` where the template refuses it."""
        ...


def reads_prompt(spec: ModelRewardSpec) -> bool:
    """Return whether a reward needs the prompt."""
    return spec.input != "completion"


def check_template(name: str, spec: ModelRewardSpec, template: Renders | None) -> None:
    """Raise `ConfigError` if a reward reads conversations and the model has no chat template that can write them."""
    if spec.input != "chat":
        return
    if template is None:
        raise ConfigError(f"rewards.{name}: {spec.model} has no chat template; use input: text or completion")
    if template.problem:
        raise ConfigError(f"rewards.{name}: the chat template of {spec.model} {template.problem}")


def read_items(
    spec: ModelRewardSpec,
    items: Items,
    template: Renders | None,
    end: str,
    fits: Callable[[str], bool],
) -> list[Reading]:
    """Return the input of every item. `end` is the tokenizer's end token, `fits` whether a text fits into the model."""
    readings: list[Reading] = []
    prompts: Sequence[Text] = items.prompt_chats or [""] * len(items)
    for index, (prompt, completion) in enumerate(zip(prompts, items.chats or items.completions, strict=True)):
        try:
            if spec.input == "chat":
                assert template is not None
                options = _template_options(items.columns, index)
                readings.append(_read_chat(spec, prompt, completion, template, options, fits))
            else:
                readings.append(_read_text(spec, prompt, completion, end))
        except RewardServiceError as error:
            readings.append(error)
    return readings


def last_chars(item: ModelInput, window: int | None) -> ModelInput:
    """Return the input with only the last characters of its text, or of its second sentence."""
    if window is None:
        return item
    if item.second is not None:
        return replace(item, second=item.second[-window:])
    cut = max(0, len(item.text) - window)
    return replace(item, text=item.text[cut:], prompt_chars=max(0, item.prompt_chars - cut))


def _read_text(spec: ModelRewardSpec, prompt: Text, completion: Text, end: str) -> ModelInput:
    text = answer(completion, tag=spec.after, last_turn_only=spec.turns == "last")
    if spec.input == "pair":
        return ModelInput(_prompt_text(prompt), second=text)
    if spec.input == "completion":
        return ModelInput(text)
    if not isinstance(prompt, str) or not isinstance(completion, str):
        raise EmptyInput("input: text reads strings, and this item is a conversation; use input: chat")
    whole = prompt + text
    if spec.end and end and not whole.endswith(end):
        whole += end
    return ModelInput(whole, prompt_chars=len(prompt))


def spoken(completion: Text, *, last_turn_only: bool = False) -> str:
    """Return what the assistant says in a completion. Raise `EmptyInput` where it says nothing."""
    if isinstance(completion, str):
        texts = [completion]
    else:
        assistant = [message for message in completion if message.role == "assistant"]
        texts = [message_text(message) for message in assistant if message.content is not None]
        texts = texts[-1:] if last_turn_only else texts
    text = "\n".join(texts)
    if not text:
        raise EmptyInput("the completion is empty: the assistant says nothing that could be scored")
    return text


def answer(completion: Text, *, tag: str | None, last_turn_only: bool) -> str:
    """Return what the assistant says; with a tag, what it says after its thinking. Raise `EmptyInput`.

    In a conversation that is its last turn's answer: what an earlier turn has closed says nothing of the last one.
    """
    text = spoken(completion, last_turn_only=last_turn_only)
    if tag is None:
        return text
    if isinstance(completion, str):
        return after_tag(text, tag)
    turns = [m for m in completion if m.role == "assistant" and m.content is not None]
    last = [m for m in turns if last_turn_only or message_text(m).strip()][-1:]
    return _turn_answer(message_text(last[0]), last[0].model_extra or {}, tag) if last else after_tag(text, tag)


def _turn_answer(text: str, fields: Mapping[str, Any], tag: str) -> str:
    """Return a turn's text after the tag, or all of it where the turn has its thinking in a field of its own."""
    return text if tag not in text and thinks_apart(fields, tag) else after_tag(text, tag)


def after_tag(text: str, tag: str | None) -> str:
    """Return what follows the last occurrence of a tag. Raise `EmptyInput` where it is missing or nothing follows."""
    if tag is None:
        return text
    _, found, rest = text.rpartition(tag)
    if not found:
        raise EmptyInput(f"the completion never closes its thinking: it does not contain {tag!r}")
    if not rest:
        raise EmptyInput(f"nothing follows {tag!r} in the completion")
    return rest


def _read_chat(
    spec: ModelRewardSpec,
    prompt: Text,
    completion: Text,
    template: Renders,
    options: Mapping[str, Any],
    fits: Callable[[str], bool],
) -> ModelInput:
    spoken(completion)  # a conversation in which the assistant says nothing is not scored
    prompt_turns, completion_turns = _messages(prompt, "user"), _messages(completion, "assistant")
    if spec.after is not None:
        completion_turns = _after_tag_in_turns(completion_turns, spec.after)
    text = template.render([*prompt_turns, *completion_turns], **options)
    if spec.truncate in (None, "prompt") and not fits(text):
        text = _fit(prompt_turns, completion_turns, template, options, fits)
        return ModelInput(text, prompt_cut=True)
    return ModelInput(text)


def _after_tag_in_turns(messages: list[ChatMessage], tag: str) -> list[ChatMessage]:
    """Keep of each assistant turn what follows the tag; the last one must contain it, or have its thinking apart."""
    spoken_turns = [m for m in messages if m.get("role") == "assistant" and plain_text(m.get("content") or "").strip()]
    if not spoken_turns:
        raise EmptyInput("the completion is empty: the assistant says nothing that could be scored")
    turns = []
    for message in messages:
        content = plain_text(message.get("content") or "")
        if message is spoken_turns[-1] or (message.get("role") == "assistant" and tag in content):
            message = {**message, "content": _turn_answer(content, message, tag)}
        if CLOSES_THINKING.search(tag):
            message = {name: value for name, value in message.items() if name not in THINKING_FIELDS}
        turns.append(message)
    return turns


def _fit(
    prompt_turns: Sequence[ChatMessage],
    completion_turns: Sequence[ChatMessage],
    template: Renders,
    options: Mapping[str, Any],
    fits: Callable[[str], bool],
) -> str:
    """Return the conversation with as little of the prompt cut, from its beginning, as makes it fit."""
    total = sum(len(plain_text(message.get("content") or "")) for message in prompt_turns)

    def rendered(dropped_chars: int) -> str:
        return template.render([*without_beginning(prompt_turns, dropped_chars), *completion_turns], **options)

    if not fits(rendered(total)):
        raise DoesNotFit(
            "the completion does not fit into the tokens that the model reads, even without its prompt: send a shorter "
            "one, or configure another truncate"
        )
    low, high = 0, total  # low does not fit, high does
    while high - low > max(1, total >> MAX_CUTS):
        middle = (low + high) // 2
        low, high = (low, middle) if fits(rendered(middle)) else (middle, high)
    return rendered(high)


def without_beginning(messages: Sequence[ChatMessage], dropped_chars: int) -> list[ChatMessage]:
    """Return messages without so many characters of their contents, the oldest first; system turns go last."""
    order = sorted(range(len(messages)), key=lambda index: (messages[index].get("role") == "system", index))
    shortened = list(messages)
    for index in order:
        content = plain_text(messages[index].get("content") or "")
        shortened[index] = {**messages[index], "content": content[dropped_chars:]}
        dropped_chars = max(0, dropped_chars - len(content))
    return shortened


def _template_options(columns: Mapping[str, Sequence[Any]], index: int) -> dict[str, Any]:
    tools, arguments = (columns[name][index] if name in columns else None for name in CHAT_COLUMNS)
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise EmptyInput(f"the column `tools` is neither a list nor JSON: {error}") from error
    if arguments is not None and not isinstance(arguments, Mapping):
        raise EmptyInput("the column `chat_template_kwargs` is not a mapping")
    return {"tools": tools or None, "arguments": arguments}


def _messages(text: Text, role: str) -> list[ChatMessage]:
    if isinstance(text, str):
        return [{"role": role, "content": text}]
    return [message.model_dump(exclude_unset=True) for message in text]


def _prompt_text(prompt: Text) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(message_text(message) for message in prompt if message.content is not None)


def message_text(message: Message) -> str:
    """Return a message's text. Raise `EmptyInput` for a content part that is no text."""
    content = message.content
    return plain_text(
        content if isinstance(content, str) else [part.model_dump(exclude_unset=True) for part in content or ()]
    )
