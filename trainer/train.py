"""Train a policy: connect to the rewards, evaluate, train, evaluate again, write the report."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import ModelConfig

from remote_rewards import RewardClient
from remote_rewards.distributed import on_main_rank, world_size
from shared.errors import RewardError
from trainer import checkpoints, expectations
from trainer.algorithms import TrainingConfig, template_kwargs
from trainer.display import LiveProgress, console, log, progress_bar
from trainer.errors import TrainerError
from trainer.evaluator import Evaluator
from trainer.generation import check_prompts, decodings
from trainer.hub import check_adapter_can_be_pushed, create_repository, name_base, push
from trainer.interpolation import save_interpolated
from trainer.kl import check_same_tokens, kl_per_token, main_completions, spread, token_rows
from trainer.model_card import render
from trainer.monitor.actions import add_monitor, check_not_stopped, load_best
from trainer.monitor.monitor import judges_of
from trainer.policy import check_trainable, load_policy, load_tokenizer, model_folder
from trainer.processes import check_connected, lost_ranks_raise_rank_failed
from trainer.prompts import Row, check_disjoint, read_prompts
from trainer.quantization import check_trainable_weights, loading_args, without_quantization
from trainer.recorded_trainer import RecordedTrainer
from trainer.reporting.report import write_report
from trainer.reporting.report_text import counted, summary_table
from trainer.rewards import ConnectedRewards, connect_rewards, reward_manifest, reward_weights, watch_unweighted
from trainer.run_arguments import RunArguments
from trainer.run_folder import POLICY, RunFolder, read_run
from trainer.settings_checks import LORA_ARGS
from trainer.sharding import check_sharding, whole_weights
from trainer.trainers import build_trainer
from trainer.training_data import check_revision_of, load_training_data


def train(run: RunArguments, args: TrainingConfig, model: ModelConfig) -> Path:
    """Run a recipe from the first check to the report, and return the run folder."""
    # Fail on wrong settings and files before anything slow.
    check_connected(os.environ)
    check_sharding(args, run.on_hack, os.environ)
    data = load_training_data(run)
    heldout = read_prompts(run.heldout_prompts, **run.before_prompts)[: run.eval_limit]
    check_disjoint(data.rows, heldout)
    check_trainable(model.model_name_or_path)
    checkpoint = on_main_rank(lambda: choose_checkpoint(args))

    # The rewards must be ready, and those of the checkpoint, before the run folder is touched.
    rewards = connect_rewards(run)
    check_revision_of(data, rewards.revisions, allow_change=run.allow_revision_change)
    weights = reward_weights(run, args, data)
    manifest = reward_manifest(run, weights, rewards) | data.manifest
    watch_unweighted(rewards.functions, weights)
    if checkpoint is not None:
        checkpoints.check_same_completions(checkpoint, manifest)
        if not run.allow_revision_change:
            checkpoints.check_same_rewards(checkpoint, manifest)
    if model.use_peft and not run.merge_lora:
        check_adapter_can_be_pushed(args, model.model_name_or_path)
    repository = create_repository(args)
    tokenizer, policy = load_policy_and_tokenizer(run, args, model, [*data.rows, *heldout])
    check_trainable_weights(policy, model, run.interpolation)

    config = resolved_config(run, args, model)
    folder = on_main_rank(lambda: prepare_run_folder(run, args, checkpoint, config, manifest))
    trainer = build_trainer(run, args, model, data, rewards, weights, policy=policy, tokenizer=tokenizer, folder=folder)
    monitor = add_monitor(trainer, judges_of(manifest), checkpoint, on_hack=run.on_hack)
    evaluator = build_evaluator(run, args, tokenizer, heldout, rewards)

    if checkpoint is None:
        untrained = trainer.unwrapped_policy().to(args.device)  # FSDP moves it there when the training begins
        evaluate_policy(evaluator, untrained, folder, "before", step=0)
    names, urls = ", ".join(run.rewards), ", ".join(run.reward_url)
    length = counted(args.max_steps, "step") if args.max_steps >= 0 else counted(args.num_train_epochs, "epoch")
    log(f"training {length} on {data.text or f'{names} at {urls}'}")
    run_training(trainer, checkpoint, evaluator.client, run.max_minutes)
    check_not_stopped(monitor, trainer, folder)
    step = load_best(monitor, trainer)
    model = without_quantization(model) if run.merge_lora else model  # an adapter is merged into whole weights
    trained = save_trained(trainer, run, args, model, folder.path / POLICY)
    after = evaluate_trained(evaluator, trained, folder, step=step)
    after |= measure_kl(evaluator, trained, partial(load_base, args, model, run.kl_from), after) if run.eval_kl else {}
    on_main_rank(lambda: finish(run, args, folder, after, repository, base=model.model_name_or_path))
    return folder.path


def save_trained(
    trainer: RecordedTrainer, run: RunArguments, args: TrainingConfig, model: ModelConfig, folder: Path
) -> PreTrainedModel:
    """Save the policy with the share of the change that is kept, and return it. `model` loads the one before."""
    trained = trainer.save_policy(folder, merge_lora=run.merge_lora)
    if run.interpolation < 1:
        save_interpolated(trained, load_base(args, model, None), run.interpolation, folder)
    on_main_rank(lambda: name_base(folder, model.model_name_or_path))
    return trained


def choose_checkpoint(args: TrainingConfig) -> Path | None:
    """Return the checkpoint to resume from, or None. Raises `TrainerError` if this run cannot continue it."""
    checkpoint = checkpoints.checkpoint_to_resume(args.resume_from_checkpoint, Path(args.output_dir))
    if checkpoint is not None:
        checkpoints.check_max_steps(checkpoint, args.max_steps)
        checkpoints.check_processes(checkpoint, world_size())
    return checkpoint


def load_policy_and_tokenizer(
    run: RunArguments, args: TrainingConfig, model: ModelConfig, rows: Sequence[Row]
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load the tokenizer and the policy, before the run folder is touched.

    Raises `TrainerError` if the policy lies in the run folder, or its chat template refuses the prompt of a row.
    """
    name = model.model_name_or_path
    if Path(model_folder(name)).resolve().is_relative_to(Path(args.output_dir).resolve()):
        raise TrainerError(f"the policy {name} lies in the run folder {args.output_dir}; choose another --output_dir")
    tokenizer = load_tokenizer(name)
    check_prompts(tokenizer, [row["prompt"] for row in rows], template_kwargs(args))
    if run.kl_from is not None:
        check_same_tokens(tokenizer, run.kl_from)
    with whole_weights(args):
        return tokenizer, load_policy(name, frozen_layers=run.frozen_layers, **loading_args(model))


def load_base(args: TrainingConfig, model: ModelConfig, kl_from: str | None) -> PreTrainedModel:
    """Load the policy that the KL is measured from: `kl_from`, or the one before training."""
    with whole_weights(args):
        return load_policy(kl_from or model.model_name_or_path, **loading_args(model))


def prepare_run_folder(
    run: RunArguments,
    args: TrainingConfig,
    checkpoint: Path | None,
    config: Mapping[str, Any],
    manifest: Mapping[str, Any],
) -> RunFolder:
    """Open the run folder, and write the settings and the rewards of this run."""
    folder = open_run_folder(run, args, checkpoint)
    folder.write_config(config)
    folder.write_json(checkpoints.MANIFEST, manifest)
    return folder


def open_run_folder(run: RunArguments, args: TrainingConfig, checkpoint: Path | None) -> RunFolder:
    """Create the run folder, or reopen it at the checkpoint's step if the checkpoint is in it."""
    return checkpoints.open_run_folder(
        Path(args.output_dir),
        checkpoint,
        requested=args.resume_from_checkpoint,
        overwrite=run.overwrite,
        result=checkpoints.RESULT,
    )


def resolved_config(run: RunArguments, args: TrainingConfig, model: ModelConfig) -> dict[str, Any]:
    """Return every setting as it was used, the run arguments first."""
    ours = dataclasses.asdict(run)
    lora = {"lora": {name: getattr(model, name) for name in sorted(LORA_ARGS)}} if model.use_peft else {}
    model_settings = dataclasses.asdict(model)
    settings = {"policy": model.model_name_or_path, **lora, "processes": world_size(), **args.to_dict()}
    return {**ours, **settings, "model": model_settings}


def build_evaluator(
    run: RunArguments,
    args: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    heldout: Sequence[Row],
    rewards: ConnectedRewards,
) -> Evaluator:
    """Return the run's evaluator, which scores with the revisions that the run began with."""
    return Evaluator(
        tokenizer,
        heldout,
        rewards.functions[0].client,
        rewards=[*run.rewards, *run.remote_judges],
        watched=rewards.watched,
        local_judges=run.local_judges,
        decodings=decodings(run.eval_decodings, run.eval_temperature, run.eval_max_new_tokens),
        template_kwargs=template_kwargs(args),
        revisions=None if run.allow_revision_change else rewards.revisions,
        failure_budget=run.failure_budget,
        batch_size=run.eval_batch,
        seed=args.seed,
    )


def evaluate_policy(
    evaluator: Evaluator, policy: PreTrainedModel, folder: RunFolder, when: str, *, step: int
) -> dict[str, Any]:
    """Evaluate the policy, write `before.json` or `after.json`, and return its content."""
    with progress_bar(f"evaluating on held-out prompts, {when}", evaluator.client) as progress:
        result = evaluator.evaluate(policy, step=step, progress=progress)
    on_main_rank(lambda: folder.write_json(f"{when}.json", result))
    return result


def run_training(
    trainer: RecordedTrainer, checkpoint: Path | None, client: RewardClient, max_minutes: float | None = None
) -> None:
    """Train. If the rewards stop the run, save a checkpoint, log how to resume, and raise their error."""
    try:
        with (
            lost_ranks_raise_rank_failed(),
            closing(LiveProgress(trainer.step_completions, client, max_minutes)) as live,
        ):
            trainer.add_callback(live)
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except RewardError:
        log(f"stopped in step {trainer.state.global_step + 1} of {trainer.state.max_steps}: {_save_and_hint(trainer)}")
        raise


def _save_and_hint(trainer: RecordedTrainer) -> str:
    try:
        saved = trainer.save_last_step()
    except Exception as error:  # a full disk, for which torch and safetensors raise their own; it must not hide why
        latest = checkpoints.latest(Path(trainer.args.output_dir))
        hint = f"; resume with --resume_from_checkpoint {latest}" if latest else ""
        return f"the last step could not be saved: {error}{hint}"
    return f"its policy is in {saved}; resume with --resume_from_checkpoint {saved}" if saved else "nothing was learned"


def evaluate_trained(evaluator: Evaluator, policy: PreTrainedModel, folder: RunFolder, *, step: int) -> dict[str, Any]:
    """Evaluate the trained policy. If the rewards stop that, log how to evaluate it later, and raise their error."""
    try:
        return evaluate_policy(evaluator, policy, folder, "after", step=step)
    except RewardError:
        saved, other = folder.path / POLICY, folder.path.with_name(f"{folder.path.name}-after")
        log(
            f"stopped in the evaluation after training: the policy is saved in {saved}; evaluate it with "
            f"`reward-trainer evaluate --model_name_or_path {saved} --output_dir {other}` and the run's other settings"
        )
        raise


def measure_kl(
    evaluator: Evaluator,
    policy: PreTrainedModel,
    load: Callable[[], PreTrainedModel],
    evaluation: Mapping[str, Any],
) -> dict[str, float | None]:
    """Return `kl`, that of the policy from the one that `load` returns, on the completions of its evaluation."""
    rows = token_rows(evaluator.tokenizer, evaluator.rendered_prompts(), main_completions(evaluation))
    return {"kl": kl_per_token(policy, load, spread(rows))}


def finish(
    run: RunArguments,
    args: TrainingConfig,
    folder: RunFolder,
    after: dict[str, Any],
    repository: str | None,
    *,
    base: object,
) -> None:
    """Write the results and the model card, and push the policy if there is a repository for it."""
    write_results(run, folder, after)
    write_card(folder, repository, base=base)
    if repository is not None:
        push(repository, folder.path / POLICY, args, f"{run.recipe}: {after['step']} steps")


def write_results(run: RunArguments, folder: RunFolder, after: dict[str, Any]) -> None:
    """Write the report, and print the comparison and whether the recipe's expectations were reached."""
    before = folder.read_json("before.json")
    outcomes = expectations.check_bounds(run.expect, after)
    outcomes += expectations.check_gains(run.expect_gain, before or after, after)
    folder.write_json("after.json", {**after, "expectations": outcomes})
    report = write_report(folder.path)
    console.print(summary_table(before, after))
    for outcome in outcomes:
        log(outcome)
    log(f"report: {report}")


def write_card(folder: RunFolder, repository: str | None, *, base: object) -> None:
    """Write the model card into the policy's folder."""
    path = folder.path / POLICY
    RunFolder(path).write_text("README.md", render(repository or str(path), read_run(folder.path), base))
