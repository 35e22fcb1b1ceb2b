"""Torch with transformers. In float32 it is the reference that all other engines are compared with."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from reward_service.backends import bert_packed
from reward_service.backends.base import Logits, Tokens
from reward_service.backends.collate import collator_for
from reward_service.backends.model_folder import ModelFolder
from reward_service.errors import ConfigError, translating
from shared.model_store import bert_cls_only
from shared.model_store.progress import quiet_transformers


class TorchBackend:
    """A model in torch, in `float32` or `bfloat16`, on a GPU if torch finds one."""

    numeric_settings: Sequence[float | str] = ()

    def __init__(self, folder: ModelFolder, dtype: str) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = load(folder, dtype).to(self._device)
        self._inputs, self._forward = forward_for(self._model)
        self._collator = collator_for(self._inputs, folder.pad_token_id)
        self.padding_cost = self._collator.padding_cost

    @torch.inference_mode()
    def forward(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Run one forward pass."""
        arrays = self._collator.collate(batch)
        tensors = (torch.from_numpy(arrays[name]).to(self._device) for name in self._inputs)
        logits = self._forward(*tensors)  # (texts, labels)
        return logits.float().tolist()


def load(folder: ModelFolder, dtype: str = "float32") -> Any:
    """Load the weights for inference. Raise `ConfigError` if some are missing: they would be random."""
    with quiet_transformers(), translating(ConfigError, f"cannot load the model in {folder.path}"):
        model, loading_info = AutoModelForSequenceClassification.from_pretrained(
            folder.path,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    if missing := sorted(map(str, {*loading_info["missing_keys"], *loading_info["mismatched_keys"]})):
        raise ConfigError(
            f"the weights in {folder.path} have no {missing[0]}, which {type(model).__name__} scores with: use a "
            f"model that was trained to classify or to score, not its base model"
        )
    model.config.pad_token_id = folder.pad_token_id  # a decoder scores the last token before the padding
    return model.eval()


def forward_for(model: Any) -> tuple[Sequence[str], Callable[..., torch.Tensor]]:
    """Return the cheapest forward function with the model's own logits, and the names of its inputs."""
    if bert_cls_only.supports(model):
        return ("ids", "positions", "gather_index", "mask", "scatter_index"), partial(bert_packed.forward, model)
    return ("ids", "mask"), lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits
