"""Evaluate policies without training them: any folders or hub ids, with a recipe's prompts, rewards and judges."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

from trl import ModelConfig

from remote_rewards.distributed import on_main_rank
from trainer.algorithms import OnlineConfig, TrainingConfig
from trainer.config import parse
from trainer.display import console, log
from trainer.evaluation_options import check_shares, policy_labels, split_options
from trainer.interpolation import interpolate
from trainer.policy import use_column_major_weights
from trainer.prompts import read_prompts
from trainer.reporting.compare_runs import compare_runs
from trainer.reporting.report_text import summary_table
from trainer.rewards import connect_rewards, reward_weights, watch_unweighted
from trainer.run_arguments import RunArguments
from trainer.run_folder import RunFolder
from trainer.settings_parsing import EVALUATE
from trainer.train import (
    build_evaluator,
    evaluate_policy,
    load_base,
    load_policy_and_tokenizer,
    measure_kl,
    resolved_config,
)
from trainer.training_data import TrainingData


def evaluate_all(argv: Sequence[str]) -> list[Path]:
    """Evaluate the policy of a recipe, or each of `--policies` with each of `--shares` and `--seeds`.

    Several are compared, in folders of their own in `--output_dir`. Returns the run folders.
    """
    options, rest = split_options(argv)
    run, args, model = parse(rest, EVALUATE)
    if options is None:
        return [evaluate(run, args, model)]
    check_shares(options.shares, run.kl_from)
    root, folders = Path(args.output_dir), []
    labels = policy_labels(options.policies or [model.model_name_or_path])
    seeds = dict.fromkeys(options.seeds or [args.seed])
    for (policy, label), share, seed in product(labels.items(), dict.fromkeys(options.shares or [1.0]), seeds):
        folder = root / (f"{label}-share{share:g}-seed{seed}" if options.shares else f"{label}-seed{seed}")
        flags = ["--model_name_or_path", policy, "--seed", str(seed), "--output_dir", str(folder)]
        folders.append(evaluate(*parse([*rest, *flags], EVALUATE), share=share))
    on_main_rank(lambda: compare_runs(folders, root / "comparison.html"))
    return folders


def evaluate(run: RunArguments, args: TrainingConfig, model: ModelConfig, *, share: float = 1.0) -> Path:
    """Evaluate the policy of `--model_name_or_path`; write `before.json`, print it, and return the run folder.

    With a `share` below 1, evaluate the weights between `--kl_from` and the policy.
    """
    run = replace(run, interpolation=share)  # not the recipe's, which a training has applied
    heldout = read_prompts(run.heldout_prompts, **run.before_prompts)[: run.eval_limit]
    rewards = connect_rewards(run)
    if isinstance(args, OnlineConfig):  # the others have no weights
        watch_unweighted(rewards.functions, reward_weights(run, args, TrainingData(heldout)))
    tokenizer, policy = load_policy_and_tokenizer(run, args, model, heldout)
    folder = on_main_rank(lambda: RunFolder.create(Path(args.output_dir), overwrite=run.overwrite))
    on_main_rank(lambda: folder.write_config(resolved_config(run, args, model)))
    if share < 1:
        interpolate(policy, load_base(args, model, run.kl_from), share)
    policy.to(args.device)
    use_column_major_weights(policy)
    evaluator = build_evaluator(run, args, tokenizer, heldout, rewards)
    result = evaluate_policy(evaluator, policy, folder, "before", step=0)
    if run.kl_from is not None and run.eval_kl:
        result |= measure_kl(evaluator, policy, partial(load_base, args, model, run.kl_from), result)
        on_main_rank(lambda: folder.write_json("before.json", result))
    console.print(summary_table(result, None))
    log(f"completions and scores: {folder.path / 'before.json'}")
    return folder.path
