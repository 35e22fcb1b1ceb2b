"""Measure a policy without training it: any folder or hub id, with a recipe's prompts, rewards and judges."""

from pathlib import Path

from trl import ModelConfig, RLOOConfig

from trainer.config import RunArguments
from trainer.display import console, counting, say
from trainer.evaluator import Evaluator, decodings
from trainer.policy import use_column_major_weights
from trainer.prompts import read_prompts
from trainer.reporting.report_text import summary_table
from trainer.run_folder import RunFolder
from trainer.train import connect_rewards, load_policy_and_tokenizer, resolved_config


def evaluate(run: RunArguments, rloo: RLOOConfig, model: ModelConfig) -> Path:
    """Write `before.json` of the policy named by `--model_name_or_path` into the output folder and print it."""
    heldout = read_prompts(run.heldout_prompts, system_prompt=run.system_prompt)[: run.eval_limit]
    rewards, _, revisions = connect_rewards(run)
    tokenizer, policy = load_policy_and_tokenizer(run, rloo, model)
    folder = RunFolder.create(Path(rloo.output_dir), overwrite=run.overwrite)
    folder.write_config(resolved_config(run, rloo, model))
    policy.to(rloo.device)
    use_column_major_weights(policy)
    names = list(dict.fromkeys([*run.rewards, *run.eval_rewards]))
    evaluator = Evaluator(
        tokenizer,
        heldout,
        rewards[0].client,
        rewards=names,
        judges=run.judges,
        revisions=None if run.allow_revision_change else revisions,
        failure_budget=run.failure_budget,
        batch=run.eval_batch,
        seed=rloo.seed,
    )
    ways = decodings(run.eval_decodings, run.eval_temperature, run.eval_max_new_tokens)
    with counting("measuring on held-out prompts") as progress:
        result = evaluator.evaluate(policy, ways, step=0, progress=progress)
    folder.write_json("before.json", result)
    console.print(summary_table(result, None))
    say(f"replies and scores: {folder.path / 'before.json'}")
    return folder.path
