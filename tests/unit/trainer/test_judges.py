import json
from importlib import resources

from tests.plain_rules import banana
from trainer.judges import (
    ScoredCompletion,
    content_share,
    lenient_success,
    on_topic,
    positive_probability,
    positive_share,
    strict_success,
    vader,
)


def completion(text, prompt="", **scores):
    return ScoredCompletion(prompt, text, scores=scores)


def test_strict_success_is_the_rule():
    """Strict success agrees with the parts of the banana rule on every case of its table."""
    lines = (resources.files("tests") / "data" / "banana_cases.jsonl").read_text().splitlines()
    texts = [case["completion"] for case in map(json.loads, lines) if isinstance(case.get("completion"), str)]
    for text in texts:
        parts = banana(text)
        assert strict_success(completion(text)) == parts["starts_with_sure"] * parts["ends_with_banana"], text


def test_lenient_success():
    """Lenient success ignores the exact form, but needs both words."""
    assert lenient_success(completion("sure, here you go: a banana or two"))
    assert not lenient_success(completion("Sure: apples"))
    assert not lenient_success(completion(""))


def test_vader():
    """VADER's score is positive for praise and negative for complaint."""
    praise, complaint = completion("This is absolutely wonderful!"), completion("This is horrible.")
    assert vader(praise) > 0.5 > -0.3 > vader(complaint)


def test_on_topic():
    """A completion is on topic as far as it uses the prompt's content words."""
    prompt = "How does a stapler work?"
    assert on_topic(completion("Staplers work by bending wire.", prompt)) == 1.0
    assert on_topic(completion("The world of craft is a marvel.", prompt)) == 0.0
    assert on_topic(completion("Because.", "Why?")) == 1.0


def test_positive_share():
    """The share of positive completions is that of positive `sentiment` scores, and unknown without them."""
    assert [positive_share(completion("", sentiment=score)) for score in (0.1, 0.0, -1.0)] == [1.0, 0.0, 0.0]
    assert positive_share(completion("", sentiment=None)) is None
    assert positive_share(completion("", valence=1.0)) is None


def test_positive_probability():
    """P(POSITIVE) is read off the `sentiment` reward, and unknown without it."""
    assert [positive_probability(completion("", sentiment=score)) for score in (2.0, 1.2, -0.75)] == [1.0, 0.6, 0.25]
    assert positive_probability(completion("", valence=1.0)) is None


def test_content_share():
    """Five content words are an answer."""
    assert content_share(completion("Sure: bread rises because yeast makes gas, banana")) == 1.0
    assert content_share(completion("Sure: and banana")) == 0.0
