import pytest

from shared.errors import FailureBudgetExceeded
from shared.schemas import ItemError, RewardScores
from trainer.evaluator import check_failure_budget


def failing(code, count, total):
    errors = {str(index): ItemError(code=code, message="it broke") for index in range(count)}
    return RewardScores(scores=[None] * count + [1.0] * (total - count), revision="1", errors=errors)


@pytest.mark.parametrize(("code", "total"), [("backend_failed", 200), ("not_finite", 4)])
def test_failure_budget_exceeded(code, total):
    """An evaluation with too few scores is an error that gives the reason."""
    with pytest.raises(FailureBudgetExceeded, match=f"3 of {total} completions have no 'x' score.*{code}: it broke"):
        check_failure_budget("x", failing(code, 3, total), 0.01)


def test_not_applicable_is_no_failure():
    """Completions that a reward does not apply to do not count as failed."""
    check_failure_budget("x", failing("not_applicable", 1, 1), 0.01)


def test_failure_budget_of_the_run():
    """The failure budget is the run's."""
    check_failure_budget("x", failing("backend_failed", 3, 100), 0.05)
