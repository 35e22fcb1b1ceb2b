"""Compute with transformers and torch. In float32 it is the reference that all others are held against."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from reward_service.backends.base import Logits, Tokens, padded
from reward_service.backends.model_folder import ModelFolder
from reward_service.errors import ConfigError, raising
from shared.models import first_token
from shared.models.quiet import quiet


class TorchBackend:
    """A model in torch, in `float32` or `bfloat16`, on a GPU where torch sees one."""

    def __init__(self, folder: ModelFolder, dtype: str) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = load(folder, dtype).to(self._device)
        self._forward = forward_of(self._model)
        self._pad_id = folder.pad_id

    @torch.inference_mode()
    def score(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Pad to the longest and run one forward pass."""
        ids, mask = map(torch.from_numpy, padded(batch, self._pad_id))  # (texts, tokens)
        logits = self._forward(ids.to(self._device), mask.to(self._device))  # (texts, labels)
        return logits.float().tolist()


def load(folder: ModelFolder, dtype: str = "float32") -> Any:
    """Load the weights, ready to compute with."""
    with quiet(), raising(ConfigError, f"cannot load the model in {folder.path}"):
        model = AutoModelForSequenceClassification.from_pretrained(
            folder.path, dtype=getattr(torch, dtype), trust_remote_code=False, use_safetensors=True
        )
    model.config.pad_token_id = folder.pad_id  # a decoder's score is that of the last token before the padding
    return model.eval()


def forward_of(model: Any) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Give the function from ids and mask to logits that does the least work for the same result."""
    if first_token.applies_to(model):
        return lambda ids, mask: first_token.forward(model, ids, mask)
    return lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits
