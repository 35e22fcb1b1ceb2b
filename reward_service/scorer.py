"""Score requests: the seam between HTTP and rewards, with no HTTP in it."""

import asyncio
import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Self

from reward_service.errors import DeadlineExceeded, InvalidRequest, OtherRevision, Overloaded, UnknownReward, sanitize
from reward_service.reward_outputs import RewardOutputs
from reward_service.rewards.base import Items, Reward, Scores, null_non_finite
from reward_service.text import completion_text, prompt_text
from shared.aio import gather_or_cancel
from shared.errors import describe_change, did_you_mean
from shared.schemas import ItemError, RewardScores, ScoreRequest, ScoreResponse, Timing


class Scorer:
    """Scores requests with the rewards they name, and counts the requests that use them."""

    def __init__(
        self,
        rewards: Mapping[str, Reward],
        default: Sequence[str],
        other_names: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.rewards, self.default = dict(rewards), list(default)
        self._other_names = dict(other_names)
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def depth(self) -> int:
        """Return the number of texts queued for all models together."""
        return sum(reward.depth for reward in self.rewards.values())

    @property
    def backlog_s(self) -> float:
        """Return the estimated compute time of the texts queued for all models, which take turns, in seconds."""
        return sum(reward.backlog_s for reward in self.rewards.values())

    @property
    def healthy(self) -> bool:
        """Return whether every reward can currently score."""
        return all(reward.healthy for reward in self.rewards.values())

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Self]:
        """Count a request in flight."""
        self._in_flight += 1
        self._idle.clear()
        try:
            yield self
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no request is in flight."""
        await self._idle.wait()

    async def stop(self) -> None:
        """Stop the rewards. Pending requests are answered with an error."""
        for reward in self.rewards.values():
            await reward.stop()

    def check_deadline(self, deadline_s: float) -> None:
        """Raise `Overloaded` if no reward could meet the deadline: then the body need not be read."""
        refusals = []
        for reward in self.rewards.values():
            try:
                reward.check_deadline(deadline_s)
            except Overloaded as error:
                refusals.append(error)
            else:
                return
        raise min(refusals, key=lambda refusal: refusal.retry_after_s or 0.0)

    def check_pins(self, pins: Mapping[str, str]) -> None:
        """Raise `OtherRevision` if a reward here has another revision than the request is pinned to."""
        for name, expected in pins.items():
            if name in self.rewards and (revision := self.rewards[name].info.revision) != expected:
                raise OtherRevision(describe_change(name, revision, expected))

    async def score(self, request: ScoreRequest, *, request_id: str, deadline_s: float) -> ScoreResponse:
        """Score with every named reward, concurrently. Raise a `RewardServiceError` if one cannot score at all."""
        names = list(dict.fromkeys(self.default if request.rewards is None else request.rewards))
        rewards = [self.get(name) for name in names]
        results = await self._score_all(rewards, to_items(request, deadline_s))
        return ScoreResponse(
            rewards={
                name: to_wire(result, reward.info.revision, details=request.details)
                for name, reward, result in zip(names, rewards, results, strict=True)
            },
            request_id=request_id,
            timing=Timing(
                queue_ms=round(max((result.queue_ms for result in results), default=0.0), 3),
                compute_ms=round(max((result.compute_ms for result in results), default=0.0), 3),
            ),
        )

    async def _score_all(self, rewards: Sequence[Reward], items: Items) -> list[Scores]:
        """Score concurrently, and enforce the deadline even on rewards that ignore it."""
        try:
            async with asyncio.timeout_at(None if items.deadline_s == math.inf else items.deadline_s):
                results = await gather_or_cancel(items.score_with(reward) for reward in rewards)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before all texts were scored") from None
        for result in results:
            null_non_finite(result)
        return results

    def select(self, name: str | None) -> str:
        """Return the name of the one reward with this name, alias or model; the default reward's for None.

        Raise `UnknownReward`, or `InvalidRequest` if there are several.
        """
        if name is not None and name in self.rewards:
            return name
        candidates = self.default if name is None else self._other_names.get(name, [])
        if len(candidates) > 1:
            meant = "the default is" if name is None else f"{name[:80]!r} is the model of"
            raise InvalidRequest(f"{meant} several rewards; name one with ?reward=: {', '.join(candidates)}")
        return candidates[0] if candidates else self.get(str(name)).info.name

    def get(self, name: str) -> Reward:
        """Return the reward with this name. Raise `UnknownReward` if there is none."""
        if name not in self.rewards:
            shown, known = name[:80], ", ".join(sorted(self.rewards))
            raise UnknownReward(f"there is no reward {shown!r}{did_you_mean(shown, self.rewards)}; there are: {known}")
        return self.rewards[name]


def to_items(request: ScoreRequest, deadline_s: float = math.inf) -> Items:
    """Extract the texts of a request."""
    prompts = request.prompts
    return Items(
        completions=[completion_text(completion) for completion in request.completions],
        prompts=None if prompts is None else [prompt_text(prompt) for prompt in prompts],
        columns=request.columns,
        chats=request.completions,
        prompt_chats=prompts,
        trainer_state=request.trainer_state,
        deadline_s=deadline_s,
    )


def to_wire(result: Scores, revision: str, *, details: bool) -> RewardScores:
    """Convert one reward's result to its form on the wire, with the outputs that only foreign formats carry."""
    return RewardOutputs(
        scores=result.scores,
        revision=revision,
        errors={str(index): sanitized(error) for index, error in sorted(result.errors.items())},
        truncated=result.truncated,
        overlong=result.overlong,
        details=result.details if details else None,
        metrics=result.metrics,
        extra=result.extra,
        logits=result.logits,
        tokens=result.tokens,
    )


def sanitized(error: ItemError) -> ItemError:
    """Return the error with a printable message: a user's code may have written it."""
    return ItemError(code=error.code, message=sanitize(error.message))
