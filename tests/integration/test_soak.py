import pytest

from tests.soak.trials import TRIALS

SHORT = {name: trial for name, trial in TRIALS.items() if trial.short is not None}


@pytest.mark.parametrize("name", SHORT)
def test_soak(name):
    """The short form of a soak trial loses nothing and keeps its bounds, but for those on time."""
    outcome = SHORT[name].run(SHORT[name].short)
    assert not outcome.violations, outcome
