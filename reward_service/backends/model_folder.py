"""A sequence-classification model's folder: tokenizer, labels, limits and fingerprint. No weights are loaded here."""

import hashlib
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from reward_service.backends.base import Encoded
from reward_service.backends.heads import read_head, weight_files
from reward_service.backends.model_config import max_input_tokens, padding_id, read_config, read_tokenizer
from reward_service.errors import ConfigError

HASHED_PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")
UNHASHED_NAMES = {"metrics.json", "generation_config.json", "training_args.json", "trainer_state.json"}

FIXED_DATE = date(2024, 7, 26)
"""Today's date in chat templates, Llama's own default, so that no score depends on the day of the request."""
CHARS_PER_TOKEN = 32
"""Characters per token that no natural text reaches. A longer text is spaces, or an attack."""


class ModelFolder:
    """Tokenizer, labels and limits of a model; safetensors only, and no code from the folder."""

    def __init__(self, path: Path, *, max_tokens: int | None = None, special_tokens: bool = True) -> None:
        if not weight_files(path):
            raise ConfigError(
                f"{path} holds no .safetensors weights; pickled weights can run code, so convert them once: "
                f"reward-service convert {path} OUT"
            )
        self._signatures = file_signatures(path)  # read before the files: what is read must be what is hashed
        self.head = read_head(path)
        self.config = config = read_config(path)
        self._tokenizer = read_tokenizer(path, config)
        self.path = path
        self.labels: Sequence[str] = [config.id2label[index] for index in range(config.num_labels)]
        self.multi_label = config.problem_type == "multi_label_classification" or config.num_labels == 1
        self.regression = config.problem_type == "regression"
        self.max_tokens = min(max_tokens or 1 << 20, max_input_tokens(self._tokenizer, config))
        self.pad_token_id = padding_id(self._tokenizer, config)
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
        """Raise `ConfigError` if a file was replaced since it was hashed: its scores would have the wrong revision."""
        if file_signatures(self.path) != self._signatures:
            raise ConfigError(f"the model in {self.path} changed while it was loaded; retry when it is complete")

    def fixed_pad_token_id(self) -> int:
        """Return the token id that a traced graph pads with. Raise `ConfigError` where no single one is exact."""
        if self.pad_token_id is None:
            raise ConfigError("it has no padding token of its own, so only torch can compute it in batches")
        return self.pad_token_id

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize in Rust, without the GIL, and truncate on the right to `max_tokens`.

        Texts are first cut to the characters that can fit: a million characters take a second to tokenize.
        """
        max_chars = CHARS_PER_TOKEN * self.max_tokens
        cut = [text[:max_chars] for text in texts]
        if len(cut) == 1:  # not in the thread pool, where it would queue behind batches
            encodings = [self._rust.encode(cut[0], add_special_tokens=self._special_tokens)]
        else:
            encodings = self._rust.encode_batch_fast(cut, add_special_tokens=self._special_tokens)
        return [
            Encoded(encoding.ids, bool(encoding.overflowing) or len(text) > max_chars)
            for encoding, text in zip(encodings, texts, strict=True)
        ]

    def chat(self, prompt: Any, completion: Any) -> str:
        """Return prompt and completion in the model's own chat template, as TRL's RewardTrainer formats them."""
        messages = [*_messages(prompt, "user"), *_messages(completion, "assistant")]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))

    @property
    def has_chat_template(self) -> bool:
        """Return whether `chat` can be used."""
        return bool(self._tokenizer.chat_template)


def fingerprint(folder: Path, reading: str) -> str:
    """Hash all that the scores of a model depend on, except the engine. `reading` describes how texts are tokenized."""
    digest = hashlib.sha256(reading.encode())
    for path in hashed_files(folder):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def hashed_files(folder: Path) -> list[Path]:
    """Return the files that the scores of a model depend on."""
    paths = {path for pattern in HASHED_PATTERNS for path in folder.glob(pattern)}
    return sorted(path for path in paths if path.name not in UNHASHED_NAMES)


def file_signatures(folder: Path) -> list[tuple[str, int, int, int]]:
    """Return what changes when a file is replaced: name, inode, size, modification time."""
    files = [(path.name, path.stat()) for path in hashed_files(folder)]
    return [(name, file.st_ino, file.st_size, file.st_mtime_ns) for name, file in files]


def _without_clock(template: str) -> str:
    """Return the template with `strftime_now`, which transformers defines as today's date, set to a fixed date."""
    codes = "".join(f"|replace('%{code}', '{FIXED_DATE.strftime('%' + code)}')" for code in "aAbBdHIjmMpSyY")
    return f"{{%- macro strftime_now(layout) -%}}{{{{ layout{codes} }}}}{{%- endmacro -%}}{template}"


def _messages(text: Any, role: str) -> list[dict[str, Any]]:
    if isinstance(text, str):
        return [{"role": role, "content": text}]
    return [message.model_dump(exclude_unset=True) for message in text]
