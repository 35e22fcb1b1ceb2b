"""Run a BERT classifier on packed tokens: nothing but attention computes padding, and the last layer serves one token.

In: what `layout.packed` gives, as tensors. Out: the model's own logits. So is padding taken out of MosaicBERT (Portes
et al., NeurIPS 2023).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from shared.model_store import bert_cls_only


def forward(
    model: Any, ids: Tensor, positions: Tensor, gather_index: Tensor, mask: Tensor, scatter_index: Tensor
) -> Tensor:
    """Give the logits, (texts, labels)."""
    one_type = torch.zeros_like(ids)
    hidden = model.bert.embeddings(ids[None], one_type[None], positions[None])[0]  # (tokens, features)
    attention_bias = bert_cls_only.attention_bias(mask, hidden.dtype)  # (texts, 1, 1, longest)
    *lower, last = model.bert.encoder.layer
    for layer in lower:
        hidden = _layer(layer, hidden, gather_index, attention_bias, scatter_index)
    return bert_cls_only.cls_logits(model, last, hidden[gather_index], attention_bias)


def _layer(layer: Any, hidden: Tensor, gather_index: Tensor, attention_bias: Tensor, scatter_index: Tensor) -> Tensor:
    """Run one BERT layer: products on (tokens, features), attention on (texts, heads, longest, features)."""
    attention = layer.attention.self
    projections = (attention.query, attention.key, attention.value)
    query, key, value = (bert_cls_only.split_heads(attention, project(hidden)[gather_index]) for project in projections)
    context = scaled_dot_product_attention(query, key, value, attn_mask=attention_bias)
    seen = layer.attention.output(context.transpose(1, 2).flatten(2).flatten(0, 1)[scatter_index], hidden)
    return layer.output(layer.intermediate(seen), seen)  # type: ignore[no-any-return]
