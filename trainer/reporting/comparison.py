"""Compare the evaluations before and after training, metric by metric.

In: the content of before.json and after.json, either of which may be missing. Out: rows of estimates and their
formatted cells, which the HTML page and the terminal table share.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from trainer import texts
from trainer.reporting import statistics
from trainer.reporting.findings import percent, quote
from trainer.reporting.statistics import Interval
from trainer.run_folder import Record, prompt_id

Evaluation = Mapping[str, Any]  # {"step", "policy", "seconds", "decodings": {name: {"samples": [Record, …]}}}
Value = Interval | float | None  # with an interval, without one, not evaluated
Getter = Callable[[Record], float | None]
Measure = Callable[[Sequence[str]], float]

MIN_PROMPTS = 5
"""The fewest prompts from whose interval a change is called a rise or a fall."""
MOST_COMMON, TOKENS = "most common completion", "length in tokens"
"""Names of rows that are shown in the terminal as well."""
_SETTING_FORMATS = {"temperature": "temperature {:g}", "max_new_tokens": "at most {} new tokens"}


@dataclass(frozen=True)
class Cell:
    """One formatted value, and the bounds of its interval (empty if it has none)."""

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
    """A score of the completions, rather than a property of their texts."""
    quotes: tuple[str, str] = ("", "")
    note: str = ""

    @property
    def cells(self) -> tuple[Cell, Cell, Cell]:
        """The formatted values: before, after, change."""
        digits = _digits(filter(None, map(mean, (self.before, self.after))))
        number_format = _percentage if self.share else partial(_fixed, digits=digits)
        unit, change_unit = ("\u00a0%", "\u00a0points") if self.share else ("", "")
        before, after = (_cell(value, number_format, unit) for value in (self.before, self.after))
        return before, after, _cell(self.change, number_format, change_unit, plus="+")

    @property
    def direction(self) -> int:
        """1 or -1 if the interval of the change excludes 0, else 0."""
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
    """Compare every decoding of two evaluations, in the order in which they were run."""
    shares = _shares([*_all_records(before), *_all_records(after)])
    settings = {**_decodings(before), **_decodings(after)}
    sides = {name: (records(before, name), records(after, name)) for name in settings}
    return [_compare_decoding(name, settings[name], *sides[name], shares) for name in settings]


def records(evaluation: Evaluation | None, decoding: str) -> list[Record]:
    """Return the completions of one decoding, or none if it was not run."""
    return list(_decodings(evaluation).get(decoding, {}).get("samples", []))


def decoding_settings(decoding: Mapping[str, Any]) -> str:
    """Return the settings that an evaluation says of a decoding in words, each with a comma after it."""
    known = [text.format(decoding[key]) for key, text in _SETTING_FORMATS.items() if decoding.get(key) is not None]
    return "".join(f"{text}, " for text in known)


def pair(first: Sequence[Record], last: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Pair completions of the same prompt, the n-th of one side with the n-th of the other."""
    before, after = _by_prompt_and_index(first), _by_prompt_and_index(last)
    return [(record, after[key]) for key, record in before.items() if key in after]


def mean(value: Value) -> float | None:
    """Return the number of a value without its interval."""
    return value.mean if isinstance(value, Interval) else value


def finite(value: object) -> float | None:
    """Return a finite number or a boolean as a float, and None for anything else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _percentage(share: float) -> str:
    return percent(share).removesuffix("\u00a0%")


def _fixed(value: float, digits: int) -> str:
    return f"{value:z.{digits}f}".replace("-", "\u2212")


def _digits(values: Iterable[float]) -> int:
    largest = max(map(abs, values), default=1.0)
    return 0 if largest >= 1000 else 1 if largest >= 10 else 2 if largest >= 0.1 else 3


def _cell(value: Value, number_format: Callable[[float], str], unit: str, plus: str = "") -> Cell:
    middle = mean(value)
    if middle is None:
        return Cell()
    bounds = ""
    if isinstance(value, Interval) and (value.n > 1 or value.low < value.high):
        bounds = f"[{number_format(value.low)}, {number_format(value.high)}]"
    return Cell(f"{plus if middle > 0 else ''}{number_format(middle)}{unit}", bounds)


def _decodings(evaluation: Evaluation | None) -> dict[str, Mapping[str, Any]]:
    return dict((evaluation or {}).get("decodings") or {})


def _all_records(evaluation: Evaluation | None) -> list[Record]:
    return [record for name in _decodings(evaluation) for record in records(evaluation, name)]


def _shares(completions: Sequence[Record]) -> dict[str, bool]:
    """Return for each score whether it is a share, formatted as a percentage."""
    names = dict.fromkeys(name for record in completions for name in record.get("scores") or {})
    return {name: statistics.is_share(name, _values(completions, _score_getter(name))) for name in names}


def _score_getter(name: str) -> Getter:
    return lambda record: finite((record.get("scores") or {}).get(name))


def _values(completions: Sequence[Record], get: Getter) -> list[float]:
    return [value for value in map(get, completions) if value is not None]


def _compare_decoding(
    name: str,
    decoding: Mapping[str, Any],
    first: Sequence[Record],
    last: Sequence[Record],
    shares: Mapping[str, bool],
) -> Comparison:
    completions = last or first
    prompts = len({*map(prompt_id, completions)})
    settings = f"{decoding_settings(decoding)}{len(completions)} completions of {prompts} prompts"
    return Comparison(name, prompts, settings, _rows(first, last, shares))


def _rows(first: Sequence[Record], last: Sequence[Record], shares: Mapping[str, bool]) -> list[Row]:
    same, opening = (
        (_quote_of(common, first), _quote_of(common, last)) for common in (texts.most_common, texts.most_common_opening)
    )
    return [
        *(_row(name, _score_getter(name), first, last, share=shares[name], scored=True) for name in shares),
        _text_row(MOST_COMMON, texts.most_common_share, first, last, quotes=same),
        _text_row("most common opening", texts.most_common_opening_share, first, last, quotes=opening),
        _text_row("distinct-1", partial(texts.distinct_n, n=1), first, last),
        _text_row("distinct-2", partial(texts.distinct_n, n=2), first, last),
        _text_row("repeated 3-grams", texts.repeated_trigram_share, first, last),
        _row(TOKENS, lambda record: finite(record.get("tokens")), first, last),
        _row("cut off", lambda record: finite(record.get("cut_off")), first, last, share=True),
    ]


def _row(
    name: str,
    get: Getter,
    first: Sequence[Record],
    last: Sequence[Record],
    *,
    share: bool = False,
    scored: bool = False,
) -> Row:
    missing = [len(side) - len(_values(side, get)) for side in (first, last)]
    note = f"no value: {missing[0]} before, {missing[1]} after" if any(missing) else ""
    before, after = (_estimate(side, get, share) for side in (first, last))
    return Row(name, before, after, _change(pair(first, last), get, share), share, scored, note=note)


def _text_row(
    name: str,
    measure: Measure,
    first: Sequence[Record],
    last: Sequence[Record],
    *,
    quotes: tuple[str, str] = ("", ""),
) -> Row:
    before, after = (measure(_completions(side)) if side else None for side in (first, last))
    change = None if before is None or after is None else after - before
    return Row(name, before, after, change, share=True, quotes=quotes)


def _estimate(side: Sequence[Record], get: Getter, share: bool) -> Interval | None:
    scored = [record for record in side if get(record) is not None]
    if not scored:
        return None
    estimate = statistics.share_interval if share else statistics.bootstrap_mean
    return estimate(_values(scored, get), groups=[*map(prompt_id, scored)])


def _change(pairs: Sequence[tuple[Record, Record]], get: Getter, share: bool) -> Interval | None:
    scored = [(one, other) for one, other in pairs if get(one) is not None and get(other) is not None]
    if not scored:
        return None
    first, last = (_values(side, get) for side in zip(*scored, strict=True))
    difference = statistics.share_difference if share else statistics.paired_bootstrap
    return difference(first, last, [prompt_id(one) for one, _ in scored])


def _by_prompt_and_index(completions: Sequence[Record]) -> dict[tuple[str, int], Record]:
    counts: Counter[str] = Counter()
    indexed = {}
    for record in completions:
        indexed[record["prompt"], counts[record["prompt"]]] = record
        counts[record["prompt"]] += 1
    return indexed


def _completions(completions: Sequence[Record]) -> list[str]:
    return [str(record.get("completion", "")) for record in completions]


def _quote_of(common: Callable[[Sequence[str]], tuple[str, int]], completions: Sequence[Record]) -> str:
    return quote(common(_completions(completions))[0], max_chars=40) if completions else ""
