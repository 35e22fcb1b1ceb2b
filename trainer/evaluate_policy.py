"""Evaluate a policy without training it: any folder or hub id, with a recipe's prompts, rewards and metrics."""

from pathlib import Path

from trl import ModelConfig, RLOOConfig

from trainer.config import RunArguments
from trainer.display import console, log
from trainer.policy import use_column_major_weights
from trainer.prompts import read_prompts
from trainer.reporting.report_text import summary_table
from trainer.rewards import connect_rewards
from trainer.run_folder import RunFolder
from trainer.train import (
    build_evaluator,
    evaluate_policy,
    load_policy_and_tokenizer,
    resolved_config,
)


def evaluate(run: RunArguments, rloo: RLOOConfig, model: ModelConfig) -> Path:
    """Evaluate the policy of `--model_name_or_path`; write `before.json`, print it, and return the run folder."""
    heldout = read_prompts(run.heldout_prompts, system_prompt=run.system_prompt)[: run.eval_limit]
    rewards = connect_rewards(run)
    tokenizer, policy = load_policy_and_tokenizer(run, rloo, model)
    folder = RunFolder.create(Path(rloo.output_dir), overwrite=run.overwrite)
    folder.write_config(resolved_config(run, rloo, model))
    policy.to(rloo.device)
    use_column_major_weights(policy)
    evaluator = build_evaluator(run, rloo, tokenizer, heldout, rewards)
    result = evaluate_policy(evaluator, policy, folder, "before", step=0)
    console.print(summary_table(result, None))
    log(f"completions and scores: {folder.path / 'before.json'}")
    return folder.path
