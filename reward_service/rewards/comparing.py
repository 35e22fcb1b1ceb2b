"""What a similarity reward compares: of each item the completion, and the prompt or a column. Pure.

Of a prompt that is a conversation its last user turn is compared: what stands before it was answered already. A text of
whitespace alone says nothing and is `EmptyInput`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reward_service.backends.sentence_config import SentenceConfig
from reward_service.errors import EmptyInput, NotApplicable, RewardServiceError
from reward_service.rewards.base import Items
from reward_service.rewards.reading import answer, message_text
from reward_service.specs import Prefixes, SimilaritySpec
from shared.schemas import Text

TO_PROMPT = "prompt"


@dataclass(frozen=True, slots=True)
class Compared:
    """The two texts of one item, with their prefixes."""

    texts: tuple[str, str]
    """The completion's first."""
    cut: bool
    """Whether a part of the completion was cut off already, by `last_chars`."""


def prefixes_for(spec: SimilaritySpec, sentence: SentenceConfig) -> Prefixes:
    """Return the configured prefixes, else those that the folder names.

    A prompt is a query and its completion a document; a column and its completion are two texts of the same kind.
    """
    if spec.prefixes is not None:
        return spec.prefixes
    if spec.to == TO_PROMPT:
        return Prefixes(completion=sentence.document_prefix, to=sentence.query_prefix)
    return Prefixes(completion=sentence.default_prefix, to=sentence.default_prefix)


def read_compared(
    spec: SimilaritySpec, items: Items, prefixes: Prefixes, *, lower_case: bool
) -> list[Compared | RewardServiceError]:
    """Return the two texts of every item, or the reason that it lacks one of them."""
    read: list[Compared | RewardServiceError] = []
    for completion, other in zip(items.chats or items.completions, _others(spec, items), strict=True):
        try:
            text = answer(completion, tag=spec.after, last_turn_only=spec.turns == "last")
            window = text if spec.last_chars is None else text[-spec.last_chars :]
            first = prefixes.completion + _checked(window, "the completion")
            second = prefixes.to + _checked(_other_text(spec, other), _name(spec))
        except RewardServiceError as error:
            read.append(error)
        else:
            if lower_case:
                first, second = first.lower(), second.lower()
            read.append(Compared((first, second), cut=len(window) < len(text)))
    return read


def _others(spec: SimilaritySpec, items: Items) -> Sequence[Any]:
    if spec.to == TO_PROMPT:
        return items.prompt_chats or items.prompts or ()
    return items.columns[spec.to]


def _other_text(spec: SimilaritySpec, other: Any) -> str:
    if spec.to == TO_PROMPT:
        return _last_user_turn(other)
    if other is None:
        raise NotApplicable(f"{_name(spec)} is null: there is nothing to compare the completion with")
    if not isinstance(other, str):
        raise EmptyInput(f"{_name(spec)} is no text, but {type(other).__name__}: send a text, or null")
    return other


def _last_user_turn(prompt: Text) -> str:
    if isinstance(prompt, str):
        return prompt
    turns = [message for message in prompt if message.role == "user" and message.content is not None]
    if not turns:
        raise EmptyInput("the prompt has no user turn to compare the completion with: send one, or a string")
    return message_text(turns[-1])


def _name(spec: SimilaritySpec) -> str:
    return "the prompt" if spec.to == TO_PROMPT else f"the column {spec.to!r}"


def _checked(text: str, name: str) -> str:
    if not text.strip():
        raise EmptyInput(f"{name} is empty: there is nothing to compare")
    return text
