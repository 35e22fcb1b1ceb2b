import math

import pytest
from pydantic import ValidationError

from reward_service.batching.admission import MAX_TIMEOUT_S, parse_timeout_header
from reward_service.settings import Settings

KEY = "a-key-of-many-letters"


def test_a_key_that_comes_twice_is_one(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"\ufeff{KEY}\n", encoding="utf-8")
    settings = Settings(api_keys=KEY, api_key_file=file, cache_size=9)
    assert settings.keys() == [KEY]
    assert settings.cache_bound() == 9


@pytest.mark.parametrize("key", ["ключ-из-многих-букв", "a key of many letters", "a-key-of\tmany-letters"])
def test_a_key_that_no_header_carries_is_refused(key):
    with pytest.raises(ValidationError, match="ASCII letters, digits and signs"):
        Settings(api_keys=key)


@pytest.mark.parametrize("shutdown_timeout_s", [math.inf, math.nan, -1.0])
def test_the_time_of_grace_ends(shutdown_timeout_s):
    with pytest.raises(ValidationError, match="shutdown_timeout_s"):
        Settings(shutdown_timeout_s=shutdown_timeout_s)


@pytest.mark.parametrize(
    ("header", "patience_s"),
    [("1500", 1.5), ("1500.5", 1.5005), ("0", 0.0), ("0.0", 0.0), ("-1", 0.0), ("9" * 400, MAX_TIMEOUT_S)]
    + [(header, MAX_TIMEOUT_S) for header in (None, "", "soon", "nan", "inf")],
)
def test_a_caller_says_in_milliseconds_how_long_it_waits_and_nobody_waits_longer_than_an_hour(header, patience_s):
    assert parse_timeout_header(header, now_s=7.0) == pytest.approx(7.0 + patience_s)
