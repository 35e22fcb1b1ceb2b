"""Evaluate policies without training them: any folders or hub ids, with a recipe's prompts, rewards and judges."""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from trl import ModelConfig

from remote_rewards.distributed import on_main_rank
from trainer.algorithms import TrainingConfig
from trainer.config import RunArguments, parse
from trainer.display import console, log
from trainer.policy import use_column_major_weights
from trainer.prompts import read_prompts
from trainer.reporting.compare_runs import compare_runs
from trainer.reporting.report_text import summary_table
from trainer.rewards import connect_rewards
from trainer.run_folder import RunFolder
from trainer.train import (
    POLICY,
    build_evaluator,
    evaluate_policy,
    load_policy_and_tokenizer,
    resolved_config,
)

PROG = "reward-trainer evaluate"


def evaluate_all(argv: Sequence[str]) -> list[Path]:
    """Evaluate the policy of a recipe, or each of `--policies` with each of `--seeds`; return the run folders.

    Several are compared, in folders of their own in `--output_dir`.
    """
    several = argparse.ArgumentParser(prog=PROG, add_help=False, allow_abbrev=False)
    several.add_argument("--policies", nargs="+")
    several.add_argument("--seeds", nargs="+", type=int)
    chosen, rest = several.parse_known_args(argv)
    run, args, model = parse(rest, PROG)
    if not (chosen.policies or chosen.seeds):
        return [evaluate(run, args, model)]
    root, folders = Path(args.output_dir), []
    for policy, seed in product(chosen.policies or [model.model_name_or_path], chosen.seeds or [args.seed]):
        folder = root / f"{policy_label(policy)}-seed{seed}"
        flags = ["--model_name_or_path", policy, "--seed", str(seed), "--output_dir", str(folder)]
        folders.append(evaluate(*parse([*rest, *flags], PROG)))
    on_main_rank(lambda: compare_runs(folders, root / "comparison.html"))
    return folders


def policy_label(policy: str) -> str:
    """Return a name for a policy's folder: its own, or its run's, without separators."""
    path = Path(policy)
    return (path.parent.name if path.name == POLICY else path.name).replace(":", "_") or "policy"


def evaluate(run: RunArguments, args: TrainingConfig, model: ModelConfig) -> Path:
    """Evaluate the policy of `--model_name_or_path`; write `before.json`, print it, and return the run folder."""
    heldout = read_prompts(run.heldout_prompts, **run.before_prompts)[: run.eval_limit]
    rewards = connect_rewards(run)
    tokenizer, policy = load_policy_and_tokenizer(run, args, model)
    folder = on_main_rank(lambda: RunFolder.create(Path(args.output_dir), overwrite=run.overwrite))
    on_main_rank(lambda: folder.write_config(resolved_config(run, args, model)))
    policy.to(args.device)
    use_column_major_weights(policy)
    evaluator = build_evaluator(run, args, tokenizer, heldout, rewards)
    result = evaluate_policy(evaluator, policy, folder, "before", step=0)
    console.print(summary_table(result, None))
    log(f"completions and scores: {folder.path / 'before.json'}")
    return folder.path
