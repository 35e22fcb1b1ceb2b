"""Sequence-classification models with transformers and torch: the reference the other backends are held against."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward_service.backends.base import Encoded, Logits, Tokens
from reward_service.errors import ConfigError, raising

HASHED = ("*.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "*.jinja")


class TorchBackend:
    """A model folder, loaded whole; safetensors only, and no code from the folder."""

    def __init__(self, folder: Path, *, dtype: str = "float32", max_tokens: int | None = None) -> None:
        if not any(folder.glob("*.safetensors")):
            raise ConfigError(
                f"{folder} holds no .safetensors weights; pickled weights can run code, so convert them with "
                f"`AutoModel….from_pretrained(…).save_pretrained(…)` where you trust them"
            )
        with raising(ConfigError, f"cannot load the model in {folder}"):
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True
            )
        self._model = model.eval()
        config = model.config
        self.labels: Sequence[str] = [config.id2label[index] for index in range(config.num_labels)]
        self.multi_label = config.problem_type == "multi_label_classification" or config.num_labels == 1
        self.max_tokens = min(max_tokens or 1 << 20, readable_tokens(self._tokenizer, config))
        self.fingerprint = fingerprint(folder, f"torch {dtype} {self.max_tokens}")
        self._pad = self._tokenizer.pad_token_id or 0
        self._rust = self._tokenizer.backend_tokenizer
        self._rust.no_padding()
        self._rust.enable_truncation(self.max_tokens)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize in Rust, outside the interpreter's lock; cut on the right what the model cannot read."""
        encodings = self._rust.encode_batch_fast(list(texts), add_special_tokens=True)
        return [Encoded(encoding.ids, bool(encoding.overflowing)) for encoding in encodings]

    def chat(self, prompt: Any, completion: Any) -> str:
        """Lay out prompt and completion in the model's own chat template, as TRL's RewardTrainer does."""
        messages = [*_messages(prompt, "user"), *_messages(completion, "assistant")]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))

    @property
    def has_chat_template(self) -> bool:
        """Tell whether `chat` can be used."""
        return bool(self._tokenizer.chat_template)

    @torch.inference_mode()
    def score(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Pad to the longest and run one forward pass."""
        longest = max(map(len, batch))
        ids = torch.full((len(batch), longest), self._pad, dtype=torch.long)  # (batch, tokens)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        logits = self._model(input_ids=ids, attention_mask=mask).logits  # (batch, labels)
        return logits.float().tolist()  # type: ignore[no-any-return]


def readable_tokens(tokenizer: Any, config: Any) -> int:
    """Give how many tokens a model can read: its positions, or less if its tokenizer says so."""
    positions = getattr(config, "max_position_embeddings", None) or 1 << 20
    if config.model_type in {"roberta", "xlm-roberta", "camembert"}:
        positions -= 2  # these count positions from the padding index on
    return int(min(positions, tokenizer.model_max_length))


def fingerprint(folder: Path, precision: str) -> str:
    """Hash all that the scores of a model depend on."""
    digest = hashlib.sha256(precision.encode())
    for path in sorted({path for pattern in HASHED for path in folder.glob(pattern)}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _messages(text: Any, role: str) -> list[dict[str, Any]]:
    if isinstance(text, str):
        return [{"role": role, "content": text}]
    return [message.model_dump(exclude_unset=True) for message in text]
