"""Run a BERT classifier for less: its last layer serves only the first token, because nothing else is read.

Enters: a `BertForSequenceClassification`, ids and mask. Leave: its own logits, for a seventh less work at six layers.
All rows of the last layer but one are computed in vain otherwise; keys and values are still made of every token.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import BertForSequenceClassification


def supports(model: Any) -> bool:
    """Tell whether a model reads nothing but the first token of a plain BERT encoder."""
    plain = getattr(model.config, "position_embedding_type", "absolute") == "absolute"
    return type(model) is BertForSequenceClassification and plain and not model.config.is_decoder


def forward(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Give the logits, (batch, labels), of `ids` and `mask`, (batch, tokens), as the whole model would."""
    hidden = model.bert.embeddings(ids)  # (batch, tokens, features)
    bias = attention_bias(mask, hidden.dtype)
    *lower, last = model.bert.encoder.layer
    for layer in lower:
        hidden = layer(hidden, bias.expand(-1, 1, ids.shape[1], -1))
    return logits(model, last, hidden, bias)


def attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Give what is added to attention, (batch, 1, 1, tokens), so that nobody looks at padding."""
    return (1.0 - mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min


def split_heads(attention: Any, rows: Any) -> Any:
    """Part features, (batch, tokens, features), among the heads: (batch, heads, tokens, features of one)."""
    return rows.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)


def logits(model: Any, layer: Any, hidden: Tensor, bias: Tensor) -> Tensor:
    """Run the last BERT layer with the first token as the only query, and the head."""
    attention = layer.attention.self
    query, key, value = attention.query(hidden[:, :1]), attention.key(hidden), attention.value(hidden)
    query, key, value = (split_heads(attention, each) for each in (query, key, value))
    context = scaled_dot_product_attention(query, key, value, attn_mask=bias)
    seen = layer.attention.output(context.transpose(1, 2).flatten(2), hidden[:, :1])
    first = layer.output(layer.intermediate(seen), seen)  # (batch, 1, features)
    return model.classifier(model.bert.pooler(first))  # type: ignore[no-any-return]
