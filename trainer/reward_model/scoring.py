"""Load a model with one output, score texts with it, and shift its scores so that 0 is neutral."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import SequenceClassifierOutput
from trl import ModelConfig, RewardConfig

from shared.model_store import bert_cls_only
from trainer.errors import TrainerError
from trainer.generation import eval_mode, length_sorted_batches
from trainer.policy import layers_of, model_folder
from trainer.reward_model.reading import Encoded
from trainer.reward_model.trainer import inputs_of

SCORING_BATCH = 64


def load(model: ModelConfig, reward: RewardConfig) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, bool]:
    """Load the tokenizer and the model, with a new head where it has none of one output, and whether it got one.

    Raises `TrainerError`.
    """
    folder = model_folder(str(model.model_name_or_path))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if reward.chat_template_path is not None:
        tokenizer.chat_template = read_template(Path(reward.chat_template_path))
        reward.chat_template_path = None  # TRL would set it again
    torch.manual_seed(reward.seed)  # the new head
    settings = {"dtype": model.dtype, "attn_implementation": model.attn_implementation, "trust_remote_code": False}
    try:
        loaded, info = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, ignore_mismatched_sizes=True, output_loading_info=True, **settings
        )
    except ValueError as error:
        raise TrainerError(
            f"{model.model_name_or_path} cannot be a reward model: {' '.join(str(error).split())[:300]}"
        ) from error
    loaded.config.problem_type = "regression"  # no service takes its output for a probability
    loaded.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return tokenizer, loaded, bool(info["missing_keys"] or info["mismatched_keys"])


def read_template(path: Path) -> str:
    """Return the chat template in a file. Raises `TrainerError`."""
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainerError(f"--chat_template_path {path}: name a Jinja file ({error})") from error


def freeze(model: PreTrainedModel, layers: int) -> None:
    """Freeze the embeddings and the lowest `layers` layers, which makes the backward pass shorter."""
    if layers <= 0:
        return
    blocks = layers_of(model)
    if layers > len(blocks):
        raise TrainerError(f"--frozen_layers {layers}: the model has {len(blocks)} layers")
    for name, weights in model.base_model.named_parameters():
        if "embed" in name:
            weights.requires_grad_(False)
    for block in blocks[:layers]:
        block.requires_grad_(False)


@contextmanager
def cls_only(model: PreTrainedModel) -> Iterator[None]:
    """Compute the last layer of a plain BERT for the first token alone inside the block: the head reads no other."""
    if not bert_cls_only.supports(model):
        yield
        return
    whole = model.forward

    def forward(input_ids: Any, attention_mask: Any, token_type_ids: Any = None, **kwargs: Any) -> Any:
        if token_type_ids is not None:
            return whole(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, **kwargs)
        return SequenceClassifierOutput(logits=bert_cls_only.forward(model, input_ids, attention_mask))

    model.forward = forward
    try:
        yield
    finally:
        del model.forward


def score(
    model: PreTrainedModel,
    texts: Sequence[Encoded],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:
    """Return the score of each text, in order; equal texts are computed once.

    Raises `TrainerError` if the training has diverged.
    """
    distinct = list({_key(text): text for text in texts}.values())
    scores: dict[tuple[int, ...], float] = {}
    for batch in length_sorted_batches([len(text.ids) for text in distinct], SCORING_BATCH):
        rows = [distinct[index] for index in batch]
        scores |= zip((_key(text) for text in rows), _logits(model, rows), strict=True)
        progress(len(scores), len(distinct))
    if not all(map(math.isfinite, scores.values())):
        raise TrainerError("the training has diverged: the model scores texts with NaN; lower --learning_rate")
    return [scores[_key(text)] for text in texts]


def _key(text: Encoded) -> tuple[int, ...]:
    return (*text.ids, *(text.types or ()))


@torch.inference_mode()
def _logits(model: PreTrainedModel, texts: Sequence[Encoded]) -> list[float]:
    inputs = inputs_of(texts, model.config.get_text_config().pad_token_id)
    with eval_mode(model):
        logits = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}).logits  # (batch, 1)
    values: list[float] = logits[:, 0].tolist()
    return values


@torch.no_grad()
def shift_scores(model: PreTrainedModel, by: float) -> bool:
    """Add a constant to all scores by the head's bias. Return False where the head has none."""
    heads: list[Any] = [part for part in model.modules() if isinstance(part, nn.Linear) and part.out_features == 1]
    if not heads or heads[-1].bias is None:
        return False
    heads[-1].bias += by
    return True
