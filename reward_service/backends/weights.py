"""Load a model's weights as transformers computes with them, complete and with nothing left over.

In: a model folder. Out: a torch module that maps (ids, mask), both (texts, longest), to `.logits`, (texts, labels), or
(texts, features) where the texts are embedded.
Weights that are missing would be random, and weights that are left over may have been part of the score: both raise
`ConfigError`.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
)

from reward_service.backends.embedder import Embedder, at_last_token, load_layers
from reward_service.backends.heads import (
    VALUE_BIAS,
    VALUE_HEAD_FILE,
    VALUE_WEIGHT,
    WRAPPER_NAMES,
    Head,
    has_wrapper_names,
    unexpected_weights,
    weight_names,
)
from reward_service.backends.model_config import cannot_load
from reward_service.backends.model_folder import ModelFolder
from reward_service.errors import ConfigError, translating
from shared.model_store.progress import quiet_transformers

AUTO_CLASSES = {
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "value": AutoModel,
    "embedding": AutoModel,
}
ENCODERS_ALONE = {"t5", "mt5", "umt5"}
"""Encoder-decoders whose encoder makes embeddings: `AutoModel` would want a decoder's input, too."""


class LastToken(nn.Module):
    """A token classifier with one label, read at each text's last token: how AReaL saves a scalar reward model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Any:
        """Return the logits, (texts, 1)."""
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask, **inputs).logits
        return SimpleNamespace(logits=at_last_token(logits, attention_mask))


class ValueHead(nn.Module):
    """A language model with a linear value head at the last token, as TRL, LLaMA-Factory and ms-swift save it."""

    def __init__(self, model: Any, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.summary = nn.Linear(weight.shape[1], weight.shape[0])
        self.summary.weight.data, self.summary.bias.data = weight, bias

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Any:
        """Return the values, (texts, 1)."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        last = at_last_token(hidden, attention_mask)  # (texts, hidden)
        return SimpleNamespace(logits=self.summary(last.to(self.summary.weight.dtype)))


def load(folder: ModelFolder, dtype: str = "float32") -> Any:
    """Return the model, ready to compute with. Raise `ConfigError` unless it computes with all weights there are."""
    head = folder.head
    wrapped = has_wrapper_names(weight_names(folder.path))
    encoder_alone = head.kind == "embedding" and folder.config.model_type in ENCODERS_ALONE
    auto_class = AutoModelForTextEncoding if encoder_alone else AUTO_CLASSES[head.kind]
    with quiet_transformers(), translating(ConfigError, cannot_load(folder.path)):
        model, report = auto_class.from_pretrained(
            folder.path,
            config=folder.config,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below
            key_mapping=WRAPPER_NAMES if wrapped else None,
        )
    _check_weights(folder.path, model, head, report)
    return _with_head(model, folder).eval()


def _with_head(model: Any, folder: ModelFolder) -> Any:
    head, path = folder.head, folder.path
    if head.kind == "token":
        return LastToken(model)
    if head.kind == "value":
        weight, bias = read_value_head(path, model.config.get_text_config().hidden_size)
        return ValueHead(model, weight, bias)
    if folder.sentence:
        layers = load_layers(path, folder.sentence, model.config.get_text_config().hidden_size)
        return Embedder(model, folder.sentence.pooling, layers)
    return model


def _check_weights(path: Path, model: Any, head: Head, report: dict[str, Any]) -> None:
    name = type(model).__name__
    has_own_head = head.kind in ("sequence", "token")
    if has_own_head and head.class_name not in ("", name):
        raise ConfigError(
            f"{path} was saved as {head.class_name}, but the model_type of its config.json is that of {name}: correct "
            f"model_type or architectures there"
        )
    if mismatched := sorted(report["mismatched_keys"]):
        key, saved, expected = mismatched[0]
        raise ConfigError(
            f"the weights in {path} have {key} with the shape {tuple(saved)}, and its config.json says "
            f"{tuple(expected)}: correct config.json; of a head, id2label has to list each output"
        )
    missing = sorted(report["missing_keys"])
    if not has_own_head:  # nothing computes with the pooler, where the class has one
        missing = [key for key in missing if not key.startswith("pooler.")]
    if missing:
        in_body = missing[0].startswith(f"{model.base_model_prefix}.") or not has_own_head
        hint = "use a model whose head was trained, not the one that it was made from"
        raise ConfigError(
            f"the weights in {path} have no {missing[0]}, which {name} computes the score with: it would be random; "
            + ("correct config.json, or save the whole model there again" if in_body else hint)
        )
    if extra := unexpected_weights(report["unexpected_keys"]):
        raise ConfigError(
            f"the weights in {path} have {extra[0]}, which {name} does not compute with: the score would be another "
            f"than the one that the model was trained to give; use a model that transformers computes with as it is"
        )


def read_value_head(folder: Path, hidden_size: int) -> tuple[Tensor, Tensor]:
    """Return weight (1, hidden) and bias (1,) of a value head file. Raise `ConfigError` for another layout."""
    file = folder / VALUE_HEAD_FILE
    with translating(ConfigError, f"cannot read {file}"):
        tensors = load_file(file)
    weight, bias = tensors.pop(VALUE_WEIGHT, None), tensors.pop(VALUE_BIAS, None)
    if weight is None or bias is None or tensors or weight.shape != (1, hidden_size) or bias.shape != (1,):
        raise ConfigError(
            f"{file} is no value head of one linear layer: it needs {VALUE_WEIGHT} (1, {hidden_size}) and {VALUE_BIAS} "
            f"(1,) and nothing else"
        )
    return weight.float(), bias.float()
