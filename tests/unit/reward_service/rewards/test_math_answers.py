"""Right answers as data sets have them: bare, marked as mathematics, or none."""

import pytest

from reward_service.config import read_config
from reward_service.errors import ConfigError
from reward_service.rewards.math_answers import math_answers


@pytest.mark.parametrize(
    ("text", "gold", "verdict"),
    [
        ("It is 2.", r"2\sqrt{3}", 0.0),
        (r"It is $\sqrt{12}$.", r"2\sqrt{3}", 1.0),
        (r"\boxed{x+1}", "1 + x", 1.0),
        ("so 1,234", "1234", 1.0),
        ("It is 7.", 7, 1.0),
        ("It is 0.5", 0.5, 1.0),
        ("It is 42", r"Half of 84 is \boxed{42}", 1.0),
        ("It is 42", "Half of 84 is 42", 1.0),
        ("no idea", "3", 0.0),
        ("It is 3", None, None),
        ("It is 3", "nothing", None),
        ("", "3", 0.0),
    ],
)
def test_golds(text, gold, verdict):
    """A bare formula is read whole; an answer without mathematics is not applicable."""
    assert math_answers([text], [gold]) == [verdict]


def test_missing_extra(tmp_path, monkeypatch):
    """Without math-verify the configuration is wrong, and the sentence names the extra."""
    monkeypatch.setattr("reward_service.specs.find_spec", lambda name: None)
    (tmp_path / "rewards.yaml").write_text("rewards: {right: {kind: math}}")
    with pytest.raises(ConfigError, match=r"rewards.right: kind: math needs .*pip install 'remote-rewards\[math\]'"):
        read_config(tmp_path / "rewards.yaml")
