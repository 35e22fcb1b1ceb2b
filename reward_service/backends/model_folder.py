"""A sequence-classification model's folder: what is read of it whatever computes. No weights are loaded here."""

import hashlib
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from reward_service.backends.base import Encoded
from reward_service.errors import ConfigError, translating

HASHED_PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")
NOT_HASHED_NAMES = {"metrics.json", "generation_config.json", "training_args.json", "trainer_state.json"}

FIXED_DATE = date(2024, 7, 26)
"""What day it is in chat templates that tell it, Llama's own default: no score depends on when it is asked for."""
PADDING_OFFSET_MODELS = {
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "longformer", "mpnet", "ibert"),
    *("data2vec-text", "xmod", "luke", "mluke", "esm"),
}
"""Models that count positions from the padding index on."""
CHARS_PER_TOKEN = 32
"""No natural text has so many characters for each token; what is longer is spaces, or made to be slow."""


class ModelFolder:
    """Tokenizer, labels and limits of a model; safetensors only, and no code from the folder."""

    def __init__(self, path: Path, *, max_tokens: int | None = None, special_tokens: bool = True) -> None:
        if not any(path.glob("*.safetensors")):
            raise ConfigError(
                f"{path} holds no .safetensors weights; pickled weights can run code, so convert them with "
                f"`AutoModel….from_pretrained(…).save_pretrained(…)` where you trust them"
            )
        self._signatures = file_signatures(path)  # before anything is read: what is read must be what is hashed
        with translating(ConfigError, f"cannot load the model in {path}"):
            self._tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        self.path = path
        self.labels: Sequence[str] = [config.id2label[index] for index in range(config.num_labels)]
        self.multi_label = config.problem_type == "multi_label_classification" or config.num_labels == 1
        self.max_tokens = min(max_tokens or 1 << 20, max_input_tokens(self._tokenizer, config))
        self.pad_token_id = pad_token_id(self._tokenizer, config)
        self._special_tokens = special_tokens
        reading = f"{self.max_tokens} tokens, {CHARS_PER_TOKEN} characters each, special tokens {special_tokens}"
        if "strftime_now" in (template := self._tokenizer.chat_template or ""):
            self._tokenizer.chat_template = _without_clock(template)
            reading += f", on {FIXED_DATE}"
        self.fingerprint = fingerprint(path, reading)
        self._rust = self._tokenizer.backend_tokenizer
        self._rust.no_padding()
        self._rust.enable_truncation(self.max_tokens)

    def check_unchanged(self) -> None:
        """Raise `ConfigError` if a file was replaced since it was hashed: scores would bear a revision not theirs."""
        if file_signatures(self.path) != self._signatures:
            raise ConfigError(f"the model in {self.path} changed while it was loaded; load it again when it is whole")

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize in Rust, outside the interpreter's lock; cut on the right what the model cannot read.

        A text of more characters than any that fits is cut before it is tokenized, which would take a second for each
        million of them.
        """
        most = CHARS_PER_TOKEN * self.max_tokens
        cut = [text[:most] for text in texts]
        if len(cut) == 1:  # without the threads that share out a batch, behind which it would wait
            encodings = [self._rust.encode(cut[0], add_special_tokens=self._special_tokens)]
        else:
            encodings = self._rust.encode_batch_fast(cut, add_special_tokens=self._special_tokens)
        return [
            Encoded(encoding.ids, bool(encoding.overflowing) or len(text) > most)
            for encoding, text in zip(encodings, texts, strict=True)
        ]

    def chat(self, prompt: Any, completion: Any) -> str:
        """Lay out prompt and completion in the model's own chat template, as TRL's RewardTrainer does."""
        messages = [*_messages(prompt, "user"), *_messages(completion, "assistant")]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))

    @property
    def has_chat_template(self) -> bool:
        """Tell whether `chat` can be used."""
        return bool(self._tokenizer.chat_template)


def max_input_tokens(tokenizer: Any, config: Any) -> int:
    """Give how many tokens a model can read: its positions, or less if its tokenizer says so."""
    positions = getattr(config, "max_position_embeddings", None) or 0
    if positions <= 0:  # some have no bound, which one of them writes as -1
        positions = 1 << 20
    if config.model_type in PADDING_OFFSET_MODELS:
        positions -= 2
    return int(min(positions, tokenizer.model_max_length))


def pad_token_id(tokenizer: Any, config: Any) -> int:
    """Give the id that the model itself takes for padding: a decoder looks for the last token before it."""
    known = (config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(found) for found in known if isinstance(found, int))


def fingerprint(folder: Path, reading: str) -> str:
    """Hash all that the scores of a model depend on, besides what computes them."""
    digest = hashlib.sha256(reading.encode())
    for path in hashed(folder):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def hashed(folder: Path) -> list[Path]:
    """Give the files that the scores of a model depend on."""
    found = {path for pattern in HASHED_PATTERNS for path in folder.glob(pattern)}
    return sorted(path for path in found if path.name not in NOT_HASHED_NAMES)


def file_signatures(folder: Path) -> list[tuple[str, int, int, int]]:
    """Give what tells a file from one that took its place: name, number, size, time of its last change."""
    files = [(path.name, path.stat()) for path in hashed(folder)]
    return [(name, file.st_ino, file.st_size, file.st_mtime_ns) for name, file in files]


def _without_clock(template: str) -> str:
    """Put a date that stays in the place of today's, which transformers tells to templates that ask."""
    codes = "".join(f"|replace('%{code}', '{FIXED_DATE.strftime('%' + code)}')" for code in "aAbBdHIjmMpSyY")
    return f"{{%- macro strftime_now(layout) -%}}{{{{ layout{codes} }}}}{{%- endmacro -%}}{template}"


def _messages(text: Any, role: str) -> list[dict[str, Any]]:
    if isinstance(text, str):
        return [{"role": role, "content": text}]
    return [message.model_dump(exclude_unset=True) for message in text]
