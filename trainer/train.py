"""Train a policy: connect to the rewards, evaluate, train, evaluate again, write the report."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import ModelConfig, RLOOConfig

from remote_rewards import RewardClient
from remote_rewards.distributed import all_ranks_succeed_sync
from remote_rewards.trl import RemoteReward, remote_reward
from shared.errors import RewardError, did_you_mean
from shared.schemas import RewardInfo
from trainer import checkpoints, expectations
from trainer.config import RunArguments
from trainer.display import LiveProgress, console, log, progress_bar
from trainer.errors import TrainerError
from trainer.evaluator import Evaluator, decodings
from trainer.judges import LOCAL_JUDGES
from trainer.policy import load_policy, load_tokenizer, model_folder
from trainer.prompts import Row, check_disjoint, read_prompts, to_dataset
from trainer.reporting.report import write_report
from trainer.reporting.report_text import summary_table
from trainer.rloo import RecordedRLOOTrainer
from trainer.run_folder import RunFolder

POLICY = "policy"
"""The folder of the trained policy in the run folder."""


def train(run: RunArguments, rloo: RLOOConfig, model: ModelConfig) -> Path:
    """Run a recipe from the first check to the report, and return the run folder."""
    # Fail on wrong settings and files before anything slow.
    check_single_process(os.environ)
    prompts = read_prompts(run.prompts, system_prompt=run.system_prompt)
    heldout = read_prompts(run.heldout_prompts, system_prompt=run.system_prompt)[: run.eval_limit]
    check_disjoint(prompts, heldout)
    dataset = to_dataset(prompts)
    checkpoint = checkpoints.checkpoint_to_resume(rloo.resume_from_checkpoint, Path(rloo.output_dir))
    if checkpoint is not None:
        checkpoints.check_max_steps(checkpoint, rloo.max_steps)

    # The rewards must be ready, and those of the checkpoint, before the run folder is touched.
    rewards = connect_rewards(run)
    manifest = reward_manifest(run, rloo, rewards)
    weights = [row["weight"] for row in manifest["rewards"]]
    watch_unweighted(rewards.functions, weights)
    if checkpoint is not None and not run.allow_revision_change:
        checkpoints.check_same_rewards(checkpoint, manifest)
    tokenizer, policy = load_policy_and_tokenizer(run, rloo, model)

    folder = open_run_folder(run, rloo, checkpoint)
    folder.write_config(resolved_config(run, rloo, model))
    folder.write_json(checkpoints.MANIFEST, manifest)
    rloo.reward_weights = [*weights, *[0.0] * len(rewards.judges)]
    trainer = RecordedRLOOTrainer(
        model=policy,
        reward_funcs=[*rewards.functions, *rewards.judges],
        args=rloo,
        train_dataset=dataset,
        processing_class=tokenizer,
        run_folder=folder,
        judges=[*run.remote_judges, *run.local_judges],
    )
    trainer.remove_callback(PrinterCallback)
    evaluator = build_evaluator(run, rloo, tokenizer, heldout, rewards)

    if checkpoint is None:
        evaluate_policy(evaluator, trainer.unwrapped_policy(), folder, "before", step=0)
    length = f"{rloo.max_steps} steps" if rloo.max_steps >= 0 else f"{rloo.num_train_epochs:g} epochs"
    log(f"training {length} on {', '.join(run.rewards)} at {', '.join(run.reward_url)}")
    run_training(trainer, checkpoint, evaluator.client)
    trainer.save_model(str(folder.path / POLICY))
    after = evaluate_trained(evaluator, trainer, folder)
    write_results(run, folder, after)
    return folder.path


def check_single_process(environ: Mapping[str, str]) -> None:
    """Raise `TrainerError` if a launcher has started several processes: they would share one run folder."""
    if int(environ.get("WORLD_SIZE") or 1) > 1:
        raise TrainerError(
            "reward-trainer trains in one process; for several, launch `trl rloo --reward_funcs remote_rewards.<name>` "
            "or a script of your own with `remote_reward`, whose processes stop together"
        )


@dataclasses.dataclass(frozen=True)
class ConnectedRewards:
    """The reward functions of a run, and what the service says about them."""

    functions: list[RemoteReward]
    """The rewards to train on, in the order of `RunArguments.rewards`."""
    infos: list[RewardInfo]
    """Their descriptions, in the same order."""
    revisions: dict[str, str]
    """The revision of every reward by name, including those of the judges."""
    judges: list[RemoteReward] = dataclasses.field(default_factory=list)
    """The judges that are rewards of the service, in the order of `RunArguments.remote_judges`."""
    judge_infos: list[RewardInfo] = dataclasses.field(default_factory=list)
    """Their descriptions, in the same order."""


def connect_rewards(run: RunArguments) -> ConnectedRewards:
    """Wait until the service has every reward of the run, and pin the revisions, the same on all processes."""
    trained = {name: reward_function(run, name) for name in run.rewards}
    judges = {name: reward_function(run, name, watch_only=True) for name in run.remote_judges}
    infos = all_ranks_succeed_sync(
        lambda: reward_infos(trained, judges, run.wait_for_rewards_s),
        run.wait_for_rewards_s,
        lambda infos: {} if run.allow_revision_change else _revisions(infos),
    )
    for name in run.rewards:
        log(f"reward {name} ({infos[name].kind}), revision {infos[name].revision}")
    infos_of = [[infos[name] for name in functions] for functions in (trained, judges)]
    return ConnectedRewards([*trained.values()], infos_of[0], _revisions(infos), [*judges.values()], infos_of[1])


def reward_function(run: RunArguments, name: str, *, watch_only: bool = False) -> RemoteReward:
    """Return the reward function of this name with the run's settings."""
    return remote_reward(
        run.reward_url,
        name,
        failure_budget=run.failure_budget,
        timeout_s=run.reward_timeout_s,
        allow_revision_change=run.allow_revision_change,
        hedge_after_s="auto" if run.hedge_after_s is None else run.hedge_after_s or None,
        watch_only=watch_only,
    )


def reward_infos(
    trained: Mapping[str, RemoteReward], judges: Mapping[str, RemoteReward], timeout_s: float
) -> dict[str, RewardInfo]:
    """Return the description of each reward, all from one replica: replicas may differ in their revisions."""
    service = next(iter(trained.values())).client.info(timeout_s=timeout_s)
    served = [reward.name for reward in service.rewards]
    for name in judges.keys() - served:
        hint = did_you_mean(name, [*LOCAL_JUDGES, *served])
        raise TrainerError(
            f"unknown judge {name!r}{hint}; choose from the rewards of the service ({', '.join(served)}) and "
            f"{', '.join(LOCAL_JUDGES)}"
        )
    return {name: function.handshake(service) for name, function in {**trained, **judges}.items()}


def _revisions(infos: Mapping[str, RewardInfo]) -> dict[str, str]:
    return {name: info.revision for name, info in infos.items()}


def reward_manifest(run: RunArguments, rloo: RLOOConfig, rewards: ConnectedRewards) -> dict[str, Any]:
    """Return the content of rewards.json: URLs, rewards with their weights, judges, and all revisions."""
    infos = rewards.infos
    weights = [1.0] * len(infos) if rloo.reward_weights is None else rloo.reward_weights
    if len(weights) != len(infos):
        raise TrainerError(f"--reward_weights has {len(weights)} weights for {len(infos)} rewards: give one for each")
    rows = [{**info.model_dump(), "weight": weight} for info, weight in zip(infos, weights, strict=True)]
    judges = [info.model_dump() for info in rewards.judge_infos]
    judges += [{"name": name, "kind": "local", "description": LOCAL_JUDGES[name].__doc__} for name in run.local_judges]
    return {"urls": run.reward_url, "rewards": rows, "judges": judges, "revisions": rewards.revisions}


def watch_unweighted(functions: Sequence[RemoteReward], weights: Sequence[float]) -> None:
    """Mark the rewards of weight 0: nothing is learned from them, so their failures are logged and stop nothing."""
    for function, weight in zip(functions, weights, strict=True):
        function.watch_only = weight == 0


def load_policy_and_tokenizer(
    run: RunArguments, rloo: RLOOConfig, model: ModelConfig
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load the tokenizer and the policy. Raises `TrainerError` if the policy lies in the run folder."""
    name = model.model_name_or_path
    if Path(model_folder(name)).resolve().is_relative_to(Path(rloo.output_dir).resolve()):
        raise TrainerError(f"the policy {name} lies in the run folder {rloo.output_dir}; choose another --output_dir")
    kwargs = {"dtype": model.dtype, "attn_implementation": model.attn_implementation}
    return load_tokenizer(name), load_policy(name, frozen_layers=run.frozen_layers, **kwargs)


def open_run_folder(run: RunArguments, rloo: RLOOConfig, checkpoint: Path | None) -> RunFolder:
    """Create the run folder, or reopen it at the checkpoint's step if the checkpoint is in it."""
    path = Path(rloo.output_dir)
    resumed = checkpoint is not None and checkpoint.resolve().parent == path.resolve()
    if checkpoint is not None and not resumed and checkpoint.resolve().is_relative_to(path.resolve()):
        raise TrainerError(f"{checkpoint} belongs to another run, in a folder of {path}; choose another --output_dir")
    folder = RunFolder.create(path, overwrite=run.overwrite, resume=resumed)
    if checkpoint is not None and resumed:
        folder.truncate_after(checkpoints.step_of(checkpoint))
    return folder


def resolved_config(run: RunArguments, rloo: RLOOConfig, model: ModelConfig) -> dict[str, Any]:
    """Return every setting as it was used, the run arguments first."""
    ours = dataclasses.asdict(run)
    return {**ours, "policy": model.model_name_or_path, **rloo.to_dict(), "model": dataclasses.asdict(model)}


def build_evaluator(
    run: RunArguments,
    rloo: RLOOConfig,
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
        watched=[function.name for function in [*rewards.functions, *rewards.judges] if function.watch_only],
        local_judges=run.local_judges,
        decodings=decodings(run.eval_decodings, run.eval_temperature, run.eval_max_new_tokens),
        revisions=None if run.allow_revision_change else rewards.revisions,
        failure_budget=run.failure_budget,
        batch_size=run.eval_batch,
        seed=rloo.seed,
    )


def evaluate_policy(
    evaluator: Evaluator, policy: PreTrainedModel, folder: RunFolder, when: str, *, step: int
) -> dict[str, Any]:
    """Evaluate the policy, write `before.json` or `after.json`, and return its content."""
    with progress_bar(f"evaluating on held-out prompts, {when}", evaluator.client) as progress:
        result = evaluator.evaluate(policy, step=step, progress=progress)
    folder.write_json(f"{when}.json", result)
    return result


def run_training(trainer: RecordedRLOOTrainer, checkpoint: Path | None, client: RewardClient) -> None:
    """Train. If the rewards stop the run, save a checkpoint, log how to resume, and raise their error."""
    try:
        with closing(LiveProgress(trainer.step_completions, client)) as live:
            trainer.add_callback(live)
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except RewardError:
        log(f"stopped in step {trainer.state.global_step + 1} of {trainer.state.max_steps}: {_save_and_hint(trainer)}")
        raise


def _save_and_hint(trainer: RecordedRLOOTrainer) -> str:
    try:
        saved = trainer.save_last_step()
    except Exception as error:  # a full disk, for which torch and safetensors raise their own; it must not hide why
        return f"the last step could not be saved: {error}"
    return f"its policy is in {saved}; resume with --resume_from_checkpoint {saved}" if saved else "nothing was learned"


def evaluate_trained(evaluator: Evaluator, trainer: RecordedRLOOTrainer, folder: RunFolder) -> dict[str, Any]:
    """Evaluate the trained policy. If the rewards stop that, log how to evaluate it later, and raise their error."""
    try:
        step = trainer.state.global_step
        return evaluate_policy(evaluator, trainer.unwrapped_policy(), folder, "after", step=step)
    except RewardError:
        policy, other = folder.path / POLICY, folder.path.with_name(f"{folder.path.name}-after")
        log(
            f"stopped in the evaluation after training: the policy is saved in {policy}; evaluate it with "
            f"`reward-trainer evaluate --model_name_or_path {policy} --output_dir {other}` and the run's other settings"
        )
        raise


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
