"""Build the trainer of an algorithm: TRL's own, with a run folder."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import ModelConfig, get_peft_config

from trainer.algorithms import TrainingConfig, template_kwargs
from trainer.display import log
from trainer.diversity import diversity
from trainer.errors import TrainerError
from trainer.offline_trainers import RecordedDPOTrainer, RecordedSFTTrainer
from trainer.online_trainers import RecordedGRPOTrainer, RecordedRLOOTrainer
from trainer.recorded_trainer import RecordedTrainer
from trainer.rewards import ConnectedRewards
from trainer.run_arguments import RunArguments
from trainer.run_folder import RunFolder
from trainer.time_limit import TimeLimit
from trainer.training_data import TrainingData

TRAINER_CLASSES: dict[str, type[RecordedTrainer]] = {
    "rloo": RecordedRLOOTrainer,
    "grpo": RecordedGRPOTrainer,
    "dpo": RecordedDPOTrainer,
    "sft": RecordedSFTTrainer,
}
"""The trainer of each algorithm."""


def build_trainer(
    run: RunArguments,
    args: TrainingConfig,
    model: ModelConfig,
    data: TrainingData,
    rewards: ConnectedRewards,
    weights: Sequence[float],
    *,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: RunFolder,
) -> RecordedTrainer:
    """Return the trainer of a run. An offline algorithm calls no rewards while it trains.

    Raises `TrainerError` if no completion fits into `--max_length`.
    """
    online: dict[str, Any] = {}
    if not data.offline:
        local = [run.diversity_weight] if run.diversity_weight else []
        args.reward_weights = [*weights, *local, *[0.0] * len(rewards.judges)]
        online["reward_funcs"] = [*rewards.functions, *[diversity] * len(local), *rewards.judges]
        online["judges"] = [*run.remote_judges, *run.local_judges]
    trainer = TRAINER_CLASSES[run.algorithm](
        model=policy,
        args=args,
        train_dataset=data.dataset(template_kwargs(args)),
        processing_class=tokenizer,
        peft_config=get_peft_config(model),
        run_folder=folder,
        **online,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(TimeLimit(run.max_minutes))
    if data.offline:
        _check_rows(trainer, len(data.rows))
    return trainer


def _check_rows(trainer: RecordedTrainer, rows: int) -> None:
    """Log how many rows TRL has left out, and that the hack monitor has nothing to watch."""
    left = len(trainer.train_dataset)
    if not left:
        raise TrainerError(f"no prompt leaves room for a completion: raise --max_length {trainer.args.max_length}")
    if left < rows:
        log(f"{rows - left} of {rows} rows are left out, because their prompts alone reach --max_length")
    log("no completions are generated in training, so the hack monitor watches none: compare before and after")
