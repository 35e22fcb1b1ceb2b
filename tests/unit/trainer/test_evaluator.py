import pytest
import torch

from shared.errors import FailureBudgetExceeded
from shared.schemas import ItemError, RewardScores
from trainer.evaluator import InverseCdfSampler, check_failure_budget, decodings, length_sorted_batches


def failing(code, count, total):
    errors = {str(index): ItemError(code=code, message="it broke") for index in range(count)}
    return RewardScores(scores=[None] * count + [1.0] * (total - count), revision="1", errors=errors)


def test_sampling_distribution():
    """Tokens are sampled with the softmax probabilities at the temperature."""
    torch.manual_seed(0)
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]]).repeat(20_000, 1)
    tokens = InverseCdfSampler(0.7)(torch.empty(0), logits).argmax(dim=-1)
    shares = torch.bincount(tokens, minlength=4) / len(tokens)
    assert shares.tolist() == pytest.approx(torch.softmax(logits[0] / 0.7, dim=-1).tolist(), abs=0.01)


def test_sampling_skips_zero():
    """A token of probability 0 is never sampled."""
    torch.manual_seed(0)
    logits = torch.tensor([[-float("inf"), 0.0, -float("inf")]]).repeat(5_000, 1)
    assert set(InverseCdfSampler(1.0)(torch.empty(0), logits).argmax(dim=-1).tolist()) == {1}


def test_length_sorted_batches():
    """Every index is in one batch, beside those of similar length."""
    assert list(length_sorted_batches([5, 1, 4, 1, 3], size=2)) == [[1, 3], [4, 2], [0]]


def test_greedy_temperature():
    """Greedy decoding has temperature 0."""
    assert [decoding.temperature for decoding in decodings(["greedy", "sampled"], 0.7, 32)] == [0.0, 0.7]


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
