"""Tokenize what a model reads, and cut what does not fit on the side that gives way.

In: texts or sentence pairs. Out: token ids, or the reason why an input has none: a part would be lost that may not be
(`DoesNotFit`), or the model has no embedding for one of its tokens (`NoEmbedding`).
"""

from collections.abc import Sequence
from typing import Any, Literal

from tokenizers import Tokenizer

from reward_service.backends.base import TOKEN_MASK, TYPE_SHIFT, Encoded, ModelInput
from reward_service.errors import DoesNotFit, NoEmbedding, RewardServiceError

CHARS_PER_TOKEN = 32
"""Characters per token that no natural text reaches. A longer text is spaces, or an attack."""
Truncate = Literal["prompt", "left", "right", "refuse"]


class TextEncoder:
    """A tokenizer with a limit. `truncate` says what gives way: the prompt, the left or right end, or nothing.

    `embeddings` is the number of the model's embeddings, where the tokenizer has tokens beyond it.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_tokens: int,
        special_tokens: bool,
        truncate: Truncate,
        embeddings: int | None = None,
    ) -> None:
        self.max_tokens, self._truncate, self._special_tokens = max_tokens, truncate, special_tokens
        self._embeddings = embeddings
        self._tokenizer = tokenizer
        self._gives_types = "token_type_ids" in tokenizer.model_input_names
        self.has_types = self.has_pair_types = False
        self._rust: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        if self._rust is None:
            self.has_pair_types = any(self._python_types("a b", "c d"))
            self.has_types = any(self._python_types("a b"))
            return
        self._rust.no_padding()
        self._rust.no_truncation()
        self._cutting = Tokenizer.from_str(self._rust.to_str())
        side = "left" if truncate == "left" else "right"
        self._cutting.enable_truncation(max_tokens, direction=side)
        self.has_pair_types = any(self._types_of(self._rust.encode("a b", "c d", add_special_tokens=special_tokens)))
        self.has_types = any(self._types_of(self._rust.encode("a b", add_special_tokens=special_tokens)))

    def fits(self, text: str) -> bool:
        """Return whether a text fits into the model whole."""
        if len(text) > CHARS_PER_TOKEN * self.max_tokens:
            return False
        if self._rust is None:
            return len(self._tokenizer(text, add_special_tokens=self._special_tokens)["input_ids"]) <= self.max_tokens
        return len(self._rust.encode(text, add_special_tokens=self._special_tokens).ids) <= self.max_tokens

    def encode(self, inputs: Sequence[ModelInput]) -> list[Encoded | RewardServiceError]:
        """Tokenize, in Rust and without the GIL where the tokenizer has a fast form."""
        encoded = self._encode(inputs)
        if self._embeddings is None:
            return encoded
        return [self._check_embedded(item) if isinstance(item, Encoded) else item for item in encoded]

    def _check_embedded(self, item: Encoded) -> Encoded | NoEmbedding:
        """Return the item, or the error that names a token which would index past the model's embeddings."""
        assert self._embeddings is not None
        ids = (token & TOKEN_MASK for token in item.tokens)
        beyond = next((token_id for token_id in ids if token_id >= self._embeddings), None)
        if beyond is None:
            return item
        return NoEmbedding(
            f"the text has the token {self._tokenizer.convert_ids_to_tokens(beyond)!r}, which was added to the "
            f"tokenizer after the model was trained, so that the model has no embedding for it: send a "
            f"text without it, or save the tokenizer as it was in the training"
        )

    def _encode(self, inputs: Sequence[ModelInput]) -> list[Encoded | RewardServiceError]:
        if self._rust is None:
            return [self._encode_slowly(item) for item in inputs]
        if self._truncate in ("left", "right") and all(item.second is None for item in inputs):
            return self._encode_texts([item.text for item in inputs])
        return [self._encode_one(item) for item in inputs]

    def _encode_texts(self, texts: Sequence[str]) -> list[Encoded | RewardServiceError]:
        """Encode many texts at once, cut to the limit.

        Texts are first cut to the characters that can fit: a million characters take a second to tokenize.
        """
        max_chars = CHARS_PER_TOKEN * self.max_tokens
        cut = [text[-max_chars:] if self._truncate == "left" else text[:max_chars] for text in texts]
        if len(cut) == 1:  # not in the thread pool, where it would queue behind batches
            encodings = [self._cutting.encode(cut[0], add_special_tokens=self._special_tokens)]
        else:
            encodings = self._cutting.encode_batch_fast(cut, add_special_tokens=self._special_tokens)
        encoded: list[Encoded | RewardServiceError] = []
        for encoding, text in zip(encodings, texts, strict=True):
            truncated = bool(encoding.overflowing) or len(text) > max_chars
            encoded.append(
                Encoded(
                    _typed(encoding.ids, self._types_of(encoding)) if self.has_types else encoding.ids,
                    truncated,
                    truncated,
                )
            )
        return encoded

    def _encode_one(self, item: ModelInput) -> Encoded | DoesNotFit:
        max_chars = CHARS_PER_TOKEN * self.max_tokens
        completion_chars = len(item.text) - item.prompt_chars if item.second is None else len(item.second)
        if completion_chars > max_chars:
            return self._does_not_fit() if self._truncate in ("prompt", "refuse") else self._cut(item)
        assert self._rust is not None
        text, dropped = item.text, 0
        if self._truncate == "prompt":  # of a very long prompt only the end can be read
            longest = max_chars + (completion_chars if item.second is None else 0)
            dropped = max(0, len(text) - longest)
            text = text[dropped:]
        encoding = self._rust.encode(text, item.second, add_special_tokens=self._special_tokens)
        over = len(encoding.ids) - self.max_tokens
        if over <= 0 and not dropped:
            return Encoded(_typed(encoding.ids, self._types_of(encoding)), False)
        if self._truncate == "refuse":
            return self._does_not_fit()
        if self._truncate != "prompt":
            return self._cut(item)
        return self._without_prompt(encoding, max(0, over), item.prompt_chars - dropped)

    def _without_prompt(self, encoding: Any, over: int, prompt_chars: int) -> Encoded | DoesNotFit:
        """Drop the first `over` tokens of the prompt; special tokens stay."""
        typed = _typed(encoding.ids, self._types_of(encoding))
        if any(sequence == 1 for sequence in encoding.sequence_ids):  # a pair: the prompt is the first sentence
            prompt = [index for index, sequence in enumerate(encoding.sequence_ids) if sequence == 0]
        else:
            places = zip(encoding.offsets, encoding.sequence_ids, strict=True)
            prompt = [i for i, ((_, end), sequence) in enumerate(places) if sequence == 0 and end <= prompt_chars]
        if over > len(prompt):
            return self._does_not_fit()
        cut = set(prompt[:over])
        return Encoded([token for index, token in enumerate(typed) if index not in cut], True)

    def _cut(self, item: ModelInput) -> Encoded | DoesNotFit:
        """Cut one side, whosever text it is."""
        max_chars = CHARS_PER_TOKEN * self.max_tokens
        left = self._truncate == "left"
        text = item.text[-max_chars:] if left else item.text[:max_chars]
        if item.second is None:
            encoding = self._cutting.encode(text, add_special_tokens=self._special_tokens)
        else:
            second = item.second[-max_chars:] if left else item.second[:max_chars]
            encoding = self._cutting.encode(text, second, add_special_tokens=self._special_tokens)
        return Encoded(_typed(encoding.ids, self._types_of(encoding)), True, True)

    def _encode_slowly(self, item: ModelInput) -> Encoded | DoesNotFit:
        """Encode with a tokenizer that exists in Python alone."""
        settings: dict[str, Any] = {"add_special_tokens": self._special_tokens}
        inputs = self._tokenizer(item.text, item.second, **settings)
        over = len(inputs["input_ids"]) > self.max_tokens
        if over and self._truncate in ("prompt", "refuse"):
            return self._does_not_fit()
        if over:
            self._tokenizer.truncation_side = self._truncate
            inputs = self._tokenizer(item.text, item.second, truncation=True, max_length=self.max_tokens, **settings)
        return Encoded(_typed(inputs["input_ids"], inputs.get("token_type_ids", ())), over, over)

    def _types_of(self, encoding: Any) -> Sequence[int]:
        """Return the token types, which Rust always has, of a tokenizer that gives them to its model."""
        types: Sequence[int] = encoding.type_ids if self._gives_types else ()
        return types

    def _python_types(self, text: str, second: str | None = None) -> Sequence[int]:
        inputs = self._tokenizer(text, second, add_special_tokens=self._special_tokens)
        types: Sequence[int] = inputs.get("token_type_ids", ())
        return types

    def _does_not_fit(self) -> DoesNotFit:
        what = "input" if self._truncate == "refuse" else "completion"
        return DoesNotFit(
            f"the {what} does not fit into the {self.max_tokens} tokens that the model reads: send a shorter one, or "
            f"configure another truncate"
        )


def _typed(ids: list[int], types: Sequence[int]) -> list[int]:
    """Return token ids with their types in the upper bits; ids alone where all types are 0."""
    if not any(types):
        return ids
    return [type_ << TYPE_SHIFT | token_id for token_id, type_ in zip(ids, types, strict=True)]
