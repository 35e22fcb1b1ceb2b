"""Reward functions as users write them, good and bad. They import the standard library alone: workers start fast."""

import asyncio
import functools
import itertools
import os
import re
import signal
import sys
import threading
import time


def answers(completions, answer, **_):
    """Return whether a completion is the answer; None where there is none."""
    return [None if right is None else float(text == right) for text, right in zip(completions, answer, strict=True)]


async def later(completions, **_):
    await asyncio.sleep(0)
    return [2.0 for _ in completions]


def slow(completions, **_):
    time.sleep(0.1)
    return [1.0 for _ in completions]


def slow_per_text(completions, **_):
    time.sleep(0.005 * len(completions))
    return [1.0 for _ in completions]


class Judge:
    def __init__(self, factor=1.0):
        self.factor = factor

    async def __call__(self, completions, **_):
        return [3.0 * self.factor for _ in completions]

    def method(self, completions, **_):
        return [self.factor for _ in completions]


judge = Judge()
weighted = functools.partial(answers, answer=["a", "a"])


def short(completions, **_):
    return [1.0]


def long(completions, **_):
    return itertools.repeat(1.0)


def finds_nothing(completions, **_):
    return next(iter(()))


def leaves(completions, **_):
    sys.exit(3)


async def leaves_later(completions, **_):
    sys.exit(3)


async def gives_itself_up(completions, **_):
    raise asyncio.CancelledError


def by_index(completions, **_):
    return dict.fromkeys(range(len(completions)), 0.9)


def digits(completions, **_):
    return "1" * len(completions)


def words(completions, **_):
    return ["1" for _ in completions]


def some(completions, **_):
    return [None, float("nan"), 1.0]


def returns_nothing(completions, **_):
    print("and forgets the scores")


def nested(completions, **_):
    return [[1.0] for _ in completions]


def hidden_async(completions, **_):
    return later(completions)


class Unsayable(Exception):
    def __str__(self):
        raise ValueError("no words")


def has_no_words(completions, **_):
    raise Unsayable


def breaks_off(completions, **_):
    yield 1.0
    raise ValueError("no more")


def one_by_one(completions, **_):
    for _ in completions:
        yield float(threading.current_thread() is threading.main_thread())


def reverses(completions, answer, seen, **_):
    answer.reverse()
    seen[0].append("more")
    return [0.0 for _ in completions]


def parses(completions, **_):
    return [float(text) for text in completions]


def changes_and_parses(completions, answer, **_):
    return [float(answer.pop(0)) + float(text) for text in list(completions)]


def ranks(completions, **_):
    order = sorted(range(len(completions)), key=lambda index: len(completions[index]))
    return [float(order.index(index)) for index in range(len(completions))]


def ranks_in_groups(completions, prompts, **_):
    return [
        float(sum(len(other) < len(text) for other, its in zip(completions, prompts, strict=True) if its == prompt))
        for text, prompt in zip(completions, prompts, strict=True)
    ]


def process_id(completions, **_):
    return [float(os.getpid()) for _ in completions]


def backtracks(completions, **_):
    return [float(bool(re.fullmatch(r"(a+)+b", text))) for text in completions]


def powers(completions, **_):
    return [float(len(str(9**9**9)) if text == "bad" else 1.0) for text in completions]


def loops(completions, **_):
    while "bad" in completions:
        pass
    return [1.0 for _ in completions]


async def blocks(completions, **_):
    while "bad" in completions:
        pass
    await asyncio.sleep(0)
    return [1.0 for _ in completions]


async def waits(completions, **_):
    if "bad" in completions:
        await asyncio.sleep(1000)
    return [1.0 for _ in completions]


def ends(completions, **_):
    if "bad" in completions:
        os._exit(3)
    return [1.0 for _ in completions]


def forks(completions, **_):
    """Run each completion in a process of its own, as sandboxes do: right if it ends with 0."""
    scores = []
    for text in completions:
        child = os.fork()
        if child == 0:
            sys.stdout.write("in a child")
            if text == "raises":
                raise ValueError(text)
            if text != "returns":
                sys.exit(int(text))
            return [100.0] * len(completions)
        scores.append(float(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
    return scores


async def stops_its_loop(completions, **_):
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    return [1.0 for _ in completions]


def alarms(completions, **_):
    """Use a signal, as math checkers do for their timeouts."""
    fired = []
    signal.signal(signal.SIGALRM, lambda *_: fired.append(1.0))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not fired:
        time.sleep(0.001)
    return fired * len(completions)


def prints(completions, **_):
    print("printed by a reward function")
    sys.stdout.write("no newline")
    return [1.0 for _ in completions]


def logs(completions, log_metric, log_extra, **_):
    log_metric("chars", 1.0)
    log_metric("chars", 3.0)
    log_extra("first", [text[0] for text in completions])
    return [0.0 for _ in completions]


def logs_surrogates(completions, log_metric, log_extra, **_):
    log_metric("chars \ud83c", 1.0)
    log_extra("last \ud83c", [["half an emoji: \ud83c", float("nan")] for _ in completions])
    return [0.0 for _ in completions]


def curriculum(completions, trainer_state, **_):
    return [float(trainer_state.global_step) for _ in completions]


def fifty(completions, **_):
    return [50.0, *(0.5 for _ in completions[1:])]


def strict(completions, prompts):
    return [float(len(prompt)) for prompt in prompts]


def reads_keys(completions, **kwargs):
    return [float(a == kwargs.get("b")) for a in kwargs["a"]]


def reads_anything(completions, **kwargs):
    return [float(len(kwargs)) for _ in completions]


def marked(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


@marked
def decorated(completions, solution, **_):
    return [1.0 for _ in completions]
