"""Run a BERT classifier on packed tokens: nothing but attention computes padding, and the last layer serves one token.

In: what `layout.packed` gives, as tensors. Out: the model's own logits. So is padding taken out of MosaicBERT (Portes
et al., NeurIPS 2023).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from shared.model_store import bert_cls_only


def forward(model: Any, ids: Tensor, positions: Tensor, rows: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    """Give the logits, (texts, labels)."""
    one_type = torch.zeros_like(ids)
    hidden = model.bert.embeddings(ids[None], one_type[None], positions[None])[0]  # (tokens, features)
    blind = bert_cls_only.blind(mask, hidden.dtype)  # (texts, 1, 1, longest)
    *lower, last = model.bert.encoder.layer
    for layer in lower:
        hidden = _layer(layer, hidden, rows, blind, places)
    return bert_cls_only.logits(model, last, hidden[rows], blind)


def _layer(layer: Any, hidden: Tensor, rows: Tensor, blind: Tensor, places: Tensor) -> Tensor:
    """Run one BERT layer: products on (tokens, features), attention on (texts, heads, longest, features)."""
    attention = layer.attention.self
    projections = (attention.query, attention.key, attention.value)
    query, key, value = (bert_cls_only.heads(attention, project(hidden)[rows]) for project in projections)
    context = scaled_dot_product_attention(query, key, value, attn_mask=blind)
    seen = layer.attention.output(context.transpose(1, 2).flatten(2).flatten(0, 1)[places], hidden)
    return layer.output(layer.intermediate(seen), seen)  # type: ignore[no-any-return]
