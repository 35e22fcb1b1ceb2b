from types import SimpleNamespace

import pytest

from shared.input_length import max_input_tokens


@pytest.mark.parametrize(("kind", "positions", "tokens"), [("bert", 512, 512), ("mpnet", 514, 512), ("xlnet", -1, 900)])
def test_max_input_tokens(kind, positions, tokens):
    """Models whose positions start after the padding index read two tokens less."""
    config = SimpleNamespace(model_type=kind, max_position_embeddings=positions)
    config.get_text_config = lambda: config
    assert max_input_tokens(SimpleNamespace(model_max_length=900), config) == tokens
