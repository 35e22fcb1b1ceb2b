"""Evaluate a policy: generate completions for held-out prompts, score them with rewards and judges.

The base policy and the trained one are evaluated with the same prompts, seeds and batches. The ranks of a distributed
run share the batches, whose completions do not depend on the number of ranks; rank 0 has them scored.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from remote_rewards import RewardClient
from remote_rewards.distributed import on_all_ranks, on_main_rank, rank, world_size
from trainer.generation import Decoding, eval_mode, generate, length_sorted_batches, render
from trainer.judges import ScoredCompletion, local_scores
from trainer.prompts import Row, prompt_id_of, user_text
from trainer.score_requests import request_scores

Progress = Callable[[int, int], None]  # (completions generated, completions in all)


class Evaluator:
    """Evaluates policies on the same prompts; `revisions` pins the rewards' revisions.

    Failures of the `watched` rewards, from which nothing is learned, are logged and stop nothing.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Row],
        client: RewardClient,
        *,
        rewards: Sequence[str],
        watched: Collection[str] = (),
        local_judges: Sequence[str] = (),
        decodings: Sequence[Decoding] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        revisions: Mapping[str, str] | None = None,
        failure_budget: float = 0.01,
        batch_size: int = 100,
        seed: int = 42,
    ) -> None:
        self.tokenizer, self.rows, self.client = tokenizer, list(rows), client
        self.rewards, self.watched = list(rewards), frozenset(watched)
        self.local_judges, self.decodings = list(local_judges), list(decodings)
        self.revisions, self.failure_budget = revisions, failure_budget
        self.batch_size, self.seed, self.template_kwargs = batch_size, seed, template_kwargs

    def evaluate(
        self, model: PreTrainedModel, *, step: int, progress: Progress = lambda done, total: None
    ) -> dict[str, Any]:
        """Generate and score completions with every decoding; return the content of before.json or after.json."""
        started_s = time.monotonic()
        result: dict[str, Any] = {"step": step, "policy": model.config._name_or_path, "decodings": {}}
        total = len(self.decodings) * len(self.rows)
        for index, decoding in enumerate(self.decodings):
            generated = self.generate(model, decoding, _from(progress, index * len(self.rows), total))
            completions = on_main_rank(partial(self.score, generated))
            result["decodings"][decoding.name] = {
                "temperature": decoding.temperature,
                "max_new_tokens": decoding.max_new_tokens,
                "samples": [asdict(completion) for completion in completions],
            }
        result["seconds"] = round(time.monotonic() - started_s, 1)
        return result

    def rendered_prompts(self) -> list[str]:
        """Return the prompts as texts that a policy completes."""
        return render(self.tokenizer, [row["prompt"] for row in self.rows], self.template_kwargs)

    def generate(
        self, model: PreTrainedModel, decoding: Decoding, progress: Callable[[int], None]
    ) -> list[ScoredCompletion]:
        """Return one completion for each prompt, in order, without scores. Each rank generates some of the batches."""
        prompts, texts = [row["prompt"] for row in self.rows], self.rendered_prompts()
        batches = [*enumerate(length_sorted_batches([len(text) for text in texts], self.batch_size))]

        def generate_share() -> dict[int, ScoredCompletion]:
            completions: dict[int, ScoredCompletion] = {}
            with eval_mode(model), torch.random.fork_rng():
                for number, indices in batches[rank() :: world_size()]:
                    torch.manual_seed(self.seed + number)
                    generated = generate(model, self.tokenizer, [texts[index] for index in indices], decoding)
                    for index, (completion, tokens, cut_off) in zip(indices, generated, strict=True):
                        prompt = prompts[index]
                        scored = ScoredCompletion(user_text(prompt), completion, tokens, cut_off)
                        scored.prompt_id = prompt_id_of(prompt)
                        completions[index] = scored
                    progress(min(len(texts), len(completions) * world_size()))
            return completions

        completions = {index: scored for share in on_all_ranks(generate_share) for index, scored in share.items()}
        return [completions[index] for index in range(len(texts))]

    def score(self, completions: Sequence[ScoredCompletion]) -> Sequence[ScoredCompletion]:
        """Add the rewards' scores, then the local judges', to the completions of all prompts, and return them.

        Raises `FailureBudgetExceeded` if too many have no score, `RevisionChanged` for another revision.
        """
        results, _ = request_scores(
            self.client,
            self.rows,
            [scored.completion for scored in completions],
            rewards=self.rewards,
            watched=self.watched,
            revisions=self.revisions,
            failure_budget=self.failure_budget,
        )
        for index, scored in enumerate(completions):
            scored.scores = {name: results[name].scores[index] for name in self.rewards if name in results}
            scored.scores |= local_scores(scored, self.local_judges)
        return completions


def _from(progress: Progress, start: int, total: int) -> Callable[[int], None]:
    return lambda done: progress(start + done, total)
