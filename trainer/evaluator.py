"""Measure a policy: replies to held-out prompts, greedy and sampled, scored by the rewards and by other judges.

Base and trained policy go through this one path, with the same prompts, seeds and batches.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from remote_rewards import RewardClient
from remote_rewards.failure_budget import exceeds_budget, failed_items
from shared.errors import FailureBudgetExceeded
from shared.schemas import RewardScores
from trainer.eval_metrics import EVAL_METRICS
from trainer.prompts import Row, columns_of, user_text

Prompt = list[dict[str, Any]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Decoding:
    """How replies are drawn; temperature 0 is greedy."""

    name: str
    temperature: float
    max_new_tokens: int


@dataclass
class ScoredCompletion:
    """One reply and what each judge says of it."""

    prompt: str
    completion: str
    tokens: int
    cut_off: bool
    scores: dict[str, float | None] = field(default_factory=dict)


def decodings(names: Sequence[str], temperature: float, max_new_tokens: int) -> list[Decoding]:
    """Give the named decodings."""
    return [Decoding(name, 0.0 if name == "greedy" else temperature, max_new_tokens) for name in names]


class Evaluator:
    """Measures policies always in the same way, and with the same `revisions` of the rewards where they are given."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Row],
        client: RewardClient,
        *,
        rewards: Sequence[str],
        judges: Sequence[str],
        revisions: Mapping[str, str] | None = None,
        failure_budget: float = 0.01,
        batch: int = 100,
        seed: int = 42,
    ) -> None:
        self.tokenizer, self.rows, self.client = tokenizer, list(rows), client
        self.rewards, self.judges, self.batch, self.seed = list(rewards), list(judges), batch, seed
        self.revisions, self.failure_budget = revisions, failure_budget

    def evaluate(
        self,
        model: PreTrainedModel,
        ways: Sequence[Decoding],
        *,
        step: int,
        progress: Progress = lambda done, of: None,
    ) -> dict[str, Any]:
        """Reply to every prompt in every way, score the replies, and give what before.json and after.json hold."""
        started_s = time.monotonic()
        result: dict[str, Any] = {"step": step, "policy": model.config._name_or_path, "decodings": {}}
        for index, way in enumerate(ways):
            counted = _from(progress, index * len(self.rows), len(ways) * len(self.rows))
            replies = self._replies(model, way, counted)
            self._score(replies)
            result["decodings"][way.name] = {
                "temperature": way.temperature,
                "max_new_tokens": way.max_new_tokens,
                "samples": [asdict(reply) for reply in replies],
            }
        result["seconds"] = round(time.monotonic() - started_s, 1)
        return result

    def _replies(self, model: PreTrainedModel, way: Decoding, done: Callable[[int], None]) -> list[ScoredCompletion]:
        prompts = [row["prompt"] for row in self.rows]
        texts = self.tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False)
        replies: dict[int, ScoredCompletion] = {}
        with eval_mode(model), torch.random.fork_rng():
            torch.manual_seed(self.seed)
            for indices in batches([len(text) for text in texts], self.batch):
                made = generate(model, self.tokenizer, [texts[index] for index in indices], way)
                for index, (completion, tokens, cut_off) in zip(indices, made, strict=True):
                    replies[index] = ScoredCompletion(user_text(prompts[index]), completion, tokens, cut_off)
                done(len(replies))
        return [replies[index] for index in range(len(texts))]

    def _score(self, replies: list[ScoredCompletion]) -> None:
        completions = [[{"role": "assistant", "content": reply.completion}] for reply in replies]  # as in training
        prompts, columns = [row["prompt"] for row in self.rows], columns_of(self.rows)
        response = self.client.score(completions, prompts, columns, rewards=self.rewards, revisions=self.revisions)
        for name, reward in response.rewards.items():
            check_failure_budget(name, reward, self.failure_budget)
            for reply, score in zip(replies, reward.scores, strict=True):
                reply.scores[name] = score
        for reply in replies:
            sentiment = reply.scores.get("sentiment")
            if sentiment is not None:
                reply.scores["positive_share"] = float(sentiment > 0)
            reply.scores |= {judge: EVAL_METRICS[judge](reply.prompt, reply.completion) for judge in self.judges}


def check_failure_budget(name: str, reward: RewardScores, budget: float) -> None:
    """Raise `FailureBudgetExceeded` where the figures would be of too few replies to be those of the policy."""
    failed = list(failed_items([reward]).values())
    if exceeds_budget([(len(failed), len(reward.scores))], budget):
        raise FailureBudgetExceeded(
            f"{len(failed)} of {len(reward.scores)} replies have no {name!r} score, more than {budget:.0%} allowed; "
            f"{failed[0].code}: {failed[0].message}"
        )


def _from(progress: Progress, base: int, total: int) -> Callable[[int], None]:
    return lambda done: progress(base + done, total)


def batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Group indices of like lengths, so that little is padding."""
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    for start in range(0, len(order), size):
        yield order[start : start + size]


class InverseCdfSampler(LogitsProcessor):  # type: ignore[misc]
    """Draw each row's token with one uniform number, and leave nothing else to choose for a greedy search.

    `torch.multinomial` draws a number for every word of the vocabulary, which on a CPU takes a third of generating.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Give scores (batch, vocabulary) that are 0 for the token drawn and -inf for all others."""
        cumulated = torch.softmax(scores / self.temperature, dim=-1).cumsum(dim=-1)
        drawn = torch.rand(len(scores), 1, device=scores.device) * cumulated[:, -1:]
        tokens = torch.searchsorted(cumulated, drawn).clamp_(max=scores.shape[-1] - 1)  # (batch, 1)
        return torch.full_like(scores, -math.inf).scatter_(1, tokens, 0.0)


@torch.inference_mode()
def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], way: Decoding
) -> list[tuple[str, int, bool]]:
    """Reply to laid-out chats: (reply, its tokens, whether it was cut off), in order."""
    inputs = tokenizer(list(texts), padding=True, return_tensors="pt", add_special_tokens=False).to(model.device)
    sampler = [InverseCdfSampler(way.temperature)] if way.temperature else []
    ids = model.generate(
        **inputs,
        max_new_tokens=way.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        do_sample=False,
        logits_processor=LogitsProcessorList(sampler),
    )
    made = []
    for row in ids[:, inputs["input_ids"].shape[1] :].tolist():  # (batch, new tokens)
        ended = tokenizer.eos_token_id in row
        tokens = row[: row.index(tokenizer.eos_token_id)] if ended else row
        made.append((tokenizer.decode(tokens, skip_special_tokens=True), len(tokens), not ended))
    return made


@contextmanager
def eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Put a model into evaluation mode for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
