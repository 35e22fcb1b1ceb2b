"""Small random models of every sequence-classification family of transformers, with one tokenizer for most of them.

A family whose own tokenizer reads or gives more than a text has that one: so the table says what its users will meet.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    CONFIG_MAPPING,
    LayoutLMv3Tokenizer,
    MarkupLMTokenizer,
    PreTrainedTokenizerFast,
    RoCBertTokenizer,
    TapasTokenizer,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from reward_service.backends.probe import TEXTS
from shared.model_store.progress import quiet_transformers

MAX_PARAMETERS = 20_000_000
VOCAB_SIZE = 600
POSITIONS = 320
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] [EMPTY] what is it ? a stapler . joins paper over lazy dogs".split()
SIZES: dict[str, Any] = {
    **dict.fromkeys(["hidden_size", "d_model", "dim", "n_embd", "embedding_size", "emb_dim"], 32),
    **dict.fromkeys(["intermediate_size", "d_inner", "hidden_dim", "d_ff", "dff", "encoder_ffn_dim", "ffn_dim"], 64),
    **dict.fromkeys(["decoder_ffn_dim", "input_embedding_size", "output_embedding_size", "ffn_hidden_size"], 64),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_layers"], 2),
    **dict.fromkeys(["num_decoder_layers", "num_key_value_heads", "num_experts_per_tok"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "encoder_attention_heads", "num_heads"], 4),
    **dict.fromkeys(["decoder_attention_heads", "num_experts", "num_local_experts", "n_routed_experts"], 4),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"], POSITIONS),
    **dict.fromkeys(["head_dim", "d_kv", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "d_head"], 8),
    **dict.fromkeys(["q_lora_rank", "kv_lora_rank", "global_head_dim"], 16),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 32),
    **dict.fromkeys(["n_shared_experts", "first_k_dense_replace"], 1),
    "entity_vocab_size": 8,
    "entity_emb_size": 16,
    "vocab_size": VOCAB_SIZE,
    "pronunciation_vocab_size": 8,
    "shape_vocab_size": 8,
    "initializer_range": 0.5,
    "init_std": 0.5,
    "mamba_d_state": 8,
    "mamba_dt_rank": 4,
    "vocab_size_per_layer_input": VOCAB_SIZE,
    "hidden_size_per_layer_input": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
    "n_group": 2,
    "topk_group": 1,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
"""Sizes by the name of the entry, wherever a configuration has one of that name."""
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SPECIFIC: dict[str, dict[str, Any]] = {
    "big_bird": {"max_position_embeddings": 1200, "block_size": 16, "num_random_blocks": 3},
    "bigbird_pegasus": {"max_position_embeddings": 1200, "block_size": 16},
    "reformer": {"axial_pos_embds_dim": (16, 16), "axial_pos_shape": (16, 20)},
    **{kind: {"decoder_start_token_id": 1} for kind in ("t5", "mt5", "umt5")},
    **{kind: {"num_key_value_heads": 4} for kind in ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "minicpm3")},
    "esmc": {"num_key_value_heads": 4},
    **{kind: {"num_hidden_layers": 4} for kind in ("qwen3_next", "qwen3_5", "qwen3_5_text")},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8, "input_size": 28},
    "lilt": {"hidden_size": 48},
    "mistral4": {"num_key_value_heads": 4, "head_dim": 16},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "perceiver": {"num_latents": 16, "d_latents": 32, "num_self_attends_per_block": 2, "num_cross_attention_heads": 4},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"], "mamba_ngroups": 1},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": ROPE, "full_attention": ROPE},
    },
    "xmod": {"default_language": "en_XX"},
    "gptj": {"rotary_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
}
"""Entries of single families, by model type."""


def families() -> dict[str, str]:
    """Return the class of each family, by model type."""
    return {kind: name if isinstance(name, str) else name[0] for kind, name in NAMES.items()}


NAMES = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES


def save_family(kind: str, path: Path, num_labels: int = 3) -> Any:
    """Save a small random model of a family and a tokenizer. Return the model. Raises what transformers raises."""
    model = build(kind, num_labels)
    with quiet_transformers():
        model.save_pretrained(path)
        tokenizer_of(kind, path).save_pretrained(path)
    return model


def build(kind: str, num_labels: int = 3) -> Any:
    """Return a small random model of a family. Raise `ValueError` if it cannot be made small."""
    model_class = getattr(transformers, families()[kind])
    torch.manual_seed(0)
    with quiet_transformers():
        with torch.device("meta"):
            model = model_class(small_config(kind, num_labels))
            parameters = sum(parameter.numel() for parameter in model.parameters())
        if parameters > MAX_PARAMETERS:
            raise ValueError(f"{parameters / 1e6:.0f} million parameters at the least")
        return model_class(small_config(kind, num_labels)).eval()


def small_config(kind: str, num_labels: int) -> Any:
    """Return a family's configuration with all sizes reduced, those of its parts included."""
    config_class = CONFIG_MAPPING[kind]
    entries = shrunk(config_class().to_dict())
    return config_class(**{**entries, **SPECIFIC.get(kind, {}), "num_labels": num_labels})


def shrunk(entries: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes of those entries that a configuration has, and its parts with theirs reduced."""
    small = {name: SIZES[name] for name in entries if name in SIZES}
    for name, value in entries.items():
        if isinstance(value, dict) and "model_type" in value:
            others = {key: entry for key, entry in value.items() if key not in ("layer_types", "rope_parameters")}
            small[name] = {**others, **shrunk(value), **SPECIFIC.get(value["model_type"], {})}
    return small


def tokenizer_of(kind: str, path: Path) -> Any:
    """Return a family's own small tokenizer where it reads or gives more than a text, else the one of all others."""
    tokenizer = small_tokenizer()
    pieces = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocab, merges = pieces["vocab"], [tuple(merge) for merge in pieces["merges"]]
    match kind:
        case "layoutlmv3":
            return LayoutLMv3Tokenizer(vocab=vocab, merges=merges)
        case "markuplm":
            return MarkupLMTokenizer(tags_dict={"html": 0, "body": 1}, vocab=vocab, merges=merges)
        case "roc_bert":
            return RoCBertTokenizer(*vocabulary_files(path))
        case "tapas":
            return TapasTokenizer(vocabulary_files(path)[0])
        case _:
            return tokenizer


def vocabulary_files(path: Path) -> list[str]:
    """Write the words, and their shapes and sounds, for tokenizers that exist in Python alone; return the files."""
    files = [path / name for name in ("vocab.txt", "word_shape.json", "word_pronunciation.json")]
    files[0].write_text("\n".join(WORDS), encoding="utf-8")
    for file in files[1:]:
        file.write_text(json.dumps(dict.fromkeys(WORDS, 0)), encoding="utf-8")
    return [*map(str, files)]


def small_tokenizer() -> Any:
    """Return a tokenizer with a few hundred word pieces that writes `<s> … </s>`."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS.read_text(encoding="utf-8").splitlines(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    bos, pad, eos, unk, mask = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, pad_token=pad, eos_token=eos, unk_token=unk, mask_token=mask
    )
