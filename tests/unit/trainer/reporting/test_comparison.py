from typing import Any

import pytest

from trainer.reporting.comparison import compare, pair
from trainer.reporting.statistics import Interval


def evaluation(banana: float, prompts: int = 20) -> dict[str, Any]:
    records = [
        {
            "prompt": f"Question {index}?",
            "completion": f"Number {index} was counted, weighed and measured.",
            "tokens": 7,
            "cut_off": False,
            "scores": {"banana": banana + 0.01 * index, "strict_success": 0.0},
        }
        for index in range(prompts)
    ]
    return {"decodings": {"greedy": {"temperature": 0.0, "max_new_tokens": 32, "samples": records}}}


def test_pair():
    """Completions are paired by prompt, whatever their order, and by their index within a prompt."""
    first = [{"prompt": prompt, "completion": f"{prompt}{index}"} for index, prompt in enumerate("aab")]
    last = [{"prompt": prompt, "completion": f"{prompt}{index}"} for index, prompt in enumerate("bca")]
    pairs = [(one["completion"], other["completion"]) for one, other in pair(first, last)]
    assert pairs == [("a0", "a2"), ("b2", "b0")]


def test_missing_score():
    """A missing score is left out of the estimates and counted in the row's note."""
    before, after = evaluation(0.0), evaluation(1.0)
    after["decodings"]["greedy"]["samples"][3]["scores"]["banana"] = None
    row = compare(before, after)[0].rows[0]
    assert row.metric == "banana"
    assert row.note == "no value: 0 before, 1 after"
    estimates = (row.before, row.after, row.change)
    assert [estimate.n for estimate in estimates if isinstance(estimate, Interval)] == [20, 19, 19]


@pytest.mark.parametrize(("prompts", "direction"), [(5, 1), (4, 0)])
def test_direction(prompts: int, direction: int):
    """A change has a direction only from five prompts on."""
    rows = compare(evaluation(0.0, prompts), evaluation(1.0, prompts))[0].rows
    assert [row.direction for row in rows] == [direction] + [0] * 8


def test_settings():
    """A comparison names its decoding's settings and the number of completions."""
    settings = compare(evaluation(0.0), None)[0].settings
    assert settings == "temperature 0, at most 32 new tokens, 20 completions of 20 prompts"
