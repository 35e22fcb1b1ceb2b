"""Score with a weighted sum of other rewards. A sum holds no queue slot, so parts and sums never deadlock."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from reward_service.rewards.base import Items, Reward, Scores, finite_range, null_non_finite
from reward_service.specs import CompositeSpec
from shared.aio import gather_or_cancel
from shared.schemas import ItemError, RewardInfo, strictest_scope


class CompositeReward(Reward):
    """A clipped sum of weighted, clipped parts, behind gates. An item that one part cannot score has no sum."""

    def __init__(self, name: str, spec: CompositeSpec, rewards: Mapping[str, Reward]) -> None:
        self._spec = spec
        self._rewards = {part: rewards[part] for part in sorted(spec.dependencies())}
        revisions = {part: reward.info.revision for part, reward in self._rewards.items()}
        content = json.dumps(
            [spec.model_dump(mode="json", exclude={"description", "aliases"}), revisions], sort_keys=True
        )
        self.info = RewardInfo(
            name=name,
            kind=spec.kind,
            description=spec.description,
            revision="composite:" + hashlib.sha256(content.encode()).hexdigest()[:16],
            parts=list(self._rewards),
            columns=_columns([reward.info for reward in self._rewards.values()]),
            reads_prompts=any(reward.info.reads_prompts for reward in self._rewards.values()),
            scope=strictest_scope(reward.info.scope for reward in self._rewards.values()),
            range=finite_range(_range(spec, {part: reward.info.range for part, reward in self._rewards.items()})),
        )

    async def score(self, items: Items) -> Scores:
        """Score the parts concurrently, then sum item by item."""
        results = await gather_or_cancel(items.score_with(reward) for reward in self._rewards.values())
        for result in results:
            null_non_finite(result)  # a gate or a clip would turn infinity into a number
        parts = dict(zip(self._rewards, results, strict=True))
        total = Scores(scores=[], details=[])
        for index in range(len(items)):
            scores = {name: part.scores[index] for name, part in parts.items()}
            missing = next((name for name, score in scores.items() if score is None), None)
            if missing is not None:
                reason = parts[missing].errors[index]
                total.errors[index] = ItemError(code=reason.code, message=f"{missing}: {reason.message}")
            total.scores.append(None if missing is not None else combine(self._spec, scores))
            total.details.append({name: _detail(part, index) for name, part in parts.items()})
        for part in parts.values():
            total.metrics.update(part.metrics)
            total.extra.update(part.extra)
        total.truncated = sorted({index for part in parts.values() for index in part.truncated})
        counts = [part.tokens for part in parts.values() if part.tokens]
        total.tokens = [sum(tokens) for tokens in zip(*counts, strict=True)]
        total.overlong = sorted({index for part in parts.values() for index in part.overlong})
        total.queue_ms = max(part.queue_ms for part in parts.values())
        total.compute_ms = max(part.compute_ms for part in parts.values())
        return total

    @property
    def canary_prefix(self) -> str:
        """Return the prefixes of all parts."""
        return "".join(reward.canary_prefix for reward in self._rewards.values())

    @property
    def accepts_canary(self) -> bool:
        """Return whether every part accepts the canary."""
        return all(reward.accepts_canary for reward in self._rewards.values())

    def check_deadline(self, deadline_s: float) -> None:
        """Raise `Overloaded` if one part's queue is too long."""
        for reward in self._rewards.values():
            reward.check_deadline(deadline_s)


def _columns(parts: Sequence[RewardInfo]) -> list[str] | None:
    """Return the columns that the parts read; None if those of one are unknown."""
    if any(part.columns is None for part in parts):
        return None
    return sorted({column for part in parts for column in part.columns or ()})


def combine(spec: CompositeSpec, scores: Mapping[str, float | None]) -> float:
    """Return the sum of one item's part scores, all of which are numbers."""
    values = {name: score for name, score in scores.items() if score is not None}
    for gate in spec.gates:
        if values[gate.reward] < gate.at_least:
            return gate.otherwise
    total = sum(part.weight * _clip(values[name], part.clip) for name, part in spec.parts.items())
    return _clip(total, spec.clip)


def _clip(score: float, bounds: tuple[float, float] | None) -> float:
    return score if bounds is None else min(max(score, bounds[0]), bounds[1])


def _detail(part: Scores, index: int) -> dict[str, Any]:
    score, detail = part.scores[index], part.details[index]
    return {"score": score, "made_of": detail} if detail else {"score": score}


def _range(spec: CompositeSpec, ranges: Mapping[str, tuple[float, float] | None]) -> tuple[float, float] | None:
    low = high = 0.0
    otherwise = [gate.otherwise for gate in spec.gates]
    for name, part in spec.parts.items():
        bounds = part.clip or ranges[name]
        if bounds is None:
            return None if spec.clip is None else (min([spec.clip[0], *otherwise]), max([spec.clip[1], *otherwise]))
        ends = sorted(part.weight * bound for bound in bounds)
        low, high = low + ends[0], high + ends[1]
    return min([_clip(low, spec.clip), *otherwise]), max([_clip(high, spec.clip), *otherwise])
