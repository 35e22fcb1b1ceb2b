"""Train a reward model: read the pairs, train, centre the scores, evaluate on held-out pairs, write the model card."""

import dataclasses
import os
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import ModelConfig, RewardConfig, get_peft_config

from shared.input_length import max_input_tokens
from trainer import checkpoints
from trainer.display import log
from trainer.errors import TrainerError
from trainer.hub import create_repository, name_base, push
from trainer.interpolation import check_whole, interpolate
from trainer.policy import model_folder
from trainer.processes import check_single_process
from trainer.reward_model import results, scoring
from trainer.reward_model.config import RewardModelArguments
from trainer.reward_model.heldout import HeldOut, of_pairs, of_ratings
from trainer.reward_model.pairs import Pair, fingerprint
from trainer.reward_model.preferences import Preferences, load_preferences
from trainer.reward_model.progress import TrainingProgress
from trainer.reward_model.reading import EncodedPair, Reader, check_input, choose_input
from trainer.reward_model.trainer import RecordedRewardTrainer, TypedCollator


def train(run: RewardModelArguments, reward: RewardConfig, model: ModelConfig) -> Path:
    """Train a reward model from the first check to the model card, and return its folder."""
    # Fail on wrong settings and files before anything slow.
    check_single_process(os.environ, "reward-model")
    path = Path(reward.output_dir)
    if Path(model_folder(str(model.model_name_or_path))).resolve().is_relative_to(path.resolve()):
        raise TrainerError(f"the model {model.model_name_or_path} lies in {path}; choose another --output_dir")
    preferences = load_preferences(run, reward.seed)
    pairs_hash = fingerprint([*preferences.train, *preferences.heldout])
    requested = reward.resume_from_checkpoint
    checkpoint = checkpoints.checkpoint_to_resume(requested, path)
    if checkpoint is not None:
        checkpoints.check_max_steps(checkpoint, reward.max_steps)
        check_same_pairs(checkpoint, pairs_hash)

    tokenizer, network = load_network(run, reward, model)
    reader = build_reader(run, preferences, tokenizer, network)
    limit = min(reward.max_length or reader.max_tokens, reader.max_tokens)
    encoded = encode(reader.with_limit(limit), preferences.train, "training")
    heldout = encode_heldout(reader, preferences)
    if not encoded:
        raise TrainerError(f"no pair is left to train on: raise --max_length {reward.max_length}, or write more pairs")
    scoring.freeze(network, run.frozen_layers)

    repository = create_repository(reward)
    folder = checkpoints.open_run_folder(
        path, checkpoint, requested=requested, overwrite=run.overwrite, result=results.MODEL_CARD
    )
    settings = {**dataclasses.asdict(run), **reward.to_dict(), "model": dataclasses.asdict(model)}
    folder.write_config({**settings, "pairs_hash": pairs_hash})
    reward.max_length = None  # nothing is left that TRL would have to filter
    trainer = RecordedRewardTrainer(
        model=network,
        args=reward,
        train_pairs=encoded,
        processing_class=tokenizer,
        data_collator=TypedCollator(pad_token_id=tokenizer.pad_token_id),
        peft_config=get_peft_config(model),
        run_folder=folder,
    )
    seconds = run_training(trainer, checkpoint)
    trained = trained_model(trainer, run, reward, model)
    metrics = results.evaluate(trained, reader, encoded, heldout, preferences)
    metrics["seconds"]["train"] = seconds
    results.save(folder, trained, reader, metrics, settings=settings, repository=repository)
    name_base(folder.path, str(model.model_name_or_path))
    if repository is not None:
        push(repository, folder.path, reward, f"{run.recipe}: {len(encoded)} pairs")
    return folder.path


def load_network(
    run: RewardModelArguments, reward: RewardConfig, model: ModelConfig
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load the tokenizer and the model before training. Raises `TrainerError`, also if it cannot be interpolated.

    The random weights of a new head are nothing to keep a share of, so the whole change is kept then.
    """
    tokenizer, network, has_new_head = scoring.load(model, reward)
    if run.interpolation < 1 and has_new_head:
        log(f"interpolation has no effect: {model.model_name_or_path} gets a new head")
        run.interpolation = 1.0
    if run.interpolation < 1:
        check_whole(network)
    return tokenizer, network


def trained_model(
    trainer: RecordedRewardTrainer, run: RewardModelArguments, reward: RewardConfig, model: ModelConfig
) -> PreTrainedModel:
    """Return the model with the share of the change that is kept."""
    trained = trainer.trained_model(merge_lora=run.merge_lora)
    if run.interpolation < 1:
        interpolate(trained, scoring.load(model, reward)[1], run.interpolation)
    return trained


def check_same_pairs(checkpoint: Path, pairs_hash: str) -> None:
    """Raise `TrainerError` if a checkpoint was trained on other pairs: they would be drawn in another order."""
    try:
        config = yaml.safe_load((checkpoint.parent / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return
    if isinstance(config, dict) and config.get("pairs_hash", pairs_hash) != pairs_hash:
        raise TrainerError(
            f"{checkpoint} was trained on other pairs: resume with the same --pairs, --rounds and --seed"
        )


def build_reader(
    run: RewardModelArguments,
    preferences: Preferences,
    tokenizer: PreTrainedTokenizerBase,
    network: PreTrainedModel,
) -> Reader:
    """Return what turns the pairs into the model's tokens. Raises `TrainerError` if the model cannot read them."""
    first = preferences.train[0]
    input = choose_input(first, tokenizer) if run.input == "auto" else run.input
    check_input(input, first, tokenizer)
    return Reader(tokenizer, input, max_input_tokens(tokenizer, network.config))


def encode(reader: Reader, pairs: Sequence[Pair], name: str) -> list[EncodedPair]:
    """Tokenize pairs, and log how many were truncated or left out."""
    encoded = reader.encode_pairs(pairs)
    truncated, left_out = sum(pair.truncated for pair in encoded), len(pairs) - len(encoded)
    notes = [f"{truncated} truncated to {reader.max_tokens} tokens"] if truncated else []
    notes += [f"{left_out} left out because they exceed {reader.max_tokens} tokens"] if left_out else []
    log(f"{len(encoded)} {name} pairs{', ' if notes else ''}{', '.join(notes)}")
    return encoded


def encode_heldout(reader: Reader, preferences: Preferences) -> HeldOut:
    """Tokenize the held-out texts, and log how many pairs they are."""
    if not preferences.heldout_ratings:
        return of_pairs(encode(reader, preferences.heldout, "held-out"))
    heldout = of_ratings(preferences.heldout_ratings, reader)
    log(f"{len(heldout.chosen)} held-out pairs of {len(heldout.texts)} sentences")
    return heldout


def run_training(trainer: RecordedRewardTrainer, checkpoint: Path | None) -> float:
    """Train, and return the seconds that it took."""
    trainer.remove_callback(PrinterCallback)
    mixed_precision = trainer.args.bf16 or trainer.args.fp16
    with closing(TrainingProgress()) as progress, nullcontext() if mixed_precision else scoring.cls_only(trainer.model):
        trainer.add_callback(progress)
        output: Any = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return round(float(output.metrics["train_runtime"]), 1)
