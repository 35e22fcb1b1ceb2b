"""Compare the evaluations before and after training, metric by metric.

The content of before.json and after.json enters; rows of estimates, and their words, leave. The page and the
terminal show the same rows. Either evaluation may be missing: its cells then stay empty.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from trainer.reporting import statistics
from trainer.reporting.findings import percent, quote
from trainer.reporting.statistics import Interval
from trainer.run_folder import Record

Evaluation = Mapping[str, Any]  # {"step", "policy", "seconds", "decodings": {name: {"samples": [Sample, …]}}}
Value = Interval | float | None  # with an interval, without one, not measured
Getter = Callable[[Record], float | None]
Measure = Callable[[Sequence[str]], float]

MIN_PROMPTS = 5
"""An interval over fewer prompts than this is shown, but no change is read out of it."""
_TOLD = {"temperature": "temperature {:g}", "max_new_tokens": "at most {} new tokens"}


@dataclass(frozen=True)
class Cell:
    """One value in words, and the bounds of its interval in words (empty where it has none)."""

    value: str = "—"
    bounds: str = ""


@dataclass(frozen=True)
class Row:
    """One metric before and after; `change` is paired, over the prompts that both evaluations scored."""

    metric: str
    before: Value
    after: Value
    change: Value
    share: bool = False
    scored: bool = False
    """A score of the replies, rather than a property of their texts."""
    quotes: tuple[str, str] = ("", "")
    note: str = ""

    @property
    def cells(self) -> tuple[Cell, Cell, Cell]:
        """Word the row: before, after, change."""
        digits = _digits(filter(None, map(mean, (self.before, self.after))))
        word = _hundredths if self.share else partial(_fixed, digits=digits)
        unit, gap = ("\u00a0%", "\u00a0points") if self.share else ("", "")
        before, after = (_cell(value, word, unit) for value in (self.before, self.after))
        return before, after, _cell(self.change, word, gap, plus="+")

    @property
    def direction(self) -> int:
        """Tell the direction of the change: 1 or -1 where its interval leaves out 0, else 0."""
        if not isinstance(self.change, Interval) or self.change.n < MIN_PROMPTS:
            return 0
        return (self.change.low > 0) - (self.change.high < 0)


@dataclass(frozen=True)
class Comparison:
    """The rows of one decoding, such as greedy."""

    decoding: str
    prompts: int
    settings: str
    rows: list[Row]


def compare(before: Evaluation | None, after: Evaluation | None) -> list[Comparison]:
    """Compare every decoding of two evaluations, in the order in which they were made."""
    shares = _shares([*_everything(before), *_everything(after)])
    settings = {**_decodings(before), **_decodings(after)}
    sides = {name: (samples(before, name), samples(after, name)) for name in settings}
    return [_compared(name, settings[name], *sides[name], shares) for name in settings]


def samples(evaluation: Evaluation | None, decoding: str) -> list[Record]:
    """Take the samples of one decoding; none where it was not run."""
    return list(_decodings(evaluation).get(decoding, {}).get("samples", []))


def pair(first: Sequence[Record], last: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Match samples by their prompt, and by their place among the samples of that prompt."""
    before, after = _by_place(first), _by_place(last)
    return [(sample, after[key]) for key, sample in before.items() if key in after]


def mean(value: Value) -> float | None:
    """Take the number itself out of a value."""
    return value.mean if isinstance(value, Interval) else value


def finite(value: object) -> float | None:
    """Read a finite number or a truth value; anything else counts as not measured."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _hundredths(share: float) -> str:
    return percent(share).removesuffix("\u00a0%")


def _fixed(value: float, digits: int) -> str:
    return f"{value:z.{digits}f}".replace("-", "\u2212")


def _digits(values: Iterable[float]) -> int:
    largest = max(map(abs, values), default=1.0)
    return 0 if largest >= 1000 else 1 if largest >= 10 else 2 if largest >= 0.1 else 3


def _cell(value: Value, word: Callable[[float], str], unit: str, plus: str = "") -> Cell:
    middle = mean(value)
    if middle is None:
        return Cell()
    known = isinstance(value, Interval) and (value.n > 1 or value.low < value.high)
    bounds = f"[{word(value.low)}, {word(value.high)}]" if isinstance(value, Interval) and known else ""
    return Cell(f"{plus if middle > 0 else ''}{word(middle)}{unit}", bounds)


def _decodings(evaluation: Evaluation | None) -> dict[str, Mapping[str, Any]]:
    return dict((evaluation or {}).get("decodings") or {})


def _everything(evaluation: Evaluation | None) -> list[Record]:
    return [sample for name in _decodings(evaluation) for sample in samples(evaluation, name)]


def _shares(replies: Sequence[Record]) -> dict[str, bool]:
    """Name every score, and whether it reads as a percentage."""
    names = dict.fromkeys(name for sample in replies for name in sample.get("scores") or {})
    return {name: statistics.is_share(name, _known(replies, _score(name))) for name in names}


def _score(name: str) -> Getter:
    return lambda sample: finite((sample.get("scores") or {}).get(name))


def _known(replies: Sequence[Record], take: Getter) -> list[float]:
    return [value for value in map(take, replies) if value is not None]


def _compared(
    name: str,
    decoding: Mapping[str, Any],
    first: Sequence[Record],
    last: Sequence[Record],
    shares: Mapping[str, bool],
) -> Comparison:
    replies = last or first
    prompts = len({sample["prompt"] for sample in replies})
    told = [words.format(decoding[key]) for key, words in _TOLD.items() if decoding.get(key) is not None]
    settings = ", ".join([*told, f"{len(replies)} replies to {prompts} prompts"])
    return Comparison(name, prompts, settings, _rows(first, last, shares))


def _rows(first: Sequence[Record], last: Sequence[Record], shares: Mapping[str, bool]) -> list[Row]:
    said = (_commonest(first), _commonest(last))
    return [
        *(_row(name, _score(name), first, last, share=shares[name], scored=True) for name in shares),
        _text_row("commonest reply", statistics.most_common_share, first, last, quotes=said),
        _text_row("distinct-1", partial(statistics.distinct_n, n=1), first, last),
        _text_row("distinct-2", partial(statistics.distinct_n, n=2), first, last),
        _text_row("repeated 3-grams", statistics.repeated_trigram_share, first, last),
        _row("length in tokens", lambda sample: finite(sample.get("tokens")), first, last),
        _row("cut off", lambda sample: finite(sample.get("cut_off")), first, last, share=True),
    ]


def _row(
    name: str,
    take: Getter,
    first: Sequence[Record],
    last: Sequence[Record],
    *,
    share: bool = False,
    scored: bool = False,
) -> Row:
    missing = [len(side) - len(_known(side, take)) for side in (first, last)]
    note = f"no value: {missing[0]} before, {missing[1]} after" if any(missing) else ""
    before, after = (_estimate(side, take, share) for side in (first, last))
    return Row(name, before, after, _change(pair(first, last), take, share), share, scored, note=note)


def _text_row(
    name: str,
    measure: Measure,
    first: Sequence[Record],
    last: Sequence[Record],
    *,
    quotes: tuple[str, str] = ("", ""),
) -> Row:
    before, after = (measure(_texts(side)) if side else None for side in (first, last))
    change = None if before is None or after is None else after - before
    return Row(name, before, after, change, share=True, quotes=quotes)


def _estimate(side: Sequence[Record], take: Getter, share: bool) -> Interval | None:
    known = [sample for sample in side if take(sample) is not None]
    if not known:
        return None
    values, prompts = _known(known, take), [sample["prompt"] for sample in known]
    estimate = statistics.share_interval if share else statistics.bootstrap_mean
    return estimate(values, groups=prompts)


def _change(pairs: Sequence[tuple[Record, Record]], take: Getter, share: bool) -> Interval | None:
    known = [(one, other) for one, other in pairs if take(one) is not None and take(other) is not None]
    if not known:
        return None
    first, last = (_known(side, take) for side in zip(*known, strict=True))
    difference = statistics.share_difference if share else statistics.paired_bootstrap
    return difference(first, last, [one["prompt"] for one, _ in known])


def _by_place(replies: Sequence[Record]) -> dict[tuple[str, int], Record]:
    seen: Counter[str] = Counter()
    placed = {}
    for sample in replies:
        placed[sample["prompt"], seen[sample["prompt"]]] = sample
        seen[sample["prompt"]] += 1
    return placed


def _texts(replies: Sequence[Record]) -> list[str]:
    return [str(sample.get("completion", "")) for sample in replies]


def _commonest(replies: Sequence[Record]) -> str:
    return quote(statistics.most_common(_texts(replies))[0], most=40) if replies else ""
