import json

import numpy as np
import pytest

from shared.model_store.embedded.smollm2 import PAD_TOKEN, reverse_permute


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(scope="module")
def loaded(smollm2):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2, output_loading_info=True)


def test_loads_with_all_weights(loaded):
    """`from_pretrained` loads all 134,515,008 weights, with no quantization."""
    model, report = loaded
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert sum(weights.numel() for weights in model.parameters()) == 134_515_008
    assert not hasattr(model.config, "quantization_config")


def test_answers_a_question(loaded, tokenizer):
    """The dequantized model answers a simple question."""
    model, _ = loaded
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    reply = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "Paris" in reply


def test_padding_differs_from_end_token(smollm2, tokenizer):
    """Padding is on the left, differs from the end token, and is the same in all configuration files."""
    named = {
        json.loads((smollm2 / f"{file}.json").read_text())["pad_token_id"] for file in ("config", "generation_config")
    }
    assert named == {tokenizer.pad_token_id}
    assert tokenizer.pad_token == PAD_TOKEN
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id not in {tokenizer.eos_token_id, tokenizer.unk_token_id}
    assert tokenizer.padding_side == "left"


def test_padding_token_is_untrained(loaded, tokenizer):
    """The padding token's embedding equals that of another special token that was never trained."""
    embeddings = loaded[0].get_input_embeddings().weight
    other = embeddings[tokenizer.convert_tokens_to_ids("<jupyter_script>")]
    assert (embeddings[tokenizer.pad_token_id] - other).norm() < 0.01 * other.norm()


def test_chat_template_is_chatml(tokenizer):
    """The chat template is ChatML, and its markers are single tokens."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(text).input_ids
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3
    assert ids.count(tokenizer.eos_token_id) == 2


@pytest.mark.parametrize("text", ["it's 2024!\n\n2. two  three   4", "naïve café 你好 🎉", "   tabs\tand\r\nlines "])
def test_tokenizer_round_trips_text(tokenizer, text):
    """Decoding returns the text, and numbers are split into digits."""
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    pieces = [tokenizer.decode([token]) for token in ids]
    assert all(piece.isdigit() is False or len(piece) == 1 for piece in pieces)


def test_no_source_files_are_left(smollm2):
    """The folder contains no source files of the conversion."""
    assert sorted(path.name for path in smollm2.iterdir()) == [
        "LICENSE",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_reverse_permute_separates_pairs():
    """One head with two pairs, a0 b0 a1 b1 in llama.cpp, becomes a0 a1 b0 b1 as in transformers."""
    paired = np.array([[0.0], [10.0], [1.0], [11.0]])
    assert reverse_permute(paired, heads=1).ravel().tolist() == [0.0, 1.0, 10.0, 11.0]
