"""The checks of a rule in `rewards.yaml`, one spec for each. Frozen and typed; unknown keys are errors.

A condition gives `points` where it holds and `otherwise` where not. A measure is a number of the text: bounds make it a
condition, and a `factor` makes it points.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


Finite = Annotated[float, Field(allow_inf_nan=False)]
NonEmpty = Annotated[str, Field(min_length=1)]
Texts = Annotated[
    tuple[NonEmpty, ...],
    BeforeValidator(_several),
    Field(min_length=1),
]
"""One text or several."""
ScriptName = Literal[
    "arabic", "armenian", "bengali", "cyrillic", "devanagari", "ethiopic", "georgian", "greek", "gujarati", "gurmukhi",
    "han", "hangul", "hebrew", "hiragana", "kannada", "katakana", "khmer", "lao", "latin", "malayalam", "myanmar",
    "sinhala", "tamil", "telugu", "thai", "tibetan",
]  # fmt: skip


class Check(BaseModel):
    """Keys of every check: its name, the part of the completion that it reads, and its points."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: NonEmpty | None = None
    """Its name in the details. Default: the name of the check."""
    after: NonEmpty | None = None
    """Read only what follows the last occurrence of this tag; nothing where the tag is missing."""
    of: Literal["completion", "first_line", "last_line"] = "completion"
    strip: str = ""
    """Characters removed from both ends of the text, after the whitespace, which always is."""
    points: Finite = 0.0
    """Points if it holds."""
    otherwise: Finite = 0.0
    """Points if it does not hold."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the lowest and highest points that it can give."""
        return min(self.points, self.otherwise), max(self.points, self.otherwise)


class Condition(Check):
    """A check that holds or does not."""

    @model_validator(mode="after")
    def _gives_points(self) -> Self:
        if not {"points", "otherwise"} & self.model_fields_set:
            raise ValueError("say what it gives: points if it holds, otherwise if not")
        return self


class Measure(Check):
    """A check that measures the text: a condition with `min` or `max`, points in proportion with `factor`."""

    min: Finite | None = None
    max: Finite | None = None
    factor: Finite | None = None
    """The points are `factor` × the measure."""
    up_to: Annotated[Finite, Field(gt=0)] | None = None
    """Largest measure that counts, with `factor`."""

    _highest: ClassVar[float] = math.inf
    """Largest measure that a text can have."""

    @model_validator(mode="after")
    def _condition_or_factor(self) -> Self:
        bounded = {"min", "max"} & self.model_fields_set
        pointed = {"points", "otherwise"} & self.model_fields_set
        if self.factor is None and self.up_to is not None:
            raise ValueError("up_to applies to factor alone; use max")
        if self.factor is None and not (bounded and pointed):
            raise ValueError("say what it gives: points or otherwise, with min or max; or a factor")
        if self.factor is not None and (bounded or pointed):
            raise ValueError("factor gives points in proportion: it excludes min, max, points and otherwise")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min is {self.min:g}, above max, which is {self.max:g}")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the lowest and highest points that it can give."""
        if self.factor is None:
            return super().bounds
        end = self.factor * min(self._highest, self.up_to or math.inf) if self.factor else 0.0
        return min(end, 0.0), max(end, 0.0)


class Cased(BaseModel):
    """The key of checks that compare letters."""

    case: Literal["sensitive", "ignore"] = "sensitive"


class TextCheck(Cased, Condition):
    """A condition on texts, given here or in a column of the request."""

    text: Texts | None = None
    column: NonEmpty | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.text is None) == (self.column is None):
            raise ValueError("give either text or the column that holds it")
        return self


class StartsWith(TextCheck):
    """The text starts with one of the texts."""

    check: Literal["starts_with"]


class EndsWith(TextCheck):
    """The text ends with one of the texts."""

    check: Literal["ends_with"]


class Contains(TextCheck):
    """The text contains one of the texts, or all of them."""

    check: Literal["contains"]
    match: Literal["any", "all"] = "any"


class Equals(TextCheck):
    """The text is one of the texts, apart from the amount of whitespace."""

    check: Literal["equals"]


def _check_pattern(pattern: str) -> str:
    from reward_service.rewards.patterns import compile_pattern

    compile_pattern(pattern, ignore_case=False)
    return pattern


class Regex(Cased, Condition):
    """A regular expression in RE2's syntax occurs in the text."""

    check: Literal["regex"]
    pattern: Annotated[NonEmpty, AfterValidator(_check_pattern)]


def _check_schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    from reward_service.rewards.patterns import compile_schema

    compile_schema(schema)
    return schema


class Json(Condition):
    """The text is JSON, and valid under a JSON schema if there is one."""

    check: Literal["json"]
    json_schema: Annotated[dict[str, Any], AfterValidator(_check_schema)] | None = Field(None, alias="schema")


class Number(Condition):
    """The last number in the text is that of a column."""

    check: Literal["number"]
    column: NonEmpty
    tolerance: Annotated[Finite, Field(ge=0)] = 0.0


class Length(Measure):
    """The number of words, characters or sentences."""

    check: Literal["length"]
    unit: Literal["words", "characters", "sentences"]


class Count(Cased, Measure):
    """How often texts occur, without overlap."""

    check: Literal["count"]
    text: Texts


class DistinctWords(Measure):
    """The number of different words, whatever their case."""

    check: Literal["distinct_words"]
    min_letters: int = Field(1, ge=1)
    ignore: Annotated[
        tuple[NonEmpty, ...], AfterValidator(lambda words: tuple(sorted(set(map(str.lower, words)))))
    ] = ()
    """Words that do not count."""


class Share(Measure):
    """A measure between 0 and 1."""

    _highest: ClassVar[float] = 1.0


class Repetition(Cased, Share):
    """The share of n-grams that repeat an earlier one."""

    check: Literal["repetition"]
    n: int = Field(3, ge=1, le=20)
    unit: Literal["words", "characters"] = "words"


class Script(Share):
    """The share of letters that belong to the scripts; 0 without letters."""

    check: Literal["script"]
    script: Annotated[
        tuple[ScriptName, ...],
        BeforeValidator(_several),
        Field(min_length=1),
    ]


AnyCondition = StartsWith | EndsWith | Contains | Equals | Regex | Json | Number
AnyMeasure = Length | Count | DistinctWords | Repetition | Script
AnyCheck = Annotated[AnyCondition | AnyMeasure, Field(discriminator="check")]
CHECKS: dict[str, type[Check]] = {
    get_args(check.model_fields["check"].annotation)[0]: check for check in get_args(get_args(AnyCheck)[0])
}
