"""The policy of trainings whose checks do not depend on what it can say."""

import pytest

from tests.short_runs import save_policy


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    """The folder of a small random chat model."""
    return save_policy(tmp_path_factory.mktemp("policy"))
