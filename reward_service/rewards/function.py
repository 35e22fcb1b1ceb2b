"""Score with a user's reward function, written for TRL's `reward_funcs`, unchanged."""

import asyncio
import inspect
import math
import pickle
import time
from typing import Any

from reward_service.errors import ConfigError
from reward_service.rewards.base import Items, Reward, Scores, finite_range
from reward_service.rewards.function_call import FUNCTION_FAILED, Call, CallResult, RewardFunction, joined
from reward_service.rewards.function_frames import Ready, Start
from reward_service.rewards.function_pool import WorkerPool
from reward_service.rewards.function_process import CallTimeout, WorkerLost
from reward_service.rewards.function_signature import Signature, without_partials
from reward_service.rewards.function_source import load_object, revision
from reward_service.rewards.function_threads import FunctionThreads
from reward_service.specs import FunctionSpec
from shared.aio import gather_or_cancel
from shared.schemas import ItemError, RewardInfo, Text, is_valid_score

CALL_SHARE, ROW_SHARE = 0.5, 0.25
"""Shares of the time left that a call, or one row, may take where rows are independent: the others need the rest."""
ROWS_SHARE = 0.8
"""Share of the time left that all rows may take together, with the start of their worker processes."""


class FunctionReward(Reward):
    """A function `(completions, prompts, **columns) -> list[float | None]`, sync or async."""

    accepts_canary = False  # it may need columns that the canary does not have

    def __init__(self, name: str, spec: FunctionSpec) -> None:
        self._spec = spec
        self._caller: FunctionThreads | WorkerPool
        try:
            self._caller, ready = _in_process(name, spec) if spec.in_process else _in_workers(name, spec)
        except ConfigError as error:
            raise ConfigError(f"rewards.{name}: {error}") from error
        self._signature: Signature = ready.signature
        columns = ready.signature.columns
        self.info = RewardInfo(
            name=name,
            kind=spec.kind,
            description=spec.description or ready.description,
            revision=f"function:{ready.revision}",
            range=finite_range(spec.range),
            columns=None if columns is None else list(columns),
            reads_prompts=ready.signature.reads_prompts,
            scope=spec.scope if spec.rows is None else "completion",
        )

    async def score(self, items: Items) -> Scores:
        """Call the function with the whole request. A None that it returns means "not applicable"."""
        call = Call(len(items), self._rows(items), items.trainer_state)
        if self._spec.rows is None or len(items) <= 1:
            result = await self._call(call, self._spec.timeout_s)
        else:
            result = await self._call_independent(call, items.deadline_s)
        return self._scores(result)

    def _rows(self, items: Items) -> dict[str, list[Any] | None]:
        """Return the arguments that the function reads. A column never replaces a completion or a prompt."""
        wanted = self._signature.columns
        rows: dict[str, list[Any] | None] = {
            name: list(column) for name, column in items.columns.items() if wanted is None or name in wanted
        }
        rows["completions"] = [_plain(text) for text in items.chats]
        rows["prompts"] = None
        if items.prompt_chats is not None and self._signature.reads_prompts:
            rows["prompts"] = [_plain(text) for text in items.prompt_chats]
        return rows

    async def _call(self, call: Call, limit_s: float) -> CallResult:
        """Call the function. Whatever goes wrong is a failure of these rows; the same call would fail again."""
        try:
            return await self._caller.run(pickle.dumps(call, pickle.HIGHEST_PROTOCOL), limit_s)
        except CallTimeout as error:
            return CallResult.failed(call.count, "function_timeout", f"{error}; raise timeout_s if it needs longer")
        except (WorkerLost, ConfigError) as error:
            return CallResult.failed(call.count, FUNCTION_FAILED, str(error))

    async def _call_independent(self, call: Call, deadline_s: float) -> CallResult:
        """Call the function with all rows; if that ends a worker, with each row alone.

        The worker itself isolates rows that raise an exception, by halves.
        """
        try:
            payload = pickle.dumps(call, pickle.HIGHEST_PROTOCOL)
            return await self._caller.run(payload, self._limit_s(deadline_s, CALL_SHARE))
        except (CallTimeout, WorkerLost):
            rows = (range(row, row + 1) for row in range(call.count))
            return joined(await gather_or_cancel(self._call_row(call.part(row), deadline_s) for row in rows))
        except ConfigError as error:
            return CallResult.failed(call.count, FUNCTION_FAILED, str(error))

    async def _call_row(self, row: Call, deadline_s: float) -> CallResult:
        """Call the function with one row, which fails if no worker takes it early enough before the deadline."""
        remaining_s = max(0.0, deadline_s - time.monotonic())
        try:
            async with asyncio.timeout(None if remaining_s == math.inf else ROWS_SHARE * remaining_s):
                return await self._call(row, self._limit_s(deadline_s, ROW_SHARE))
        except TimeoutError:
            message = "no worker process was free before the request's deadline; raise workers, or the deadline"
            return CallResult.failed(row.count, "function_timeout", message)

    def _limit_s(self, deadline_s: float, share: float) -> float:
        return min(self._spec.timeout_s, share * max(0.0, deadline_s - time.monotonic()))

    def _scores(self, result: CallResult) -> Scores:
        """Return the result with a reason for each row that has no score."""
        name = self.info.name
        scores = Scores(result.scores, [None] * len(result.scores), metrics=result.metrics, extra=result.extra)
        for row, score in enumerate(result.scores):
            if row in result.failures:
                code, message = result.failures[row]
                scores.errors[row] = ItemError(code=code, message=f"the reward function {name} failed: {message}")
            elif score is None:
                scores.errors[row] = ItemError(code="not_applicable", message=f"{name} does not apply to this item")
            elif self._spec.range and is_valid_score(score) and not _within(score, self._spec.range):
                low, high = self._spec.range
                message = f"the reward function {name} returned {score:g}, outside its range [{low:g}, {high:g}]"
                scores.scores[row], scores.errors[row] = None, ItemError(code="out_of_range", message=message)
        return scores

    @property
    def healthy(self) -> bool:
        """Return whether a call can be made: a worker process always can be started again, a thread not."""
        return not isinstance(self._caller, FunctionThreads) or self._caller.healthy

    async def stop(self) -> None:
        """End the worker processes, or leave the threads to their calls."""
        await self._caller.close()


def _in_workers(name: str, spec: FunctionSpec) -> tuple[WorkerPool, Ready]:
    pool = WorkerPool(name, Start(spec.object, spec.rows is not None, spec.columns), spec.workers)
    return pool, pool.ready


def _in_process(name: str, spec: FunctionSpec) -> tuple[FunctionThreads, Ready]:
    target = load_object(spec.object)
    function = RewardFunction(target, independent=spec.rows is not None, columns=spec.columns)
    description = (inspect.getdoc(without_partials(target)) or "").partition("\n")[0]
    return FunctionThreads(name, function), Ready(description, revision(spec.object, target), function.signature)


def _within(score: float, ends: tuple[float, float]) -> bool:
    return ends[0] <= score <= ends[1]


def _plain(text: Text) -> Any:
    if isinstance(text, str):
        return text
    return [message.model_dump(exclude_unset=True) for message in text]
