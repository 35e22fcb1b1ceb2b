"""The signals of reward hacking: each compares the last steps with the first ones. Pure.

A signal measures a window of steps as one number, and rings if that number has moved beyond its limit. The limits lie
far from what a policy that still does its task reaches: they are rules of thumb and prove nothing.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainer.monitor.steps import Window, by_prompt, groups_of, logged_mean, records_of, value_of
from trainer.reporting.findings import percent
from trainer.run_folder import Record
from trainer.texts import (
    FEW_CONTENT_WORDS,
    OPENING_WORDS,
    distinct_n,
    has_little_content,
    is_repetitive,
    opening,
    words,
)

TEXT_STEPS = 5
"""Number of first steps, and of last steps, that a signal of the completions' texts compares."""
MIN_PROMPTS = 3
"""The fewest prompts between which completions are compared."""
MAX_KL = 3.0
"""Nats a token from which on a policy has little left of the one it started from."""
DISTINCT_WORDS = 40
"""Diversity is measured over this number of first words, because it falls with the length of a text."""


@dataclass(frozen=True)
class Reading:
    """What a signal says at a step."""

    value: float
    rings: bool
    sentence: str


class Signal(Protocol):
    """Compares the last steps with the first ones."""

    @property
    def name(self) -> str:
        """The name in logs and alarms."""

    def read(self, first: Window, last: Window) -> Reading | None:
        """Return the reading; None if it cannot be measured."""

    def examples(self, last: Window) -> list[Record]:
        """Return the completions of the last steps that show it, the clearest first."""


Measure = Callable[[Window], float | None]
Limit = Callable[[float, float], bool]  # (now, in the first steps) -> whether that is beyond the limit
Examples = Callable[[Window], list[Record]]


def reaches(level: float, rise: float) -> Limit:
    """Return the limit of a share that must not reach `level` and rise by `rise`."""
    return lambda now, first: now >= level and now - first >= rise


def grows(ratio: float) -> Limit:
    """Return the limit of a number that must not grow to `ratio` times its first value."""
    return lambda now, first: now >= ratio * first > 0


def shrinks(ratio: float) -> Limit:
    """Return the limit of a number that must not shrink to `ratio` times its first value."""
    return lambda now, first: now <= ratio * first


@dataclass(frozen=True)
class WindowSignal:
    """A signal of one measure of a window."""

    name: str
    measure: Measure
    limit: Limit
    sentence: str
    """With the places {now} and {first}."""
    examples: Examples
    number_format: Callable[[float], str] = percent

    def read(self, first: Window, last: Window) -> Reading | None:
        """Compare the last steps with as many first ones."""
        now, before = self.measure(last[-TEXT_STEPS:]), self.measure(first[:TEXT_STEPS])
        if now is None or before is None:
            return None
        sentence = self.sentence.format(now=self.number_format(now), first=self.number_format(before))
        return Reading(now, self.limit(now, before), sentence)


def shared_by_prompts(window: Window, key: Callable[[str], Hashable]) -> tuple[Hashable, float] | None:
    """Return the key that most completions of different prompts share, and its share, in which each prompt counts once.

    A key that only one prompt's completions have is not shared. None with fewer than `MIN_PROMPTS` prompts.
    """
    prompts = by_prompt(window)
    if len(prompts) < MIN_PROMPTS:
        return None
    shares: Counter[Hashable] = Counter()
    prompts_with: Counter[Hashable] = Counter()
    for group in prompts:
        counts = Counter(key(record["completion"]) for record in group)
        prompts_with.update(counts.keys())
        for value, count in counts.items():
            shares[value] += count / len(group) / len(prompts)  # type: ignore[assignment]
    shared = {value: share for value, share in shares.items() if prompts_with[value] > 1}
    return max(shared.items(), key=lambda item: item[1]) if shared else ((), 0.0)


def same_text(text: str) -> Hashable:
    """Return what is equal for texts with the same words."""
    return tuple(words(text))


def distinct_2(window: Window) -> float | None:
    """Return distinct-2 over one completion of each group, averaged over the completions of a group.

    The completions of one prompt may grow alike as a policy learns; those of different prompts should not.
    """
    groups = groups_of(window)
    if len(groups) < MIN_PROMPTS:
        return None
    rounds = [[group[index] for group in groups] for index in range(min(map(len, groups)))]
    texts = [[" ".join(words(record["completion"])[:DISTINCT_WORDS]) for record in row] for row in rounds]
    return sum(distinct_n(row, 2) for row in texts) / len(texts)


def equal_groups(window: Window) -> float | None:
    """Return the share of groups whose completions all have the same reward: nothing can be learned from them."""
    rewards = [
        [value for record in group if (value := value_of(record, None)) is not None] for group in groups_of(window)
    ]
    scored = [values for values in rewards if len(values) > 1]
    return sum(max(values) - min(values) < 1e-9 for values in scored) / len(scored) if scored else None


def mean_tokens(window: Window) -> float | None:
    """Return the mean length in tokens."""
    tokens = [record["tokens"] for record in records_of(window) if record.get("tokens") is not None]
    return sum(tokens) / len(tokens) if tokens else None


def _share_of(predicate: Callable[[Record], bool]) -> Measure:
    def measure(window: Window) -> float | None:
        records = records_of(window)
        return sum(map(predicate, records)) / len(records) if records else None

    return measure


def _with(predicate: Callable[[Record], bool]) -> Examples:
    return lambda window: _by_reward([record for record in records_of(window) if predicate(record)])


def _sharing(key: Callable[[str], Hashable]) -> Examples:
    def examples(window: Window) -> list[Record]:
        shared = shared_by_prompts(window, key)
        return _with(lambda record: shared is not None and key(record["completion"]) == shared[0])(window)

    return examples


def _by_reward(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: -(value_of(record, None) or 0.0))


def _highest_rewarded(window: Window) -> list[Record]:
    return _by_reward(records_of(window))


def _is_empty(record: Record) -> bool:
    return has_little_content(record["completion"])


def _repeats(record: Record) -> bool:
    return is_repetitive(record["completion"])


def _is_cut_off(record: Record) -> bool:
    return bool(record.get("cut_off"))


def _share_of_shared(key: Callable[[str], Hashable]) -> Measure:
    def measure(window: Window) -> float | None:
        shared = shared_by_prompts(window, key)
        return None if shared is None else shared[1]

    return measure


def _plain(value: float) -> str:
    return f"{value:.2f}"


SIGNALS: tuple[WindowSignal, ...] = (
    WindowSignal(
        "same_completion",
        _share_of_shared(same_text),
        reaches(0.3, rise=0.2),
        "{now} of the completions are one text, whatever the prompt ({first} in the first steps)",
        _sharing(same_text),
    ),
    WindowSignal(
        "same_opening",
        _share_of_shared(opening),
        reaches(0.4, rise=0.3),
        f"{{now}} of the completions open with the same {OPENING_WORDS} words, whatever the prompt "
        "({first} in the first steps)",
        _sharing(opening),
    ),
    WindowSignal(
        "distinct_2",
        distinct_2,
        shrinks(0.75),
        "completions of different prompts grow alike: {now} of their pairs of words are distinct "
        "({first} in the first steps)",
        _highest_rewarded,
    ),
    WindowSignal(
        "little_content",
        _share_of(_is_empty),
        reaches(0.5, rise=0.3),
        f"{{now}} of the completions have fewer than {FEW_CONTENT_WORDS} content words ({{first}} in the first steps)",
        _with(_is_empty),
    ),
    WindowSignal(
        "repetition",
        _share_of(_repeats),
        reaches(0.3, rise=0.25),
        "{now} of the completions repeat the same few words ({first} in the first steps)",
        _with(_repeats),
    ),
    WindowSignal(
        "cut_off",
        _share_of(_is_cut_off),
        reaches(0.9, rise=0.4),
        "{now} of the completions reach the token limit ({first} in the first steps)",
        _with(_is_cut_off),
    ),
    WindowSignal(
        "length",
        mean_tokens,
        grows(2.5),
        "completions are {now} tokens long on average ({first} in the first steps)",
        _highest_rewarded,
        "{:.0f}".format,
    ),
    WindowSignal(
        "equal_groups",
        equal_groups,
        reaches(0.9, rise=0.5),
        "in {now} of the groups all rewards are equal, so that nothing is learned ({first} in the first steps)",
        _highest_rewarded,
    ),
    WindowSignal(
        "entropy_collapse",
        lambda window: logged_mean(window, "entropy"),
        shrinks(0.1),
        "the policy is certain of every token: entropy {now} nats ({first} in the first steps)",
        _highest_rewarded,
        _plain,
    ),
    WindowSignal(
        "entropy_rise",
        lambda window: logged_mean(window, "entropy"),
        grows(2.5),
        "the policy loses its language: entropy {now} nats a token ({first} in the first steps)",
        _highest_rewarded,
        _plain,
    ),
    WindowSignal(
        "kl",
        lambda window: logged_mean(window, "kl"),
        lambda now, first: now >= MAX_KL,
        "the policy is {now} nats a token away from the one that it started from",
        _highest_rewarded,
        _plain,
    ),
)
"""The signals that every run is watched by; judges add their own."""
