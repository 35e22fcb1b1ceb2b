import pytest

from reward_service.middleware import MAX_TIMEOUT_S, parse_timeout_header


@pytest.mark.parametrize(
    ("header", "timeout_s"),
    [("1500", 1.5), ("1500.5", 1.5005), ("0", 0.0), ("0.0", 0.0), ("-1", 0.0), ("9" * 400, MAX_TIMEOUT_S)]
    + [(header, MAX_TIMEOUT_S) for header in (None, "", "soon", "nan", "inf")],
)
def test_parse_timeout_header(header, timeout_s):
    """The header is the caller's remaining time in milliseconds, at most an hour."""
    assert parse_timeout_header(header) == pytest.approx(timeout_s)
