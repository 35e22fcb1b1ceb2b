import asyncio

import pytest

from remote_rewards.joint import JointClient


class Answering:
    """A client that notes which rewards it is asked for."""

    def __init__(self):
        self.asked = []

    async def ascore(self, completions, prompts, columns, rewards, *, revisions):
        self.asked.append(rewards)
        return "answer"


async def test_a_call_that_gives_up_before_it_is_sent_leaves_nothing_to_the_next_of_the_same_completions():
    client = Answering()
    joint, completions, prompts = JointClient(client), ["c"], ["p"]
    gone = asyncio.create_task(joint.score("banana", completions, prompts, {}))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await joint.score("sentiment", completions, prompts, {}) == "answer"
    assert client.asked == [["sentiment"]]
