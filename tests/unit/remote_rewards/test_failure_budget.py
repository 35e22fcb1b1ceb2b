import pytest

from remote_rewards.failure_budget import (
    FailureBudget,
    check_fully_failed_group,
    exceeds_budget,
    failed_items,
    fully_failed_group,
    mask_failed,
)
from shared.errors import FailureBudgetExceeded
from tests.unit.remote_rewards.fakes import scores_of


def test_overlong_completions_stop_a_run():
    """A run in which most completions are longer than the model reads is stopped with the reason."""
    budget = FailureBudget("x", 0.01)
    scores = scores_of(["a", "b", "c"], {})
    budget.record(scores.model_copy(update={"overlong": [0]}))
    with pytest.raises(FailureBudgetExceeded, match="4 of the last 6 completions are longer than"):
        budget.record(scores.model_copy(update={"overlong": [0, 1, 2]}))


@pytest.mark.parametrize(
    ("recent", "exceeded"),
    [
        ([(0, 16)] * 10, False),
        ([(1, 16)], False),
        ([(1, 16), (1, 16)], True),
        ([(3, 100)] + [(0, 100)] * 3, False),
        ([(5, 100)] + [(0, 100)] * 3, True),
        ([(4, 4)], True),
        ([(0, 0)], False),
    ],
)
def test_budget_is_a_share_of_recent_items(recent, exceeded):
    """One item may always fail, all items never, and else at most the budget's share of the items of recent calls."""
    assert exceeds_budget(recent, 0.01) is exceeded


def test_budget_covers_the_last_ten_calls():
    """A failure counts against the budget for ten calls."""
    budget = FailureBudget("x", 0.01)
    for completions in ["poison", *"a" * 10, "poison"]:
        budget.record(scores_of([completions, "b"], {"poison": "failed"}))
    with pytest.raises(FailureBudgetExceeded, match=r"2 of the last 20 completions have no 'x' score.*it broke"):
        budget.record(scores_of(["poison", "b"], {"poison": "failed"}))


@pytest.mark.parametrize(("failed", "prompt"), [("01", "'p'"), ("0", None), ("02", None), ("4", None), ("", None)])
def test_fully_failed_group_is_found(failed, prompt):
    """A prompt with several completions that all failed is found; one with a single completion does not count."""
    assert fully_failed_group(set(failed), ["p", "p", "q", "q", "single"]) == prompt


def test_fully_failed_group_raises():
    """A prompt whose completions failed on different rewards has no baseline, either."""
    rewards = [scores_of(["a", "b"], {"a": "failed"}), scores_of(["a", "b"], {"b": "failed"})]
    with pytest.raises(FailureBudgetExceeded, match=r"no completion of the prompt .* has all its scores"):
        check_fully_failed_group(["p", "p"], rewards)


@pytest.mark.parametrize(
    ("first", "second", "failed"),
    [
        ({"a": "failed"}, {"b": "timeout"}, {"0", "1"}),
        ({"a": "failed"}, {"a": "timeout"}, {"0"}),
        ({"a": "failed"}, {"b": "not_applicable"}, {"0"}),
        ({"a": "not_applicable"}, {}, set()),
    ],
)
def test_item_failed_if_any_reward_failed(first, second, failed):
    """An item has failed if any reward of the group failed on it; a reward that does not apply has not failed."""
    rewards = [scores_of(["a", "b", "c", "d"], codes) for codes in (first, second)]
    assert failed_items(rewards).keys() == failed
    masked = mask_failed(scores_of(["a", "b", "c", "d"]), rewards)
    assert {str(index) for index, score in enumerate(masked) if score is None} == failed
