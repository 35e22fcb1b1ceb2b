"""Sample completions from a policy and score them: n for each prompt, one JSON object a line.

In: a recipe's prompts and rewards, and any policy. Out: `completions.jsonl`, each line with a prompt, a completion, its
scores with their parts and revisions, and why a score is missing. The lines of a prompt are adjacent.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import ModelConfig

from remote_rewards import RewardClient
from shared.schemas import ScoreResponse
from trainer.algorithms import OnlineConfig, TrainingConfig
from trainer.config import RunArguments
from trainer.display import log, progress_bar
from trainer.earlier_completions import (
    SETTINGS_FILE,
    Record,
    check_same_rewards,
    earlier_records,
    records_to_keep,
    sampling_settings,
)
from trainer.errors import TrainerError
from trainer.evaluator import check_failure_budget
from trainer.generation import Decoding, eval_mode, generate
from trainer.policy import use_column_major_weights
from trainer.processes import check_single_process
from trainer.prompts import Row, columns_of, read_prompts
from trainer.rewards import connect_rewards
from trainer.run_folder import RunFolder
from trainer.time_limit import TimeLimit
from trainer.train import load_policy_and_tokenizer

FILE = "completions.jsonl"


def sample(run: RunArguments, args: TrainingConfig, model: ModelConfig) -> Path:
    """Sample `--num_generations` completions of each prompt, score them, and return the file."""
    check_single_process(os.environ, "sample")
    if not isinstance(args, OnlineConfig):
        raise TrainerError("completions are sampled with the settings of rloo or grpo: leave out --algorithm")
    rows = read_prompts(run.prompts, **run.before_prompts)
    file = Path(args.output_dir) / FILE
    resume = str(args.resume_from_checkpoint or "false").lower() != "false"
    earlier = earlier_records(file, overwrite=run.overwrite, resume=resume)
    rewards = connect_rewards(run)
    check_same_rewards(earlier, rewards.revisions, allow_revision_change=run.allow_revision_change)
    tokenizer, policy = load_policy_and_tokenizer(run, args, model)
    settings = sampling_settings(run, args, model, policy)
    earlier = records_to_keep(file, earlier, rows, settings, batch_size=per_batch(run, args))
    policy.to(args.device)
    use_column_major_weights(policy)
    sampler = Sampler(
        tokenizer,
        policy,
        rewards.functions[0].client,
        rewards.revisions,
        Decoding("sampled", args.temperature, args.max_completion_length),
        completions=args.num_generations,
        seed=args.seed,
        failure_budget=run.failure_budget,
    )
    folder = RunFolder(file.parent)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_jsonl(FILE, earlier)  # first: without records, no settings are compared
    folder.write_json(SETTINGS_FILE, settings)
    limit = TimeLimit(run.max_minutes)
    with progress_bar("sampling completions", sampler.client) as progress:
        for start in range(len(earlier) // args.num_generations, len(rows), per_batch(run, args)):
            if limit.over:
                log(f"--max_minutes {run.max_minutes:g} are over: sampled {start} of {len(rows)} prompts")
                break
            batch = rows[start : start + per_batch(run, args)]
            folder.append(FILE, *sampler.sample(batch, first=start))
            progress(start + len(batch), len(rows))
    log(f"completions and scores: {file}")
    return file


def per_batch(run: RunArguments, args: TrainingConfig) -> int:
    """Return the number of prompts that are completed together."""
    return max(1, run.eval_batch // int(args.num_generations))


@dataclass(frozen=True)
class Sampler:
    """Completes prompts and scores the completions, with pinned revisions."""

    tokenizer: PreTrainedTokenizerBase
    policy: PreTrainedModel
    client: RewardClient
    revisions: Mapping[str, str]
    decoding: Decoding
    completions: int
    """Completions of each prompt."""
    seed: int
    failure_budget: float

    def sample(self, rows: Sequence[Row], *, first: int) -> list[Record]:
        """Return a record for each completion of the rows. `first` is the number of rows before them.

        Raises `FailureBudgetExceeded` if too many completions have no score, `RevisionChanged` for another revision.
        """
        repeated = [row for row in rows for _ in range(self.completions)]
        texts = self.tokenizer.apply_chat_template(
            [row["prompt"] for row in repeated], add_generation_prompt=True, tokenize=False
        )
        with eval_mode(self.policy), torch.random.fork_rng():
            torch.manual_seed(self.seed + first)  # a resumed run samples what it would have sampled
            generated = generate(self.policy, self.tokenizer, texts, self.decoding)
        messages = [[{"role": "assistant", "content": text}] for text, _, _ in generated]  # as in training
        response = self.client.score(
            messages,
            [row["prompt"] for row in repeated],
            columns_of(repeated),
            rewards=list(self.revisions),
            details=True,
            revisions=self.revisions,
        )
        for name, reward in response.rewards.items():
            check_failure_budget(name, reward, self.failure_budget)
        policy = {"policy": self.policy.config._name_or_path, "temperature": self.decoding.temperature}
        return [
            {
                "prompt": row["prompt"],
                "completion": text,
                "tokens": tokens,
                "cut_off": cut_off,
                **scores_of(response, index),
                "columns": {name: value for name, value in row.items() if name != "prompt"},
                **policy,
            }
            for index, (row, (text, tokens, cut_off)) in enumerate(zip(repeated, generated, strict=True))
        ]


def scores_of(response: ScoreResponse, index: int) -> Record:
    """Return what a response says about one completion: scores, parts, errors and revisions by reward."""
    rewards = response.rewards.items()
    return {
        "scores": {name: reward.scores[index] for name, reward in rewards},
        "parts": {name: reward.details[index] for name, reward in rewards if reward.details},
        "errors": {name: error.model_dump() for name, reward in rewards if (error := reward.errors.get(str(index)))},
        "revisions": {name: reward.revision for name, reward in rewards},
    }
