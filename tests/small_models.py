"""Small random models for tests: folders of a few MB as people save them, made on a CPU in a second."""

from pathlib import Path
from typing import Any

import torch
import trl
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel

from shared.model_store.store import resolve

SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEMPLATES = Path(trl.__file__).parent / "chat_templates"


def chat_template(name: str) -> str:
    """Return one of the chat templates that TRL ships, such as `llama3` or `qwen3`."""
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def small_tokenizer(template: str | None = None, embedded: str = "embedded:smollm2") -> Any:
    """Return an embedded model's tokenizer, with the chat template of a name where one is given."""
    tokenizer = AutoTokenizer.from_pretrained(resolve(embedded))
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
    embedded: str = "embedded:smollm2",
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
