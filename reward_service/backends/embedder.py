"""Make one vector of a text's token embeddings: the pooling and the layers after it, as sentence-transformers does.

In: an encoder of transformers. Out: a module like those with a head: ids and mask, both (texts, longest), to `.logits`,
(texts, features), which are the embedding.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from reward_service.backends.sentence_config import Normalize, SentenceConfig
from reward_service.errors import ConfigError, translating
from reward_service.specs import Pooling

DENSE_FILE = "model.safetensors"


class Embedder(nn.Module):
    """An encoder whose token embeddings become one vector, of mean square 1: the cosine does not depend on its length.

    So its numbers have the size of logits, and the tolerances of the probe apply.
    """

    def __init__(self, encoder: Any, pooling: Pooling, layers: nn.Sequential) -> None:
        super().__init__()
        self.encoder, self.config, self.layers = encoder, encoder.config, layers
        self._pool = POOLINGS[pooling]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Any:
        """Return the embeddings, (texts, features), in float32 whatever the encoder's precision."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        vectors = self.layers(self._pool(hidden.float(), attention_mask))
        return SimpleNamespace(logits=functional.normalize(vectors, dim=-1) * vectors.shape[-1] ** 0.5)


class UnitLength(nn.Module):
    """Scales vectors, (texts, features), to unit length."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the scaled vectors."""
        return functional.normalize(vectors, dim=-1)


def at_last_token(values: Tensor, mask: Tensor) -> Tensor:
    """Return each text's row at its last token: (texts, longest, n) to (texts, n)."""
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (places * (mask != 0)).argmax(-1)
    return values[torch.arange(len(values), device=values.device), last]


def at_first_token(values: Tensor, mask: Tensor) -> Tensor:
    """Return each text's row at its first token: batches are padded on the right."""
    return values[:, 0]


def mean_of_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of each text's rows."""
    weights = mask[:, :, None].to(values.dtype)  # (texts, longest, 1)
    return (values * weights).sum(1) / weights.sum(1)


POOLINGS: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean_of_tokens,
    "cls": at_first_token,
    "last": at_last_token,
}


def load_layers(folder: Path, sentence: SentenceConfig, features: int) -> nn.Sequential:
    """Return the layers after the pooling, whose output has `features` numbers. Raise `ConfigError`."""
    modules: list[nn.Module] = []
    for layer in sentence.layers:
        if isinstance(layer, Normalize):
            modules.append(UnitLength())
        else:
            linear = _load_linear(folder / layer.folder / DENSE_FILE, features)
            modules += [linear, getattr(nn, layer.activation)()]
            features = linear.out_features
    return nn.Sequential(*modules)


def _load_linear(file: Path, features: int) -> nn.Linear:
    if not file.exists():
        raise ConfigError(
            f"there is no {file}: the weights of a Dense layer have to be safetensors; where they are pickled, convert "
            f"them once: reward-service convert {file.parent.parent} OUT"
        )
    with translating(ConfigError, f"cannot read the Dense layer in {file}"):
        tensors = load_file(file)
    weight, bias = tensors.pop("linear.weight", None), tensors.pop("linear.bias", None)
    if weight is None or tensors or weight.dim() != 2 or weight.shape[1] != features:
        raise ConfigError(f"{file} is no linear layer of {features} inputs: it needs linear.weight and nothing else")
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight.data = weight.float()
    if bias is not None:
        linear.bias.data = bias.float()
    return linear
