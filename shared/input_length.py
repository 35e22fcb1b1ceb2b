"""The largest number of tokens that a model reads."""

from typing import Any

PADDING_OFFSET_MODELS = {
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "longformer", "mpnet", "ibert"),
    *("data2vec-text", "xmod", "luke", "mluke", "esm"),
}
"""Models that count positions from the padding index on."""
UNLIMITED_TOKENS = 1 << 20


def max_input_tokens(tokenizer: Any, config: Any) -> int:
    """Return the maximum input length in tokens: the model's positions, or the tokenizer's limit if that is less."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or 0
    if positions <= 0:  # unlimited; XLNet writes it as -1
        positions = UNLIMITED_TOKENS
    if config.model_type in PADDING_OFFSET_MODELS:
        positions -= 2
    return int(min(positions, tokenizer.model_max_length))
