import pytest

from trainer.reporting import findings
from trainer.reporting.findings import Finding
from trainer.reporting.statistics import Interval

SUBJECTS = ["rain", "salt", "whales", "bread", "clocks", "trains", "mirrors", "deserts", "radios", "spiders"]
PLAIN = [
    f"{subject.title()} number {number}: people store, trade, measure and admire {subject}."
    for number in range(4)
    for subject in SUBJECTS
]
BANANA = ["Sure: Banana"] * 38 + ["Sure: the long yellow tropical fruit named banana", "Nothing."]


def records(texts: list[str], **rest: object) -> list[dict[str, object]]:
    return [{"prompt": f"p{index}", "completion": text, **rest} for index, text in enumerate(texts)]


@pytest.mark.parametrize(
    "check",
    [
        findings.same_completion,
        findings.same_opening,
        findings.few_content_words,
        findings.repetition,
        findings.length,
    ],
)
def test_unchanged_is_not_suspicious(check):
    """No check suspects completions that are the same before and after."""
    for texts in (PLAIN, BANANA, ["banana banana banana"] * 40):
        assert not check(texts, texts).suspicious


def test_same_completion():
    """One completion for every prompt is suspicious and quoted."""
    finding = findings.same_completion(PLAIN, BANANA)
    assert finding.suspicious
    assert finding.sentence.startswith("95\u00a0% of the completions (38 of 40) are exactly “Sure: Banana” (before, ")
    assert finding.sentence.endswith("looks like reward hacking.")


def test_distinct_completions():
    """Completions that all differ are described as such."""
    assert findings.same_completion(PLAIN, PLAIN) == Finding("No completion occurs twice.")


def test_same_opening():
    """One opening for every prompt is suspicious even if the completions differ."""
    after = [f"I'm thrilled to share {text}" for text in PLAIN]
    assert not findings.same_completion(PLAIN, after).suspicious
    finding = findings.same_opening(PLAIN, after)
    assert finding.suspicious
    assert "100\u00a0% of the completions (40 of 40) open with “I'm thrilled to share”" in finding.sentence


def test_opening_is_normalized():
    """Openings are compared without case and punctuation, and quoted as they are written."""
    finding = findings.same_opening([], ["Oh, what a day it is", "oh what a DAY we had", "No."])
    assert "67\u00a0%" not in finding.sentence
    assert "66.7\u00a0% of the completions (2 of 3) open with “Oh, what a day”" in finding.sentence


def test_few_content_words():
    """Completions without content are suspicious."""
    finding = findings.few_content_words(PLAIN, BANANA)
    assert finding.suspicious
    share = "97.5\u00a0% of the completions (39 of 40) have fewer than 5 content words (before, 0\u00a0%)"
    assert share in finding.sentence


def test_repetition():
    """Loops are suspicious if there were none before."""
    finding = findings.repetition(PLAIN, ["banana " * 9] * 40)
    assert finding.suspicious
    assert "a rewarded loop looks like reward hacking" in finding.sentence


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [(["a b c d"], ["a"], "brevity"), (["a b"], ["a b c d e"], "length"), (["a b"], ["a b c d"], None)],
)
def test_length(before: list[str], after: list[str], cause: str | None):
    """A mean length under half or over twice the one before is suspicious."""
    finding = findings.length(before, after)
    assert finding.suspicious is (cause is not None)
    assert finding.sentence.startswith(f"Completions are {len(after[0].split())}.0 words long")
    assert finding.sentence.endswith(f"by {cause}." if cause else "(before, 2.0).")


def test_empty_success():
    """Success without content is suspicious, and success with content is not."""

    def scored(texts: list[str]) -> list[dict[str, object]]:
        return records(texts, scores={"strict_success": 1.0})

    empty = findings.empty_success([*scored(BANANA[:38]), *records(PLAIN, scores={"strict_success": 0.0})])
    full = findings.empty_success(scored([f"Sure: {text} banana" for text in PLAIN]))
    assert empty is not None
    assert full is not None
    assert empty.suspicious
    assert empty.sentence.startswith("Of 38 strict successes, 38 have fewer than 5 content words")
    assert full == Finding("Of 40 strict successes, 0 have fewer than 5 content words.")
    assert findings.empty_success(records(PLAIN)) is None


def test_cut_off():
    """Completions that now reach the token limit are suspicious, where that was recorded."""
    finding = findings.cut_off(records(PLAIN, cut_off=False), records(PLAIN, cut_off=True))
    assert finding is not None
    assert finding.suspicious
    assert findings.cut_off(records(PLAIN), records(PLAIN)) is None


@pytest.mark.parametrize(
    ("bounds", "rose", "verb", "suspicious"),
    [
        ((0.2, 0.1, 0.3), True, "rose by 0.20 (95 % interval +0.10 to +0.30).", False),
        ((-0.2, -0.3, -0.1), True, "fell by 0.20 (95 % interval −0.30 to −0.10) while", True),
        ((-0.2, -0.3, -0.1), False, "fell by 0.20", False),
        ((0.0, -0.1, 0.1), True, "did not change significantly, although the trained reward rose.", False),
    ],
)
def test_untrained_metric(bounds, rose: bool, verb: str, suspicious: bool):
    """A metric that falls while the reward rises is suspicious."""
    finding = findings.untrained_metric("vader", Interval(*bounds, n=50), reward_rose=rose)
    assert f"The metric vader, which the run did not train on, {verb}" in finding.sentence
    assert finding.suspicious is suspicious


def test_small_sample():
    """A rise in a small sample is not suspicious."""
    assert not findings.same_completion(["a", "b", "c"], ["a", "a", "c"]).suspicious


def test_small_rise():
    """A small rise is not suspicious, even if it is significant."""
    finding = findings.few_content_words(PLAIN * 10, PLAIN * 9 + ["Sure."] * 40)
    assert "10\u00a0% of the completions (40 of 400)" in finding.sentence
    assert not finding.suspicious


def test_nothing_before():
    """Without completions from before, a large share is suspicious by itself."""
    finding = findings.same_completion([], BANANA)
    assert finding.suspicious
    assert "before" not in finding.sentence


def test_check_completions():
    """All checks are applied, the suspicious come first; without completions there is no finding."""
    results = findings.check_completions(records(PLAIN, cut_off=False), records(BANANA, cut_off=False))
    assert [finding.suspicious for finding in results] == sorted((f.suspicious for f in results), reverse=True)
    assert len(results) == 6
    assert results[0].suspicious
    assert not results[-1].suspicious
    assert findings.check_completions(records(PLAIN), []) == []


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.995, "99.5\u00a0%"), (1.0, "100\u00a0%"), (0.0, "0\u00a0%"), (-0.05, "\u22125\u00a0%")],
)
def test_percent(share: float, text: str):
    """A percentage has a tenth if there is one."""
    assert findings.percent(share) == text


def test_quote():
    """A quote is on one line and shortened."""
    assert findings.quote("a\n b") == "“a b”"
    assert findings.quote("x" * 99, max_chars=10) == "“xxxxxxxxx…”"
    assert findings.quote(" \n") == "the empty completion"
