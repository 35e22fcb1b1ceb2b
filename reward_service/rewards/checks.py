"""Compile the checks of a rule: from specs to functions of one text. Pure, and linear in the text's length.

The source of this file is part of the revision of every rule.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, assert_never

from reward_service.check_specs import (
    AnyCheck,
    AnyCondition,
    AnyMeasure,
    Cased,
    Contains,
    Count,
    DistinctWords,
    EndsWith,
    Equals,
    Json,
    Length,
    Measure,
    Number,
    Regex,
    Repetition,
    Script,
    StartsWith,
    TextCheck,
)
from reward_service.rewards.patterns import compile_pattern, compile_schema, script_test
from reward_service.rewards.text_measures import distinct_words, last_number, repeated_share, script_share, sentences
from reward_service.text import after_last

UNTRAPPED = Context(traps=[])
"""Differences of numbers that are too large for arithmetic are infinite or NaN, and no errors."""

Value = Any
"""What the column that a check reads holds for an item; None for a check without one."""


class NotApplicable(Exception):
    """The column that the check reads is null for this item."""


@dataclass(frozen=True, slots=True)
class CompiledCheck:
    """A check's name in the details, the column it reads, and its points for a text and the column's value."""

    name: str
    column: str | None
    points: Callable[[str, Value], float]


def compile_check(spec: AnyCheck) -> CompiledCheck:
    """Compile a check."""
    read = _reader(spec)
    if isinstance(spec, Measure):
        measure, to_points = _measure(spec), _points_of_measure(spec)
        return CompiledCheck(spec.name or spec.check, None, lambda text, _: to_points(measure(read(text))))
    holds, points, otherwise = _condition(spec), spec.points, spec.otherwise
    column = spec.column if isinstance(spec, TextCheck | Number) else None
    return CompiledCheck(
        spec.name or spec.check, column, lambda text, value: points if holds(read(text), value) else otherwise
    )


def _reader(spec: AnyCheck) -> Callable[[str], str]:
    """Return the function that takes from a completion what the check reads."""
    after, of, clean = spec.after, spec.of, _cleaner(spec)
    if after is None and of == "completion":
        return clean

    def read(text: str) -> str:
        text = after_last(text, after).strip()
        if of == "first_line":
            text = text.partition("\n")[0]
        elif of == "last_line":
            text = text.rpartition("\n")[2]
        return clean(text)

    return read


def _cleaner(spec: AnyCheck) -> Callable[[str], str]:
    """Return the function that strips a text and, where case is ignored, makes its letters small."""
    chars, lower = spec.strip, isinstance(spec, Cased) and spec.case == "ignore" and not isinstance(spec, Regex)
    if not chars:
        return (lambda text: text.strip().lower()) if lower else str.strip
    return (lambda text: text.strip().strip(chars).lower()) if lower else lambda text: text.strip().strip(chars)


def _condition(spec: AnyCondition) -> Callable[[str, Value], bool]:
    match spec:
        case Regex():
            occurs = compile_pattern(spec.pattern, ignore_case=spec.case == "ignore")
            return lambda text, _: occurs(text)
        case Json():
            is_valid = compile_schema(spec.json_schema)
            return lambda text, _: is_valid(text)
        case Number():
            tolerance = Decimal(str(spec.tolerance))
            return lambda text, value: _is_number(text, _column_number(value), tolerance)
        case StartsWith() | EndsWith() | Contains() | Equals():
            compare = _comparison(spec)
            if spec.text is None:
                clean = _cleaner(spec)
                return lambda text, value: compare(text, _column_texts(value, clean))
            wanted = tuple(text.lower() if spec.case == "ignore" else text for text in spec.text)
            return lambda text, _: compare(text, wanted)
        case _:
            assert_never(spec)


def _comparison(spec: StartsWith | EndsWith | Contains | Equals) -> Callable[[str, tuple[str, ...]], bool]:
    match spec:
        case StartsWith():
            return str.startswith
        case EndsWith():
            return str.endswith
        case Contains():
            quantifier = all if spec.match == "all" else any
            return lambda text, wanted: quantifier(map(text.__contains__, wanted))
        case Equals():
            return lambda text, wanted: _spaced(text) in map(_spaced, wanted)


def _spaced(text: str) -> str:
    """Return the text with one blank between its words."""
    return " ".join(text.split())


def _column_texts(value: Value, clean: Callable[[str], str]) -> tuple[str, ...]:
    """Return the texts that a column holds for an item; a number stands for its JSON."""
    if value is None:
        raise NotApplicable("does not apply to this item: its column is null")
    texts = []
    for element in value if isinstance(value, list) else [value]:
        if not isinstance(element, str | int | float):
            raise TypeError(f"the column holds a {type(element).__name__}, and no text")
        text = clean(element if isinstance(element, str) else json.dumps(element))
        if not text:
            raise ValueError("the column holds an empty text")
        texts.append(text)
    if not texts:
        raise ValueError("the column holds an empty list")
    return tuple(texts)


def _column_number(value: Value) -> Decimal:
    """Return the number that a column holds for an item: a number, or the last one in a text."""
    if value is None:
        raise NotApplicable("does not apply to this item: its column is null")
    number = last_number(str(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    if number is None:
        raise ValueError(f"the column holds no number, but {str(value)[:80]!r}")
    return number


def _is_number(text: str, wanted: Decimal, tolerance: Decimal) -> bool:
    number = last_number(text)
    if number is None or number == wanted:
        return number is not None
    return tolerance > 0 and abs(UNTRAPPED.subtract(number, wanted)) <= tolerance


def _measure(spec: AnyMeasure) -> Callable[[str], float]:
    match spec:
        case Length():
            return {"words": _words, "characters": len, "sentences": sentences}[spec.unit]
        case Count():
            counted = tuple(text.lower() if spec.case == "ignore" else text for text in spec.text)
            return lambda text: sum(map(text.count, counted))
        case DistinctWords():
            min_letters, ignored = spec.min_letters, frozenset(spec.ignore)
            return lambda text: distinct_words(text, min_letters, ignored)
        case Repetition():
            n, by_words = spec.n, spec.unit == "words"
            return lambda text: repeated_share(text.split() if by_words else text, n)
        case Script():
            in_script = script_test(spec.script)
            return lambda text: script_share(text, in_script)
        case _:
            assert_never(spec)


def _words(text: str) -> int:
    return len(text.split())


def _points_of_measure(spec: Measure) -> Callable[[float], float]:
    low, high, points, otherwise = spec.min, spec.max, spec.points, spec.otherwise
    factor, up_to = spec.factor, spec.up_to
    if factor is None:
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        return lambda value: points if low <= value <= high else otherwise
    if up_to is None:
        return lambda value: factor * value
    return lambda value: factor * min(value, up_to)
