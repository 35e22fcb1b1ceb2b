from hypothesis import given
from hypothesis import strategies as st

from remote_rewards.backoff import backoff_s


class TestBackoff:
    @given(st.integers(0, 60), st.floats(0, 1), st.none() | st.floats(0, 1e9))
    def test_bounded(self, attempt, fraction, retry_after_s):
        """No delay exceeds the maximum."""
        assert 0 <= backoff_s(attempt, fraction=fraction, retry_after_s=retry_after_s, max_s=10) <= 10

    def test_doubles(self):
        """Delays double up to the maximum."""
        assert [backoff_s(attempt, fraction=1.0, base_s=0.5, max_s=3) for attempt in range(5)] == [0.5, 1, 2, 3, 3]

    def test_defaults(self):
        """The first delay is at most 0.2 s, and none exceeds 10 s."""
        assert [backoff_s(attempt, fraction=1.0) for attempt in (0, 1, 50, 1100)] == [0.2, 0.4, 10.0, 10.0]

    def test_retry_after(self):
        """Retry-After is a lower bound."""
        assert backoff_s(0, fraction=0.0, retry_after_s=2.0) == 2.0
