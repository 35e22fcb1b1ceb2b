"""What a reward model reads of a prompt and a completion: the same tokens in training, in evaluation and when served.

In: pairs and the model's tokenizer. Out: token ids, cut where a completion alone is too long, or None where a prompt
and its completion do not fit. The names of `input` are those of the service's configuration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from shared.text import Chat
from trainer.errors import TrainerError
from trainer.reward_model.pairs import Pair, Text

INPUTS = ("completion", "chat", "text", "pair")
FIXED_CLOCK = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
"""Put before a chat template that prints today's date: no score may depend on the day."""


@dataclass(frozen=True)
class Encoded:
    """The tokens of one text."""

    ids: list[int]
    types: list[int] | None = None
    """Token types, of a sentence pair."""
    truncated: bool = False


@dataclass(frozen=True)
class EncodedPair:
    """The tokens of a pair."""

    pair: Pair
    chosen: Encoded
    rejected: Encoded

    @property
    def tokens(self) -> int:
        """The length of the longer text, which both are padded to."""
        return max(len(self.chosen.ids), len(self.rejected.ids))

    @property
    def truncated(self) -> bool:
        """Whether one of the texts was cut."""
        return self.chosen.truncated or self.rejected.truncated


class Reader:
    """Tokenizes what the model reads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, input: str, max_tokens: int) -> None:
        self.tokenizer, self.input, self.max_tokens = tokenizer, input, max_tokens
        template = str(tokenizer.chat_template)
        if input == "chat" and "strftime_now" in template and not template.startswith(FIXED_CLOCK):
            tokenizer.chat_template = FIXED_CLOCK + template

    def with_limit(self, max_tokens: int) -> "Reader":
        """Return the same reader with another limit."""
        return Reader(self.tokenizer, self.input, max_tokens)

    @property
    def spec(self) -> dict[str, Any]:
        """The keys of `rewards.yaml` with which the service reads the same."""
        end = {"end": True} if self.input == "text" and self.tokenizer.eos_token else {}
        return {"input": self.input, **end}

    def encode_pairs(self, pairs: Sequence[Pair]) -> list[EncodedPair]:
        """Return the pairs of which both texts fit, in order."""
        chosen = self.encode([(pair.prompt, pair.chosen) for pair in pairs])
        rejected = self.encode([(pair.prompt, pair.rejected) for pair in pairs])
        both = zip(pairs, chosen, rejected, strict=True)
        return [EncodedPair(pair, one, other) for pair, one, other in both if one is not None and other is not None]

    def encode(self, items: Sequence[tuple[Text | None, Text]]) -> list[Encoded | None]:
        """Return the tokens of each prompt and completion; None where a prompt and its completion do not fit."""
        if not items:
            return []
        firsts = [self._first(prompt, completion) for prompt, completion in items]
        seconds = [said(completion) for _, completion in items] if self.input == "pair" else None
        settings = {"add_special_tokens": self.input in ("completion", "pair"), "verbose": False}
        encodings = self.tokenizer(firsts, seconds, return_token_type_ids=self.input == "pair", **settings)
        types = encodings.get("token_type_ids") or [None] * len(items)
        encoded = [Encoded(ids, of) for ids, of in zip(encodings["input_ids"], types, strict=True)]
        return [self._fit(item, text) for item, text in zip(encoded, firsts, strict=True)]

    def _first(self, prompt: Text | None, completion: Text) -> str:
        """Return the text that is tokenized, or for a sentence pair its first sentence."""
        if self.input == "completion":
            return said(completion)
        if self.input == "pair":
            return "\n".join(message["content"] for message in as_chat(prompt or "", "user"))
        if self.input == "chat":
            turns = [*(as_chat(prompt, "user") if prompt is not None else []), *as_chat(completion, "assistant")]
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        text, end = f"{prompt or ''}{completion}", self.tokenizer.eos_token or ""
        return text if text.endswith(end) else text + end

    def _fit(self, encoded: Encoded, text: str) -> Encoded | None:
        if len(encoded.ids) <= self.max_tokens:
            return encoded
        if self.input != "completion":
            return None
        ids = self.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]
        return Encoded(ids, truncated=True)


def said(completion: Text) -> str:
    """Return what the assistant says in a completion."""
    if isinstance(completion, str):
        return completion
    return "\n".join(message["content"] for message in completion if message["role"] == "assistant")


def as_chat(text: Text, role: str) -> Chat:
    """Return a text as one message, and a chat as it is."""
    return [{"role": role, "content": text}] if isinstance(text, str) else text


def choose_input(pair: Pair, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what a model with this tokenizer should read of such pairs. Raises `TrainerError`."""
    has_prompt = pair.prompt is not None
    if isinstance(pair.chosen, list):
        if tokenizer.chat_template:
            return "chat"
        if not (reads_sentence_pairs(tokenizer) and has_prompt):
            raise TrainerError(
                "these pairs are chats, and the model has neither a chat template nor sentence pairs to read them "
                "with: choose a chat model, or set --chat_template_path"
            )
        return "pair"
    if not has_prompt:
        return "completion"
    return "pair" if reads_sentence_pairs(tokenizer) else "text"


def check_input(input: str, pair: Pair, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `TrainerError` if the model cannot read such pairs so."""
    if input not in INPUTS:
        raise TrainerError(f"unknown --input {input!r}; choose auto, {', '.join(INPUTS)}")
    if input == "chat" and not tokenizer.chat_template:
        raise TrainerError("--input chat: the model has no chat template; set --chat_template_path or another --input")
    if input == "text" and isinstance(pair.chosen, list):
        raise TrainerError("--input text reads strings, and these pairs are chats: choose --input chat")
    if input == "pair" and not reads_sentence_pairs(tokenizer):
        raise TrainerError("--input pair: the model's tokenizer does not tell two sentences apart; choose another")


def reads_sentence_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer marks the second of two sentences with a token type of its own."""
    return 1 in (tokenizer("a", "b").get("token_type_ids") or [])
