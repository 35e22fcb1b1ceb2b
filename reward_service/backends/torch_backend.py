"""Torch with transformers. In float32 it is the reference that all other engines are compared with."""

import inspect
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from reward_service.backends import bert_packed
from reward_service.backends.base import Logits, Tokens
from reward_service.backends.collate import absent_id, collator_for
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.weights import load
from shared.model_store import bert_cls_only


class TorchBackend:
    """A model in torch, in `float32`, `bfloat16` or `float16`, on a GPU if torch finds one."""

    numeric_settings: Sequence[float | str] = ()

    def __init__(self, folder: ModelFolder, dtype: str) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = load(folder, dtype).to(self._device)
        self._inputs, self._forward = forward_for(self._model, types=folder.uses_types)
        self._collator = collator_for(self._inputs)
        self._text_config, self._pad_token_id = self._model.config.get_text_config(), folder.pad_token_id
        self._types_alone = folder.uses_types or (folder.gives_types and takes_types(self._model))
        self._saved_pad_token_id = self._text_config.pad_token_id
        self._restore = restorer(self._model)
        self.padding_cost = self._collator.padding_cost

    @torch.inference_mode()
    def forward(self, batch: Sequence[Tokens]) -> list[Logits]:
        """Run one forward pass."""
        pad_token_id = self._pad_token_id
        if pad_token_id is None:
            pad_token_id = absent_id(batch, self._text_config.vocab_size)
        self._text_config.pad_token_id = pad_token_id  # a decoder's head reads the last token that is another
        self._restore()
        arrays = self._collator.collate(batch, pad_token_id)
        tensors = (torch.from_numpy(arrays[name]).to(self._device) for name in self._inputs)
        logits = self._forward(*tensors)  # (texts, labels)
        return logits.float().tolist()

    @torch.inference_mode()
    def alone(self, tokens: Tokens) -> Logits:
        """Return one text's logits as transformers computes them, with the configuration as it was saved."""
        self._text_config.pad_token_id = self._saved_pad_token_id
        self._restore()
        inputs, forward = plain_forward(self._model, types=self._types_alone)
        arrays = collator_for(inputs).collate([tokens], 0)
        logits = forward(*(torch.from_numpy(arrays[name]).to(self._device) for name in inputs))
        return logits[0].float().tolist()


def forward_for(model: Any, *, types: bool = False) -> tuple[Sequence[str], Callable[..., torch.Tensor]]:
    """Return the cheapest forward function with the model's own logits, and the names of its inputs.

    `types` says that the inputs have token types, as sentence pairs do.
    """
    if bert_cls_only.supports(model) and not types:
        return ("ids", "positions", "gather_index", "mask", "scatter_index"), partial(bert_packed.forward, model)
    return plain_forward(model, types=types)


def plain_forward(model: Any, *, types: bool) -> tuple[Sequence[str], Callable[..., torch.Tensor]]:
    """Return the model's own forward function, and the names of its inputs."""
    if types:
        return (
            "ids",
            "mask",
            "types",
        ), lambda ids, mask, types: model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
    return ("ids", "mask"), lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits


def takes_types(model: Any) -> bool:
    """Return whether a model's forward function has an argument for token types."""
    return "token_type_ids" in inspect.signature(model.forward).parameters


def restorer(model: Any) -> Callable[[], None]:
    """Return a function that undoes what a forward pass changes for good: BigBird's attention after a short text."""
    saved = [
        (module, module.attention_type)
        for module in model.modules()
        if hasattr(module, "set_attention_type") and hasattr(module, "attention_type")
    ]

    for module, _ in saved:  # it would warn of each short text
        logging.getLogger(type(module).__module__).setLevel(logging.ERROR)

    def restore() -> None:
        for module, attention_type in saved:
            module.set_attention_type(attention_type)

    return restore
