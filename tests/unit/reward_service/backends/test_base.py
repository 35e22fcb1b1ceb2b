import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_service.backends.base import probabilities


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6))
def test_probabilities_any_logits(logits):
    """For any finite logits, a softmax sums to one and each sigmoid is between zero and one."""
    assert sum(probabilities(logits, multi_label=False)) == pytest.approx(1.0)
    assert all(0 <= p <= 1 for p in probabilities(logits, multi_label=True))
