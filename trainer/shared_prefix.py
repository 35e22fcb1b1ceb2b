"""Compute what all rows of a batch begin with once: the system prompt and the examples are most of a prompt.

A decoder that shares its prefix has the outputs, gradients and cache that it has without: each row attends to the same
keys and values, computed once and repeated.
"""

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

MIN_PREFIX_TOKENS = 8
"""A shorter shared prefix is not worth a forward pass of its own."""
INPUTS = {"input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache"}
"""Inputs of a decoder that prefixes are shared with; with any other it computes each row."""
ATTENTION = {"sdpa", "eager"}
"""Implementations of attention that take any mask."""
FIXED_ROPE = {"default", "linear", "llama3", "yarn"}
"""Rotary embeddings that do not depend on the length of the row."""


@dataclass(frozen=True)
class Rows:
    """Where the tokens of a padded batch are."""

    starts: Tensor
    """(batch,): the column of each row's first token."""
    length: int
    """Tokens of the prefix."""
    columns: int

    @property
    def first_column(self) -> int:
        """Return the first column that holds a token after the prefix."""
        return int(self.starts.min()) + self.length

    def positions(self) -> Tensor:
        """Return the position of each column in its row, (batch, columns); 0 for padding before it."""
        return (torch.arange(self.columns, device=self.starts.device) - self.starts[:, None]).clamp(min=0)

    def layout(self) -> Tensor:
        """Return for each column, (batch, columns), its index in prefix and remaining columns put together."""
        columns, positions = torch.arange(self.columns, device=self.starts.device), self.positions()
        after = self.length + (columns - self.first_column).clamp(min=0)
        return torch.where(positions < self.length, positions, after)


def share_prefix(model: PreTrainedModel) -> None:
    """Make a causal language model compute the tokens that all rows of a batch begin with once.

    Does nothing where the architecture does not allow it. Other arguments of the forward pass, gradient checkpointing
    and dropout turn it off for that pass.
    """
    if not allows_prefix(model):
        return
    decoder = model.base_model
    plain = type(decoder).forward

    @functools.wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        rows = None if args else shared_rows(self, kwargs)
        return plain(self, *args, **kwargs) if rows is None else forward_with_prefix(self, rows, **_inputs(kwargs))

    decoder.forward = MethodType(forward, decoder)  # a bound method, so that a copy of the model binds its own


def compute_each_row(model: PreTrainedModel) -> None:
    """Undo `share_prefix`."""
    vars(model.base_model).pop("forward", None)


def allows_prefix(model: PreTrainedModel) -> bool:
    """Return whether padding may stand between the shared prefix and the rest of a prompt.

    It may where positions are an input (not those of ALiBi, which are distances in the padded row) and each layer's
    cache is the keys and values of all positions (no sliding window, no recurrent state).
    """
    decoder, config = model.base_model, model.config
    if decoder is model or config.get_text_config() is not config:  # no decoder of its own, or one of images, too
        return False
    if "position_ids" not in inspect.signature(decoder.forward).parameters or getattr(config, "alibi", False):
        return False
    if not all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers):
        return False
    return (rope := rope_type(model)) is None or rope in FIXED_ROPE


def rope_type(model: nn.Module) -> str | None:
    """Return the kind of a model's rotary embeddings, None without them."""
    parameters = getattr(model.config, "rope_parameters", None)
    return str(parameters.get("rope_type", "default")) if parameters else None


def shared_rows(decoder: nn.Module, inputs: dict[str, Any]) -> Rows | None:
    """Return the rows of a batch that share a prefix which may be computed once; None if there is none."""
    given = {name for name, value in inputs.items() if value is not None}
    if not {"input_ids", "attention_mask"} <= given <= INPUTS or not _is_plain(decoder, inputs.get("past_key_values")):
        return None
    ids, mask = inputs["input_ids"], inputs["attention_mask"].long()
    if mask.shape != ids.shape or len(ids) == 1:
        return None
    starts, lengths = mask.argmax(dim=1), mask.sum(dim=1)
    texts = [row[start : start + length] for row, start, length in zip(ids.tolist(), starts, lengths, strict=True)]
    rows = Rows(starts, shared_length(texts), ids.shape[1])
    positions = rows.positions()
    is_token = (positions < lengths[:, None]) & (torch.arange(rows.columns, device=ids.device) >= starts[:, None])
    if rows.length < MIN_PREFIX_TOKENS or not torch.equal(is_token, mask.bool()):
        return None
    if inputs.get("position_ids") is None:  # then a decoder counts columns, which only rotary embeddings allow
        return rows if rope_type(decoder) or not starts.any() else None
    return rows if torch.equal(inputs["position_ids"].expand_as(ids)[is_token], positions[is_token]) else None


def _inputs(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name in INPUTS}


def _is_plain(decoder: nn.Module, cache: Any) -> bool:
    """Return whether a forward pass starts from nothing and depends on its inputs alone."""
    if cache is not None and (type(cache) is not DynamicCache or cache.get_seq_length()):
        return False
    if getattr(decoder.config, "_attn_implementation", None) not in ATTENTION:
        return False
    return not (decoder.training and (_is_checkpointing(decoder) or _has_dropout(decoder)))


def _is_checkpointing(decoder: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in decoder.modules())


def _has_dropout(decoder: nn.Module) -> bool:
    attention = getattr(decoder.config, "attention_dropout", 0.0)
    return bool(attention) or any(module.p for module in decoder.modules() if isinstance(module, nn.Dropout))


def forward_with_prefix(
    decoder: nn.Module,
    rows: Rows,
    *,
    input_ids: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor | None = None,
    past_key_values: DynamicCache | None = None,
    use_cache: bool | None = None,
) -> Any:
    """Compute the prefix of the first row, then what follows it in each row, and put both together for each."""
    plain, first, batch = type(decoder).forward, int(rows.starts[0]), len(input_ids)
    cache = DynamicCache(config=decoder.config)
    prefix = plain(
        decoder, input_ids=input_ids[:1, first : first + rows.length], past_key_values=cache, use_cache=True
    ).last_hidden_state
    cache.batch_repeat_interleave(batch)
    positions = rows.positions()
    follows = attention_mask * (positions >= rows.length)  # without the columns that hold a part of the prefix
    outputs = plain(
        decoder,
        input_ids=input_ids[:, rows.first_column :],
        attention_mask=torch.cat([follows.new_ones(batch, rows.length), follows[:, rows.first_column :]], dim=1),
        position_ids=positions[:, rows.first_column :],
        past_key_values=cache,
        use_cache=True,
    )
    layout = rows.layout()
    hidden = torch.cat([prefix.expand(batch, -1, -1), outputs.last_hidden_state], dim=1)
    outputs.last_hidden_state = hidden.gather(1, layout[..., None].expand(-1, -1, hidden.shape[-1]))
    outputs.past_key_values = _in_columns(cache, layout, past_key_values) if use_cache else None
    return outputs


def _in_columns(cache: DynamicCache, layout: Tensor, target: DynamicCache | None) -> DynamicCache:
    """Fill a cache with keys and values in the columns of the padded batch."""
    target = DynamicCache() if target is None else target
    for index, layer in enumerate(cache.layers):
        keys, values = (
            states.gather(2, layout[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))
            for states in (layer.keys, layer.values)
        )
        target.update(keys, values, index)
    return target


def shared_length(rows: Sequence[list[int]]) -> int:
    """Return the number of tokens that all rows begin with; at least one token of each row is left over."""
    first, last = min(rows), max(rows)
    pairs = zip(first[:-1], last[:-1], strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(row) for row in rows) - 1)
