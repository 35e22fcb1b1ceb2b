"""One run: shake hands with the rewards, measure, train, measure again, report."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import ModelConfig, RLOOConfig

from remote_rewards.distributed import all_ranks_succeed_sync
from remote_rewards.trl import RemoteReward, remote_reward
from shared.errors import RewardError
from shared.schemas import RewardInfo
from trainer import checkpoints, expectations
from trainer.config import RunArguments
from trainer.display import LiveProgress, console, counting, say
from trainer.errors import TrainerError
from trainer.evaluator import Evaluator, decodings
from trainer.policy import folder_of, load_policy, load_tokenizer
from trainer.prompts import Row, columns_of, read_prompts, user_text
from trainer.reporting.report import write_report
from trainer.reporting.report_text import summary_table
from trainer.rloo import RecordedRLOOTrainer
from trainer.run_folder import RunFolder

POLICY = "policy"
"""The trained policy's folder in the run's."""


def train(run: RunArguments, rloo: RLOOConfig, model: ModelConfig) -> Path:
    """Run a recipe to its report; give the run folder. Nothing slow is done before the rewards have answered."""
    check_single_process(os.environ)
    prompts = read_prompts(run.prompts, system_prompt=run.system_prompt)
    heldout = read_prompts(run.heldout_prompts, system_prompt=run.system_prompt)[: run.eval_limit]
    check_disjoint(prompts, heldout)
    dataset = to_dataset(prompts)
    checkpoint = checkpoints.checkpoint_to_resume(rloo.resume_from_checkpoint, Path(rloo.output_dir))
    if checkpoint is not None:
        checkpoints.check_max_steps(checkpoint, rloo.max_steps)
    rewards, infos, revisions = connect_rewards(run)
    told = reward_manifest(run, rloo, infos, revisions)
    if checkpoint is not None and not run.allow_revision_change:
        checkpoints.check_same_rewards(checkpoint, told)
    tokenizer, policy = load_policy_and_tokenizer(run, rloo, model)
    folder = open_run_folder(run, rloo, checkpoint)
    folder.write_config(resolved_config(run, rloo, model))
    folder.write_json("rewards.json", told)
    trainer = RecordedRLOOTrainer(
        model=policy,
        reward_funcs=list(rewards),
        args=rloo,
        train_dataset=dataset,
        processing_class=tokenizer,
        run_folder=folder,
    )
    trainer.remove_callback(PrinterCallback)
    evaluator = Evaluator(
        tokenizer,
        heldout,
        rewards[0].client,
        rewards=list(dict.fromkeys([*run.rewards, *run.eval_rewards])),
        judges=run.judges,
        revisions=None if run.allow_revision_change else revisions,
        failure_budget=run.failure_budget,
        batch=run.eval_batch,
        seed=rloo.seed,
    )
    if checkpoint is None:
        evaluate_policy(evaluator, trainer, run, folder, "before")
    say(f"training {length_of(rloo)} on {', '.join(run.rewards)} at {', '.join(run.reward_url)}")
    run_training(trainer, checkpoint)
    trainer.save_model(str(folder.path / POLICY))
    after = evaluate_trained(evaluator, trainer, run, folder)
    write_results(folder, after, run)
    return folder.path


def to_dataset(rows: Sequence[Row]) -> Dataset:
    """Give the prompts as TRL takes them, with every column that any of them has, and every value as the file has it.

    Each value lies in the table as JSON: of unlike ones a table makes like ones, such as 1.0 of the 1 beside a 2.5, or
    refuses them, and the rewards would see other values in training than in the measurements.
    """
    columns = {"prompt": [row["prompt"] for row in rows], **columns_of(rows)}
    texts = {name: [json.dumps(value) for value in values] for name, values in columns.items()}
    return Dataset.from_dict(texts).with_transform(_read)


def _read(texts: Mapping[str, Sequence[str]]) -> dict[str, list[Any]]:
    return {name: [json.loads(text) for text in column] for name, column in texts.items()}


def check_single_process(environ: Mapping[str, str]) -> None:
    """Raise `TrainerError` where a launcher has started several: each would take the others' folder for its own."""
    if int(environ.get("WORLD_SIZE") or 1) > 1:
        raise TrainerError(
            "reward-trainer trains in one process; for several, launch `trl rloo --reward_funcs remote_rewards.<name>` "
            "or a script of your own with `remote_reward`, whose processes stop together"
        )


def open_run_folder(run: RunArguments, rloo: RLOOConfig, checkpoint: Path | None) -> RunFolder:
    """Make the run's folder, or take it up again where it is its own checkpoint that the run goes on from."""
    path = Path(rloo.output_dir)
    resumed = checkpoint is not None and checkpoint.resolve().parent == path.resolve()
    if checkpoint is not None and not resumed and checkpoint.resolve().is_relative_to(path.resolve()):
        raise TrainerError(f"{checkpoint} is of another run, in a folder of {path}; choose another --output_dir")
    folder = RunFolder.create(path, overwrite=run.overwrite, resume=resumed)
    if checkpoint is not None and resumed:
        folder.truncate_after(checkpoints.step_of(checkpoint))
    return folder


def length_of(rloo: RLOOConfig) -> str:
    """Say how long a run trains: so many steps, or epochs where steps are not given."""
    return f"{rloo.max_steps} steps" if rloo.max_steps >= 0 else f"{rloo.num_train_epochs:g} epochs"


def run_training(trainer: RecordedRLOOTrainer, checkpoint: Path | None) -> None:
    """Train. Where the rewards stop the run, leave a checkpoint and say how to go on, then raise what they said."""
    try:
        with closing(LiveProgress(trainer.last_completions)) as shown:
            trainer.add_callback(shown)
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except RewardError:
        say(f"stopped in step {trainer.state.global_step + 1} of {trainer.state.max_steps}: {keep_last(trainer)}")
        raise


def keep_last(trainer: RecordedRLOOTrainer) -> str:
    """Leave a checkpoint of the last step and say how to go on. A full disk must not hide why the run has stopped."""
    try:
        kept = trainer.save_last_step()
    except Exception as error:  # torch and safetensors have each their own for a disk that is full
        return f"the last step could not be kept: {error}"
    return f"its policy is in {kept}; go on with --resume_from_checkpoint {kept}" if kept else "nothing was learned"


def load_policy_and_tokenizer(
    run: RunArguments, rloo: RLOOConfig, model: ModelConfig
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load tokenizer and policy, before anything in the run's folder is touched: the policy may lie there."""
    name = model.model_name_or_path
    if Path(folder_of(name)).resolve().is_relative_to(Path(rloo.output_dir).resolve()):
        raise TrainerError(f"{name} lies in the run's own folder {rloo.output_dir}; choose another --output_dir")
    kwargs = {"dtype": model.dtype, "attn_implementation": model.attn_implementation}
    return load_tokenizer(name), load_policy(name, frozen_layers=run.frozen_layers, **kwargs)


def check_disjoint(rows: Sequence[Row], heldout: Sequence[Row]) -> None:
    """Refuse to measure on what is trained on."""
    seen = {user_text(row["prompt"]).strip().lower() for row in rows}
    questions = [user_text(row["prompt"]) for row in heldout]
    shared = [question for question in questions if question.strip().lower() in seen]
    if shared:
        raise TrainerError(f"{len(shared)} held-out prompts are also trained on, such as {shared[0]!r}; take them out")


def connect_rewards(run: RunArguments) -> tuple[list[RemoteReward], list[RewardInfo], dict[str, str]]:
    """Make the reward functions, and make sure on every process that the service has each of them, and the same.

    With them come what the service says of them, and the revision of everything that the run asks for.
    """
    made = {name: reward_of(run, name) for name in dict.fromkeys([*run.rewards, *run.eval_rewards])}
    waited_s = run.wait_for_rewards_s
    found = all_ranks_succeed_sync(
        lambda: reward_infos(made, waited_s),
        waited_s,
        lambda found: {} if run.allow_revision_change else revisions_of(found),
    )
    infos = [found[name] for name in run.rewards]
    for info in infos:
        say(f"reward {info.name} ({info.kind}), revision {info.revision}")
    return [made[name] for name in run.rewards], infos, revisions_of(found)


def reward_infos(made: Mapping[str, RemoteReward], timeout_s: float) -> dict[str, RewardInfo]:
    """Give what one replica says of all rewards: of several, each might have one revision that the others lack."""
    info = next(iter(made.values())).client.info(timeout_s=timeout_s)
    return {name: reward.handshake(info) for name, reward in made.items()}


def revisions_of(found: Mapping[str, RewardInfo]) -> dict[str, str]:
    """Give the revision of each reward."""
    return {name: info.revision for name, info in found.items()}


def reward_of(run: RunArguments, name: str) -> RemoteReward:
    """Make the reward function of a name, with the run's settings."""
    return remote_reward(
        run.reward_url,
        name,
        failure_budget=run.failure_budget,
        timeout_s=run.reward_timeout_s,
        allow_revision_change=run.allow_revision_change,
        hedge_after_s=run.hedge_after_s,
    )


def evaluate_policy(
    evaluator: Evaluator, trainer: RecordedRLOOTrainer, run: RunArguments, folder: RunFolder, when: str
) -> dict[str, Any]:
    """Measure the policy as it is now, and write `before.json` or `after.json`."""
    ways = decodings(run.eval_decodings, run.eval_temperature, run.eval_max_new_tokens)
    policy = trainer.accelerator.unwrap_model(trainer.model)
    with counting(f"measuring on held-out prompts, {when}") as progress:
        result = evaluator.evaluate(policy, ways, step=trainer.state.global_step, progress=progress)
    folder.write_json(f"{when}.json", result)
    return result


def evaluate_trained(
    evaluator: Evaluator, trainer: RecordedRLOOTrainer, run: RunArguments, folder: RunFolder
) -> dict[str, Any]:
    """Measure the saved policy. Where the rewards stop that, say how to measure it later, then raise what they said."""
    try:
        return evaluate_policy(evaluator, trainer, run, folder, "after")
    except RewardError:
        saved, apart = folder.path / POLICY, folder.path.with_name(f"{folder.path.name}-after")
        say(
            f"stopped in the measurement after training: the policy is saved in {saved}; measure it with "
            f"`reward-trainer evaluate --model_name_or_path {saved} --output_dir {apart}` and the run's other settings"
        )
        raise


def reward_manifest(
    run: RunArguments, rloo: RLOOConfig, infos: Sequence[RewardInfo], revisions: Mapping[str, str]
) -> dict[str, Any]:
    """Say which rewards, of which revision, with which weight, from where; and the revisions of all that is asked."""
    weights = [1.0] * len(infos) if rloo.reward_weights is None else rloo.reward_weights
    if len(weights) != len(infos):
        raise TrainerError(f"--reward_weights has {len(weights)} weights for {len(infos)} rewards: name one for each")
    rows = [{**info.model_dump(), "weight": weight} for info, weight in zip(infos, weights, strict=True)]
    return {"urls": run.reward_url, "rewards": rows, "revisions": dict(revisions)}


def resolved_config(run: RunArguments, rloo: RLOOConfig, model: ModelConfig) -> dict[str, Any]:
    """Give the configuration as it was used, ours first."""
    ours = dataclasses.asdict(run)
    return {**ours, "policy": model.model_name_or_path, **rloo.to_dict(), "model": dataclasses.asdict(model)}


def write_results(folder: RunFolder, after: dict[str, Any], run: RunArguments) -> None:
    """Write the report and say what came of it."""
    before = folder.read_json("before.json")
    reached = expectations.check_bounds(run.expect, after) + expectations.check_gains(
        run.expect_gain, before or after, after
    )
    folder.write_json("after.json", {**after, "expectations": reached})
    page = write_report(folder.path)
    console.print(summary_table(before, after))
    for line in reached:
        say(line)
    say(f"report: {page}")
