"""Call a reward function with TRL's arguments, and check what it returns. Workers import this: nothing heavy.

In: a pickled `Call`, so that each attempt has a copy of its own. Out: a `CallResult` with one score or failure a row.
"""

import asyncio
import contextlib
import inspect
import itertools
import json
import math
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, Self

from reward_service.rewards.function_signature import Signature, inspect_signature

FUNCTION_FAILED = "function_failed"
TEXTS = (str, bytes, bytearray)
"""What is no score, although `float` reads it."""


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one call. Every list of `rows` has `count` values."""

    count: int
    rows: Mapping[str, list[Any] | None]
    """Completions, prompts and columns by name; None for prompts that the request lacks."""
    trainer_state: Mapping[str, Any] | None = None

    def part(self, rows: range) -> "Call":
        """Return the call of some consecutive rows."""
        cut = {name: None if values is None else values[rows.start : rows.stop] for name, values in self.rows.items()}
        return Call(len(rows), cut, self.trainer_state)


@dataclass(slots=True)
class CallResult:
    """One score a row; None where the function does not apply, or where `failures` has the code and the message."""

    scores: list[float | None]
    failures: dict[int, tuple[str, str]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """The mean of each metric that the function logged."""
    extra: dict[str, list[Any]] = field(default_factory=dict)
    """The columns that the function logged, one value a row."""

    @classmethod
    def failed(cls, count: int, code: str, message: str) -> Self:
        """Return the result of a call that failed as a whole."""
        return cls([None] * count, dict.fromkeys(range(count), (code, message)))


def joined(parts: Iterable[CallResult]) -> CallResult:
    """Return the result of consecutive parts of a call."""
    total = CallResult([])
    metrics: dict[str, list[tuple[float, int]]] = {}
    for part in parts:
        offset, count = len(total.scores), len(part.scores)
        total.scores += part.scores
        total.failures.update({offset + row: failure for row, failure in part.failures.items()})
        for name, value in part.metrics.items():
            metrics.setdefault(name, []).append((value, count))
        for name, values in part.extra.items():
            total.extra.setdefault(name, [None] * offset)
            total.extra[name] += values
        for column in total.extra.values():
            column += [None] * (offset + count - len(column))
    for name, pairs in metrics.items():
        total.metrics[name] = sum(value * count for value, count in pairs) / sum(count for _, count in pairs)
    return total


class RewardFunction:
    """A reward function and what its signature says. With `independent`, a failing call is repeated in halves."""

    def __init__(self, function: Callable[..., Any], *, independent: bool, columns: list[str] | None = None) -> None:
        self._function, self._independent = function, independent
        self.signature: Signature = inspect_signature(function, columns)

    def call(self, payload: bytes) -> CallResult:
        """Score a pickled `Call`. Whatever the function raises is a failure of rows, not of the caller."""
        halving = _Halving(payload, self._independent)
        while attempt := halving.next():
            arguments = self._arguments(attempt.call, attempt.log)
            attempt.outcome = call_safely(partial(self._function, **arguments), attempt.call.count)
            halving.record(attempt)
        return halving.result

    async def acall(self, payload: bytes) -> CallResult:
        """Score a pickled `Call` with an async function."""
        halving = _Halving(payload, self._independent)
        while attempt := halving.next():
            attempt.outcome = await self._await(attempt.call, attempt.log)
            halving.record(attempt)
        return halving.result

    async def _await(self, call: Call, log: "CallLog") -> list[float | None] | str:
        process = os.getpid()
        try:
            values = await self._function(**self._arguments(call, log))
        except BaseException as error:
            end_fork_of(process, error)
            if isinstance(error, GeneratorExit) or _is_cancelled(error):
                raise
            return _describe(error)
        return call_safely(lambda: values, call.count)

    def _arguments(self, call: Call, log: "CallLog") -> dict[str, Any]:
        values: dict[str, Any] = {**call.rows, "log_metric": log.log_metric, "log_extra": log.log_extra}
        if call.trainer_state is not None:
            values["trainer_state"] = SimpleNamespace(**call.trainer_state)
        return self.signature.select(values)


class CallLog:
    """What a function logs in one call with TRL's `log_metric` and `log_extra`."""

    def __init__(self) -> None:
        self.metrics: dict[str, list[float]] = {}
        self.extra: dict[str, list[Any]] = {}

    def log_metric(self, name: str, value: float) -> None:
        """Log a number. TRL averages the values of a name."""
        self.metrics.setdefault(_encodable(str(name)), []).append(float(value))

    def log_extra(self, column: str, values: Iterable[Any]) -> None:
        """Log a column, one value a completion."""
        self.extra.setdefault(_encodable(str(column)), []).extend(_json_value(value) for value in values)


@dataclass(slots=True)
class _Attempt:
    """A call of some consecutive rows, and the scores that it returned or the reason that it failed."""

    rows: range
    call: Call
    log: CallLog = field(default_factory=CallLog)
    outcome: list[float | None] | str = ""


class _Halving:
    """The attempts of one call: all rows at once and, where a failure may be that of one row, in halves."""

    def __init__(self, payload: bytes, independent: bool) -> None:
        self._payload, self._independent = payload, independent
        self._call: Call | None = pickle.loads(payload)
        self._pending = [range(self._call.count)]
        self._parts: dict[int, CallResult] = {}

    def next(self) -> _Attempt | None:
        """Return the next attempt, with copies of its rows: a failed attempt may have changed its own."""
        if not self._pending:
            return None
        rows, call = self._pending.pop(), self._call or pickle.loads(self._payload)
        self._call = None
        return _Attempt(rows, call.part(rows))

    def record(self, attempt: _Attempt) -> None:
        """Keep an attempt's scores, or attempt its halves."""
        rows, outcome = attempt.rows, attempt.outcome
        if not isinstance(outcome, str):
            self._parts[rows.start] = _successful(outcome, attempt.log)
        elif self._independent and len(rows) > 1:
            middle = (rows.start + rows.stop) // 2
            self._pending += [range(middle, rows.stop), range(rows.start, middle)]
        else:
            self._parts[rows.start] = CallResult.failed(len(rows), FUNCTION_FAILED, outcome)

    @property
    def result(self) -> CallResult:
        return joined(part for _, part in sorted(self._parts.items()))


def _successful(scores: list[float | None], log: CallLog) -> CallResult:
    count = len(scores)
    means = {name: sum(values) / len(values) for name, values in log.metrics.items()}
    return CallResult(
        scores,
        metrics={name: mean for name, mean in means.items() if math.isfinite(mean)},
        extra={name: (values + [None] * count)[:count] for name, values in log.extra.items()},
    )


def call_safely(call: Callable[[], Any], count: int) -> list[float | None] | str:
    """Return `count` scores, or the failure as text.

    A failure is a return value because a future cannot carry every exception (`StopIteration`, `SystemExit`).
    """
    process = os.getpid()
    try:
        scores = [None if value is None else _number(value) for value in itertools.islice(_rows(call()), count + 1)]
        end_fork_of(process)
        if len(scores) != count:
            returned = len(scores) if len(scores) < count else f"more than {count}"
            return f"it returned {returned} scores for {count} texts"
        return scores
    except BaseException as error:
        end_fork_of(process, error)
        return _describe(error)


def end_fork_of(process: int, error: BaseException | None = None) -> None:
    """End a child that the function has forked, as Python ends a program: its parent alone answers the call."""
    if os.getpid() == process:
        return
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(error)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code & 0xFF)


def _rows(values: Any) -> Iterator[Any]:
    if not isinstance(values, str | bytes | Mapping | Set):
        with contextlib.suppress(TypeError):
            return iter(values)
    if inspect.iscoroutine(values):
        values.close()  # it would warn that it was never awaited
    raise TypeError(f"it returned {_kind(values)}, not a list with one number or None for each text")


def _number(value: Any) -> float:
    try:
        if isinstance(value, TEXTS):
            raise TypeError
        return float(value)
    except TypeError:
        raise TypeError(f"it returned {_kind(value)} as a score, where a number or None is needed") from None


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _json_value(value: Any) -> Any:
    """Return a value that JSON can represent: the value itself, or its text."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):  # ValueError: NaN, or a lone surrogate
        return _encodable(str(value))
    return value


def _encodable(text: str) -> str:
    """Return a text without lone surrogates, which no response can carry."""
    return text.encode(errors="replace").decode()


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its `__str__` fails, too
        return type(error).__name__


def _is_cancelled(error: BaseException) -> bool:
    """Return whether this task was cancelled. A function can also raise `CancelledError` by itself."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
