import math

import pytest
from pydantic import ValidationError

from reward_service.settings import Settings

KEY = "a-key-of-many-letters"


def test_duplicate_keys_count_once(tmp_path):
    """A key that is both in the setting and in the file is one key."""
    file = tmp_path / "keys"
    file.write_text(f"\ufeff{KEY}\n", encoding="utf-8")
    settings = Settings(api_keys=KEY, api_key_file=file, cache_size=9)
    assert settings.load_api_keys() == [KEY]
    assert settings.cache_bound() == 9


@pytest.mark.parametrize("key", ["ключ-из-многих-букв", "a key of many letters", "a-key-of\tmany-letters"])
def test_key_must_fit_a_header(key):
    """A key that a header cannot carry is rejected."""
    with pytest.raises(ValidationError, match="ASCII letters, digits and signs"):
        Settings(api_keys=key)


def test_api_keys_need_a_key():
    """A list of API keys without a key is rejected: it would open the service to everyone."""
    with pytest.raises(ValidationError, match="holds no key"):
        Settings(api_keys=" , ")


def test_empty_variable_is_unset(monkeypatch):
    """An environment variable with an empty value is ignored."""
    monkeypatch.setenv("REWARD_SERVICE_THREADS", "")
    assert Settings().threads is None


@pytest.mark.parametrize("shutdown_timeout_s", [math.inf, math.nan, -1.0])
def test_shutdown_timeout_is_finite(shutdown_timeout_s):
    """`shutdown_timeout_s` is finite and not negative."""
    with pytest.raises(ValidationError, match="shutdown_timeout_s"):
        Settings(shutdown_timeout_s=shutdown_timeout_s)


def test_names_of_rewards_are_split(monkeypatch):
    """The environment variable holds the names of the rewards to serve, separated by commas."""
    monkeypatch.setenv("REWARD_SERVICE_REWARDS", "banana, sentiment,")
    assert Settings().rewards == ["banana", "sentiment"]
