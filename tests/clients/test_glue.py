"""The examples for trainers that take code, called by the trainers' own code from their packages."""

import pytest

from reward_service.rewards.base import Scores
from tests.clients.packages import Client, installed
from tests.conftest import running_service
from tests.integration.test_formats import Failing

pytestmark = pytest.mark.clients
PACKAGES = {
    "verl": ["verl==0.9.1"],
    "swift": ["ms-swift==4.6.0"],
    "areal": ["areal==1.0.4", "colorlog==6.12.0"],
    "skyrl": ["skyrl-gym==0.4.0"],
}


class Lengths(Failing):
    """Scores the number of characters, and fails on the text `null`."""

    async def score(self, items):
        result = await super().score(items)
        return result if result.errors else Scores([*map(len, items.completions)], result.details)


@pytest.mark.parametrize("trainer", PACKAGES)
def test_example_in_trainer(trainer):
    """The trainer gets each completion's own score; where one has none, the trainer raises."""
    with (
        running_service(rewards={"banana": Lengths()}) as url,
        Client(installed(*PACKAGES[trainer]), "call_examples.py") as client,
    ):
        assert client.call(url, [trainer, ["a", "abc", "", "ab"]]) == [1.0, 3.0, 0.0, 2.0]
        assert "it broke" in client.call(url, [trainer, ["null"]])["raised"]
