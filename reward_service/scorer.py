"""The seam between HTTP and rewards: a request in, a response out, no HTTP in between."""

import asyncio
import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from reward_service.errors import DeadlineExceeded, Overloaded, UnknownReward
from reward_service.problem_details import sanitize
from reward_service.rewards.base import Items, Reward, Scores, null_non_finite, score_once
from reward_service.text import completion_text, prompt_text
from shared.aio import gather_or_cancel
from shared.errors import did_you_mean
from shared.schemas import ItemError, RewardScores, ScoreRequest, ScoreResponse, Timing


class Scorer:
    """Scores requests with the rewards they name."""

    def __init__(self, rewards: Mapping[str, Reward], default: Sequence[str]) -> None:
        self.rewards, self.default = dict(rewards), list(default)
        self._requests = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def depth(self) -> int:
        """Texts that wait before all models together."""
        return sum(getattr(reward, "depth", 0) for reward in self.rewards.values())

    @property
    def healthy(self) -> bool:
        """Tell whether all that score go on scoring."""
        return all(getattr(reward, "healthy", True) for reward in self.rewards.values())

    @contextlib.contextmanager
    def in_use(self) -> Iterator[Self]:
        """Count a request that uses these rewards."""
        self._requests += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._requests -= 1
            if not self._requests:
                self._unused.set()

    async def wait_idle(self) -> None:
        """Wait until no request uses them."""
        await self._unused.wait()

    async def stop(self) -> None:
        """End them; whatever still waits is answered."""
        for reward in self.rewards.values():
            await reward.stop()

    def check_deadline(self, deadline_s: float) -> None:
        """Raise `Overloaded` where every line is too long for a caller: what it asks need not be read."""
        refusals = [_refusal(reward, deadline_s) for reward in self.rewards.values() if not reward.info.parts]
        late = [refusal for refusal in refusals if refusal is not None]
        if late and len(late) == len(refusals):
            raise min(late, key=lambda refusal: refusal.retry_after_s or 0.0)

    async def score(self, request: ScoreRequest, *, request_id: str, deadline_s: float) -> ScoreResponse:
        """Score with every reward named, side by side. Raises a `RewardServiceError` if one cannot score at all."""
        names = list(dict.fromkeys(self.default if request.rewards is None else request.rewards))
        chosen = [self.get(name) for name in names]
        items = to_items(request, deadline_s)
        results = await self._results(chosen, items)
        return ScoreResponse(
            rewards={
                name: to_wire(result, reward.info.revision, details=request.details)
                for name, reward, result in zip(names, chosen, results, strict=True)
            },
            request_id=request_id,
            timing=Timing(
                queue_ms=round(max((result.queue_ms for result in results), default=0.0), 3),
                compute_ms=round(max((result.compute_ms for result in results), default=0.0), 3),
            ),
        )

    async def _results(self, chosen: Sequence[Reward], items: Items) -> list[Scores]:
        """Score side by side until the deadline, whatever a reward does about it."""
        try:
            async with asyncio.timeout_at(None if items.deadline_s == math.inf else items.deadline_s):
                results = await gather_or_cancel(score_once(reward, items) for reward in chosen)
        except TimeoutError:
            raise DeadlineExceeded("the time allowed ran out before all texts were scored") from None
        for result in results:
            null_non_finite(result)
        return results

    def get(self, name: str) -> Reward:
        """Give the reward of a name."""
        if name not in self.rewards:
            told, known = name[:80], ", ".join(sorted(self.rewards))
            raise UnknownReward(f"there is no reward {told!r}{did_you_mean(told, self.rewards)}; there are: {known}")
        return self.rewards[name]


def _refusal(reward: Reward, deadline_s: float) -> Overloaded | None:
    """Give why a reward would be late; one that has no line never is."""
    try:
        if (check_deadline := getattr(reward, "check_deadline", None)) is not None:
            check_deadline(deadline_s)
    except Overloaded as error:
        return error
    return None


def to_items(request: ScoreRequest, deadline_s: float = math.inf) -> Items:
    """Take the texts out of a request."""
    prompts = request.prompts
    return Items(
        completions=[completion_text(completion) for completion in request.completions],
        prompts=None if prompts is None else [prompt_text(prompt) for prompt in prompts],
        columns=request.columns,
        chats=request.completions,
        prompt_chats=prompts,
        deadline_s=deadline_s,
    )


def to_wire(result: Scores, revision: str, *, details: bool) -> RewardScores:
    """Lay one reward's result out for the wire."""
    return RewardScores(
        scores=result.scores,
        revision=revision,
        errors={str(index): sanitized(error) for index, error in sorted(result.errors.items())},
        truncated=result.truncated,
        details=result.details if details else None,
    )


def sanitized(error: ItemError) -> ItemError:
    """Make an error that somebody's code has worded fit to be printed."""
    return ItemError(code=error.code, message=sanitize(error.message))
