"""Sample completions from a policy and score them: n for each prompt, one JSON object a line.

In: a recipe's prompts and rewards, and any policy. Out: `completions.jsonl`, each line with a prompt, a completion, its
scores with their parts and revisions, and why a score is missing. The lines of a prompt are adjacent.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import ModelConfig

from remote_rewards import RewardClient
from shared.schemas import RewardScores
from trainer.algorithms import OnlineConfig, TrainingConfig, template_kwargs
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
from trainer.generation import Decoding, eval_mode, generate, render
from trainer.judges import ScoredCompletion, local_scores
from trainer.policy import use_column_major_weights
from trainer.processes import check_single_process
from trainer.prompts import Row, read_prompts, user_text
from trainer.rewards import connect_rewards, reward_weights, watch_unweighted
from trainer.run_arguments import RunArguments
from trainer.run_folder import RunFolder
from trainer.score_requests import no_scores, request_scores
from trainer.time_limit import TimeLimit
from trainer.train import load_policy_and_tokenizer
from trainer.training_data import TrainingData

FILE = "completions.jsonl"
UNSUPPORTED = {"use_vllm": "false", "use_transformers_continuous_batching": "false", "generation_kwargs": "'{}'"}
"""Settings of TRL's generation that change what is sampled or by which library, and the values that turn them off."""


def sample(run: RunArguments, args: TrainingConfig, model: ModelConfig) -> Path:
    """Sample `--num_generations` completions of each prompt, score them, and return the file."""
    check_single_process(os.environ, "sample")
    if not isinstance(args, OnlineConfig):
        raise TrainerError("completions are sampled with the settings of rloo or grpo: leave out --algorithm")
    check_generation(args)
    if run.kl_from is not None:
        raise TrainerError("--kl_from has no effect on what is sampled: pass it to `reward-trainer evaluate`")
    rows = read_prompts(run.prompts, **run.before_prompts)
    file = Path(args.output_dir) / FILE
    resume = str(args.resume_from_checkpoint or "false").lower() != "false"
    earlier = earlier_records(file, overwrite=run.overwrite, resume=resume)
    rewards = connect_rewards(run)
    check_same_rewards(earlier, rewards.revisions, allow_revision_change=run.allow_revision_change)
    watch_unweighted(rewards.functions, reward_weights(run, args, TrainingData(rows)))
    tokenizer, policy = load_policy_and_tokenizer(run, args, model, rows)
    settings = sampling_settings(run, args, model, policy)
    earlier = records_to_keep(file, earlier, rows, settings, batch_size=per_batch(run, args))
    policy.to(args.device)
    use_column_major_weights(policy)
    sampler = Sampler(
        tokenizer,
        policy,
        rewards.functions[0].client,
        rewards.revisions,
        decoding_of(args),
        completions=args.num_generations,
        seed=args.seed,
        failure_budget=run.failure_budget,
        watched=rewards.watched,
        local_judges=run.local_judges,
        template_kwargs=template_kwargs(args),
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


def check_generation(args: OnlineConfig) -> None:
    """Refuse settings of TRL's generation that are not followed here."""
    for name, off in UNSUPPORTED.items():
        if getattr(args, name):
            raise TrainerError(
                f"--{name} is not supported by `reward-trainer sample`: leave it out, or pass --{name} {off} if the "
                f"recipe sets it"
            )


def decoding_of(args: OnlineConfig) -> Decoding:
    """Return how RLOO or GRPO with these settings would sample."""
    return Decoding(
        "sampled",
        args.temperature,
        args.max_completion_length,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
    )


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
    watched: Sequence[str] = ()
    """The rewards of `revisions` whose failures stop nothing."""
    local_judges: Sequence[str] = ()
    template_kwargs: Mapping[str, Any] | None = None

    def sample(self, rows: Sequence[Row], *, first: int) -> list[Record]:
        """Return a record for each completion of the rows. `first` is the number of rows before them.

        Raises `FailureBudgetExceeded` if too many completions have no score, `RevisionChanged` for another revision.
        """
        repeated = [row for row in rows for _ in range(self.completions)]
        texts = render(self.tokenizer, [row["prompt"] for row in repeated], self.template_kwargs)
        with eval_mode(self.policy), torch.random.fork_rng():
            torch.manual_seed(self.seed + first)  # a resumed run samples what it would have sampled
            generated = generate(self.policy, self.tokenizer, texts, self.decoding)
        results, failures = request_scores(
            self.client,
            repeated,
            [text for text, _, _ in generated],
            rewards=list(self.revisions),
            watched=self.watched,
            revisions=self.revisions,
            failure_budget=self.failure_budget,
            details=True,
        )
        results |= {name: no_scores(len(repeated), self.revisions[name], error) for name, error in failures.items()}
        policy = {"policy": self.policy.config._name_or_path, "temperature": self.decoding.temperature}
        records = []
        for index, (row, (text, tokens, cut_off)) in enumerate(zip(repeated, generated, strict=True)):
            scored = scores_of(results, index)
            completion = ScoredCompletion(user_text(row["prompt"]), text, tokens, cut_off, scored["scores"])
            scored["scores"] |= local_scores(completion, self.local_judges)
            columns = {name: value for name, value in row.items() if name != "prompt"}
            generation = {"prompt": row["prompt"], "completion": text, "tokens": tokens, "cut_off": cut_off}
            records.append({**generation, **scored, "columns": columns, **policy})
        return records


def scores_of(results: Mapping[str, RewardScores], index: int) -> Record:
    """Return what the rewards say about one completion: scores, parts, errors and revisions by reward."""
    rewards = results.items()
    return {
        "scores": {name: reward.scores[index] for name, reward in rewards},
        "parts": {name: reward.details[index] for name, reward in rewards if reward.details},
        "errors": {name: error.model_dump() for name, reward in rewards if (error := reward.errors.get(str(index)))},
        "revisions": {name: reward.revision for name, reward in rewards},
    }
