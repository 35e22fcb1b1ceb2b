"""A rule adds the points of its checks; the packaged rules equal the same rules in plain Python."""

import asyncio

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reward_service.config import read_config
from reward_service.rewards.base import Items
from reward_service.rewards.rule import RuleReward
from reward_service.scorer import to_items
from reward_service.specs import RuleSpec
from reward_service.text import completion_text
from shared.schemas import ScoreRequest
from tests import plain_rules
from tests.conftest import cases, spelled_out

PACKAGED = {
    name: RuleReward(name, read_config(None).rewards[name]) for name in ("banana", "content_words", "no_repetition")
}
PIECES = [
    "Sure:",
    "banana",
    "BANANA",
    "ſure",
    "baİana",
    "naſ",
    " ",
    "\n",
    "\u3000",
    ".",
    "!",
    '"',
    "it",
    "Straße",
    "ﬁ",
    "٣",
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12).map("".join)


def rule(checks):
    return RuleReward("judge", RuleSpec(checks=yaml.safe_load(checks)))


def scored(reward, *texts, **columns):
    return asyncio.run(reward.score(Items(texts, columns=columns)))


@pytest.mark.parametrize("case", cases("banana_cases.jsonl"))
def test_banana_table(case):
    """The banana rule gives the scores and details of the table, which are those of plain Python to the bit."""
    request = ScoreRequest.model_validate({"completions": [spelled_out(case, "completion")]})
    text = completion_text(request.completions[0])
    result = scored(PACKAGED["banana"], text)
    assert result.details == [pytest.approx(case["details"], abs=1e-9)]
    assert result.scores == [pytest.approx(case["score"], abs=1e-9)]
    assert repr(result.details[0]) == repr(plain_rules.banana(text))
    assert repr(result.scores[0]) == repr(sum(plain_rules.banana(text).values()))


@given(TEXTS)
def test_packaged_rules(text):
    """On any text the packaged rules give what plain Python gives: banana to the bit."""
    banana = plain_rules.banana(text)
    result = scored(PACKAGED["banana"], text)
    assert (repr(result.scores[0]), repr(result.details[0])) == (repr(sum(banana.values())), repr(banana))
    assert scored(PACKAGED["content_words"], text).scores == [pytest.approx(plain_rules.content_words(text))]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("", 0.0),
        ("one two", 0.0),
        ("It is a kind of a stapler.", 0.0),
        ("so so so so so", -2 / 3),
        ("A b c a B c", -1 / 4),
    ],
)
def test_no_repetition(text, score):
    """The packaged `no_repetition` is minus the share of three-word sequences that occurred before."""
    assert scored(PACKAGED["no_repetition"], text).scores == [pytest.approx(score)]


def test_sum_and_details():
    """The score is the sum of the points, and the details say which check gave what, by name."""
    judge = rule("[{check: json, points: 1}, {name: short, check: length, unit: words, max: 2, otherwise: -0.5}]")
    result = scored(judge, "[]", "one two three")
    assert result.scores == [1.0, -0.5]
    assert result.details == [{"json": 1.0, "short": 0.0}, {"json": 0.0, "short": -0.5}]


@pytest.mark.parametrize(
    ("checks", "ends"),
    [
        ("[{check: json, points: 1}, {check: regex, pattern: a, points: 2, otherwise: -1}]", (-1.0, 3.0)),
        ("[{check: length, unit: words, factor: -0.1}]", None),
        ("[{check: length, unit: words, factor: -0.1, up_to: 20}]", (-2.0, 0.0)),
        ("[{check: length, unit: words, min: 3, points: 2}]", (0.0, 2.0)),
        ("[{check: repetition, factor: -3}]", (-3.0, 0.0)),
        ("[{check: count, text: a, factor: 0}]", (0.0, 0.0)),
    ],
)
def test_range(checks, ends):
    """The range of a rule follows from its checks; a measure without a bound has none."""
    assert rule(checks).info.range == ends


def test_revision():
    """The revision depends on what the checks say and on their order, not on how they are written or described."""
    a, b = "{check: contains, text: a, points: 1}", "{check: json, points: 1}"
    revision = rule(f"[{a}, {b}]").info.revision
    same = "[{check: contains, text: [a], points: 1.0, otherwise: 0, match: any}, {points: 1, check: json}]"
    assert rule(same).info.revision == revision
    described = RuleSpec(checks=yaml.safe_load(f"[{a}, {b}]"), description="text", aliases=("x",))
    assert RuleReward("other", described).info.revision == revision
    others = [
        f"[{b}, {a}]",
        f"[{a}]",
        f"[{a}, {{check: json, points: 2}}]",
        f"[{a}, {b[:-1]}, schema: {{type: array}}}}]",
    ]
    assert len({revision, *(rule(other).info.revision for other in others)}) == 5


def test_columns():
    """A rule names the columns that its checks read, and says so if a request lacks one."""
    judge = rule(
        "[{check: equals, column: answer, points: 1}, {name: n, check: number, column: value, points: 1},"
        " {check: contains, column: answer, points: 1}]"
    )
    assert judge.info.columns == ["answer", "value"]
    assert not judge.accepts_canary
    result = scored(judge, "a", "b", answer=["a", "b"])
    assert {error.code for error in result.errors.values()} == {"column_needed"}
    assert "judge reads the column 'value'" in result.errors[1].message


def test_column_values():
    """A null in a column says that the rule does not apply to an item; a wrong value costs only its own item."""
    judge = rule("[{check: number, column: value, points: 1, otherwise: -1}]")
    result = scored(judge, *["it is 2"] * 6, value=[2, None, "two", {}, True, "= 2.0"])
    assert result.scores == [1.0, None, None, None, None, 1.0]
    assert [result.errors[index].code for index in (1, 2, 3, 4)] == ["not_applicable", *["rule_failed"] * 3]
    assert "'two'" in result.errors[2].message


@pytest.mark.parametrize(("tag", "score"), [("</think>", 1.0), ("####", 0.0)])
def test_thinking_apart(tag, score):
    """A message that has its thinking in a field of its own is read whole after a tag of thinking, and of no other."""
    rule = RuleReward("right", RuleSpec(checks=[{"check": "equals", "text": "b", "after": tag, "points": 1.0}]))
    message = {"role": "assistant", "content": "b", "reasoning_content": "is it a?"}
    assert rule.score_texts(to_items(ScoreRequest(completions=[[message]]))).scores == [score]
    inside = {"role": "assistant", "content": f"a {tag} b"}
    assert rule.score_texts(to_items(ScoreRequest(completions=[[inside], f"a{tag}b"]))).scores == [1.0, 1.0]
