"""Small random models for tests: folders of a few hundred kB as people save them, made on a CPU in a moment."""

import functools
from pathlib import Path
from typing import Any

import torch
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from reward_service.backends.probe import TEXTS
from shared.model_store.store import resolve

SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEMPLATES = Path(trl.__file__).parent / "chat_templates"
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>"]
CHATML = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def chat_template(name: str) -> str:
    """Return one of the chat templates that TRL ships, such as `llama3` or `qwen3`."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


@functools.cache
def _word_pieces() -> str:
    """Return a byte-level tokenizer with a thousand word pieces: the vocabularies of real models load in a second."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS.read_text(encoding="utf-8").splitlines(), trainer)
    return str(tokenizer.to_str())


def small_tokenizer(template: str | None = None, embedded: str | None = None) -> Any:
    """Return a tokenizer of a thousand word pieces, or an embedded model's, with TRL's chat template of a name."""
    if embedded:
        tokenizer = AutoTokenizer.from_pretrained(resolve(embedded))
    else:
        unknown, start, end = SPECIAL_TOKENS[:3]  # as SmolLM2 has them
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(_word_pieces()),
            bos_token=start,
            eos_token=end,
            pad_token=end,
            unk_token=unknown,
            model_max_length=8192,
        )
        tokenizer.chat_template = CHATML
    if template:
        tokenizer.chat_template = chat_template(template)
    return tokenizer


def small_model(
    model_class: type[PreTrainedModel],
    config_class: type[PretrainedConfig],
    tokenizer: Any,
    *,
    pad: bool = True,
    **config: Any,
) -> Any:
    """Return a random model for the tokenizer's vocabulary; weights are spread so that texts score apart."""
    torch.manual_seed(0)
    pad_token_id = tokenizer.pad_token_id if pad else None
    settings = {"vocab_size": len(tokenizer), "pad_token_id": pad_token_id, "initializer_range": 0.5, **SIZE, **config}
    return model_class(config_class(**settings)).eval()


def save_folder(
    path: Path,
    model_class: type[PreTrainedModel],
    config_class: type[PretrainedConfig],
    *,
    template: str | None = None,
    pad: bool = True,
    embedded: str | None = None,
    **config: Any,
) -> tuple[Any, Any]:
    """Save a random model and its tokenizer as one folder. Return (model, tokenizer)."""
    tokenizer = small_tokenizer(template, embedded)
    model = small_model(model_class, config_class, tokenizer, pad=pad, **config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return model, tokenizer


@torch.inference_mode()
def logits_alone(model: Any, inputs: Any) -> list[float]:
    """Return the logits of one text as transformers alone computes them. `inputs` is what a tokenizer returns."""
    return [float(value) for value in model(**inputs).logits[0]]
