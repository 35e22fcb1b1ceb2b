"""A model's folder, a classifier's or an encoder's: tokenizer, labels, limits, fingerprint. Loads no weights."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_service.backends.base import Encoded, ModelInput
from reward_service.backends.chat_template import ChatTemplate, SystemTurns
from reward_service.backends.heads import check_weights, read_encoder, read_head, weight_files
from reward_service.backends.model_config import (
    embeddings_to_check,
    end_token_id,
    longest_text_decides,
    output_labels,
    padding_id,
    read_config,
    read_tokenizer,
)
from reward_service.backends.sentence_config import module_folders, read_sentence_config
from reward_service.backends.text_encoder import CHARS_PER_TOKEN, TextEncoder, Truncate
from reward_service.errors import ConfigError, RewardServiceError
from reward_service.specs import Pooling
from shared.input_length import max_input_tokens

HASHED_PATTERNS = (
    *("*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.codes", "*.jinja"),
    "additional_chat_templates/*.jinja",
)
UNHASHED_NAMES = {"metrics.json", "generation_config.json", "training_args.json", "trainer_state.json"}

MAX_SPECIAL_TOKENS = 6
"""Special tokens that the probe of a model tries."""


class ModelFolder:
    """Tokenizer, labels and limits of a model; safetensors only, and no code from the folder.

    With `embed` the model makes an embedding of a text; `pooling` takes the place of the folder's own.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_tokens: int | None = None,
        special_tokens: bool = True,
        pairs: bool = False,
        truncate: Truncate | None = None,
        system: SystemTurns = "keep",
        template_args: Mapping[str, Any] | None = None,
        embed: bool = False,
        pooling: Pooling | None = None,
    ) -> None:
        check_weights(path)
        self._folders = [path, *(module_folders(path) if embed else ())]
        self._signatures = file_signatures(*self._folders)  # read first: what is read must be what is hashed
        self.sentence = sentence = read_sentence_config(path, pooling) if embed else None
        self.head = read_encoder(path) if embed else read_head(path)
        self.config = config = read_config(path)
        self._tokenizer = read_tokenizer(path, config)
        self.path = path
        self.labels: Sequence[str] = [] if embed else ["value"] if self.head.kind == "value" else output_labels(config)
        self.multi_label = config.problem_type == "multi_label_classification" or len(self.labels) == 1
        self.regression = config.problem_type == "regression"
        limit_tokens = max_tokens or (sentence and sentence.max_tokens) or 1 << 20
        self.max_tokens = min(limit_tokens, max_input_tokens(self._tokenizer, config))
        self.pad_token_id = padding_id(self._tokenizer, config)
        self.end_token_id = None if embed else end_token_id(config)
        self.longest_text_decides = longest_text_decides(config, self.max_tokens)
        self.end_token: str = self._tokenizer.eos_token or ""
        side = truncate or self._tokenizer.truncation_side
        self.template: ChatTemplate | None = None
        if self._tokenizer.chat_template:
            self.template = ChatTemplate(self._tokenizer, system=system, arguments=template_args or {})
        reading = f"{self.max_tokens} tokens, {CHARS_PER_TOKEN} characters each, special tokens {special_tokens}"
        reading += f", pairs {pairs}, cut {side}{self.template.reading if self.template else ''}"
        reading += f", {sentence}" if sentence else ""
        self.fingerprint = fingerprint(reading, *self._folders)
        self.encoder = TextEncoder(
            self._tokenizer,
            max_tokens=self.max_tokens,
            special_tokens=special_tokens,
            truncate=side,
            embeddings=embeddings_to_check(path, self._tokenizer, config),
        )
        self.gives_types = "token_type_ids" in self._tokenizer.model_input_names
        differs_without = config.model_type == "xlnet" and self.gives_types  # types of 0 are not the same as none
        self.uses_types = self.encoder.has_types or (pairs and self.encoder.has_pair_types) or differs_without
        self.special_token_texts: Sequence[str] = self._tokenizer.all_special_tokens[:MAX_SPECIAL_TOKENS]

    @property
    def outputs(self) -> int:
        """Return the number of outputs for a text: of labels, or of an embedding's features before any Dense layer."""
        return len(self.labels) or int(self.config.get_text_config().hidden_size)

    @property
    def embeds(self) -> bool:
        """Return whether a text's outputs are its embedding."""
        return self.sentence is not None

    @property
    def weights_bytes(self) -> int:
        """Return the size of the weights."""
        return sum(file.stat().st_size for file in weight_files(self.path))

    def check_unchanged(self) -> None:
        """Raise `ConfigError` if a file was replaced since it was hashed: its scores would have the wrong revision."""
        if file_signatures(*self._folders) != self._signatures:
            raise ConfigError(f"the model in {self.path} changed while it was loaded; retry when it is complete")

    def fixed_pad_token_id(self) -> int:
        """Return the token id that a traced graph pads with. Raise `ConfigError` where no single one is exact."""
        if self.pad_token_id is None:
            raise ConfigError("it has no padding token of its own, so that only torch is exact: choose backend: torch")
        return self.pad_token_id

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Return how the tokenizer writes each token."""
        return [str(token) for token in self._tokenizer.convert_ids_to_tokens(list(token_ids))]

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize texts, cut to the limit. Raise the `RewardServiceError` of one that has no tokens."""
        encoded: list[Encoded] = []
        for item in self.encoder.encode([ModelInput(text) for text in texts]):
            if isinstance(item, RewardServiceError):
                raise item
            encoded.append(item)
        return encoded


def fingerprint(reading: str, *folders: Path) -> str:
    """Hash all that the scores of a model depend on, except the engine. `reading` describes how texts are tokenized."""
    digest = hashlib.sha256(reading.encode())
    for path in hashed_files(*folders):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def hashed_files(*folders: Path) -> list[Path]:
    """Return the files that the scores of a model depend on."""
    paths = {path for folder in folders for pattern in HASHED_PATTERNS for path in folder.glob(pattern)}
    return sorted(path for path in paths if path.name not in UNHASHED_NAMES)


def file_signatures(*folders: Path) -> list[tuple[str, int, int, int]]:
    """Return what changes when a file is replaced: name, inode, size, modification time."""
    files = [(path.name, path.stat()) for path in hashed_files(*folders)]
    return [(name, file.st_ino, file.st_size, file.st_mtime_ns) for name, file in files]
