"""Run a BERT classifier for less: its last layer serves only the first token, because nothing else is read.

Enters: a `BertForSequenceClassification`, ids and mask. Leave: its own logits, for a seventh less work at six layers.
All rows of the last layer but one are computed in vain otherwise; keys and values are still made of every token.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import BertForSequenceClassification


def applies_to(model: Any) -> bool:
    """Tell whether a model reads nothing but the first token of a plain BERT encoder."""
    plain = getattr(model.config, "position_embedding_type", "absolute") == "absolute"
    return type(model) is BertForSequenceClassification and plain and not model.config.is_decoder


def forward(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Give the logits, (batch, labels), of `ids` and `mask`, (batch, tokens), as the whole model would."""
    hidden = model.bert.embeddings(ids)  # (batch, tokens, features)
    blind = (1.0 - mask[:, None, None, :].to(hidden.dtype)) * torch.finfo(hidden.dtype).min
    *lower, last = model.bert.encoder.layer
    for layer in lower:
        hidden = layer(hidden, blind.expand(-1, 1, ids.shape[1], -1))
    first = _first_token(last, hidden, blind)  # (batch, 1, features)
    return model.classifier(model.bert.pooler(first))  # type: ignore[no-any-return]


def _first_token(layer: Any, hidden: Tensor, blind: Tensor) -> Tensor:
    """Run one BERT layer with the first token as the only query."""
    attention = layer.attention.self

    def heads(rows: Any) -> Any:
        return rows.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)

    query, key, value = attention.query(hidden[:, :1]), attention.key(hidden), attention.value(hidden)
    context = scaled_dot_product_attention(heads(query), heads(key), heads(value), attn_mask=blind)
    seen = layer.attention.output(context.transpose(1, 2).flatten(2), hidden[:, :1])
    return layer.output(layer.intermediate(seen), seen)  # type: ignore[no-any-return]
