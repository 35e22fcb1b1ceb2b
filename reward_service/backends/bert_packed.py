"""Run a BERT classifier on packed tokens: only attention computes padding, and the last layer only the CLS token.

In: the tensors of `collate.packed`. Out: the model's own logits. MosaicBERT removes padding in the same way (Portes et
al., NeurIPS 2023).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from shared.model_store import bert_cls_only


def forward(
    model: Any, ids: Tensor, positions: Tensor, gather_index: Tensor, mask: Tensor, scatter_index: Tensor
) -> Tensor:
    """Return the logits, (texts, labels)."""
    token_types = torch.zeros_like(ids)
    hidden = model.bert.embeddings(ids[None], token_types[None], positions[None])[0]  # (tokens, features)
    bias = bert_cls_only.attention_bias(mask, hidden.dtype)  # (texts, 1, 1, longest)
    *lower, last = model.bert.encoder.layer
    for layer in lower:
        hidden = _layer(layer, hidden, gather_index, bias, scatter_index)
    return bert_cls_only.cls_logits(model, last, hidden[gather_index], bias)


def _layer(layer: Any, hidden: Tensor, gather_index: Tensor, bias: Tensor, scatter_index: Tensor) -> Tensor:
    """Run one BERT layer: products on (tokens, features), attention on (texts, heads, longest, features)."""
    attention = layer.attention.self
    projections = (attention.query, attention.key, attention.value)
    query, key, value = (bert_cls_only.split_heads(attention, project(hidden)[gather_index]) for project in projections)
    context = scaled_dot_product_attention(query, key, value, attn_mask=bias)
    packed = context.transpose(1, 2).flatten(2).flatten(0, 1)[scatter_index]  # (tokens, features)
    attended = layer.attention.output(packed, hidden)
    return layer.output(layer.intermediate(attended), attended)  # type: ignore[no-any-return]
