import random

import pytest

from trainer.reporting import aggregate
from trainer.reporting.aggregate import score_of
from trainer.reporting.statistics import wilson
from trainer.texts import most_common_share


def side(scores, text=str):
    return [
        {"prompt": f"p{index}", "completion": text(index), "scores": {"x": score}} for index, score in enumerate(scores)
    ]


def noise(mean, seed, n=200):
    draw = random.Random(seed)
    return side([draw.gauss(mean, 1.0) for _ in range(n)])


def test_prompts_are_the_trials():
    """Three seeds of the same prompts give no narrower interval than their prompts allow, and each seed is listed."""
    seeds = [side([1.0] * hits + [0.0] * (20 - hits)) for hits in (10, 12, 14)]
    estimate = aggregate.mean_over_seeds(seeds, score_of("x"), share=True)
    assert estimate.interval == wilson(12, 20)
    assert (estimate.seeds, estimate.lowest, estimate.highest) == ([0.5, 0.6, 0.7], 0.5, 0.7)


def test_conversations_are_the_trials():
    """Conversations that end in the same message are different trials."""
    records = [{**record, "prompt": "Continue.", "prompt_id": record["prompt"]} for record in side([0.0, 1.0] * 10)]
    assert aggregate.mean_over_seeds([records], score_of("x"), share=True).interval == wilson(10, 20)
    assert aggregate.change_over_seeds([(records, records)], score_of("x"), share=False).interval.n == 20


def test_change_is_paired():
    """A change is the mean over seeds of the paired differences."""
    first = noise(0.0, 1)
    last = [{**record, "scores": {"x": record["scores"]["x"] + 1.5}} for record in first]
    estimate = aggregate.change_over_seeds([(first, last)] * 3, score_of("x"), share=False)
    assert (estimate.interval.mean, estimate.interval.low, estimate.interval.high) == pytest.approx((1.5, 1.5, 1.5))
    assert estimate.interval.n == 200


def test_ratio_covers():
    """The interval of a ratio contains the true ratio in about 95 of 100 samples."""
    covered = 0
    for seed in range(200):
        estimate = aggregate.ratio_over_seeds([(noise(4.0, seed), noise(5.0, seed + 1000))], score_of("x"))
        covered += estimate.interval.low <= 1.25 <= estimate.interval.high
    assert 178 <= covered <= 200


def test_text_measures():
    """Shares and ratios of whole texts are estimated as well."""
    alike, distinct = side([0.0] * 40, lambda _: "same"), side([0.0] * 40)
    share = aggregate.text_share_over_seeds([alike, distinct], most_common_share)
    assert share.seeds == [1.0, 0.025]
    assert share.interval.n == 40
    ratio = aggregate.text_ratio_over_seeds([(alike, distinct)], most_common_share)
    assert ratio.interval.mean == 0.025


def test_local_judges_score_later():
    """A local judge scores completions that it did not judge; another score that is missing stays so."""
    record = {"prompt": "p", "completion": "Sure: it is a banana", "scores": {"sentiment": 1.0, "vader": 0.25}}
    names = ("strict_success", "positive_probability", "vader", "relevance")
    assert [score_of(name)(record) for name in names] == [1.0, 0.5, 0.25, None]


def test_nothing_to_estimate():
    """Without completions or scores there is no estimate."""
    unscored = [{"prompt": "p", "completion": "c", "scores": {}}]
    for sides in ([], [[]], [unscored]):
        assert aggregate.mean_over_seeds(sides, score_of("x"), share=False) is None
        assert aggregate.change_over_seeds([(one, one) for one in sides], score_of("x"), share=False) is None
        assert aggregate.ratio_over_seeds([(one, one) for one in sides], score_of("x")) is None
    assert aggregate.text_share_over_seeds([[]], most_common_share) is None
