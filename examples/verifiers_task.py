# /// script
# requires-python = ">=3.11"
# dependencies = ["remote-rewards", "verifiers>=0.4"]
# ///
"""A remote reward for verifiers, as a task: copy it into the taskset that `uv run init NAME` creates.

REWARD_URL=http://host:8088 uv run eval NAME

A completion without a score raises: verifiers records a `TaskError` in the trace, and no reward.
"""

import asyncio
import os

import verifiers.v1 as vf

from remote_rewards import remote_reward

reward = remote_reward(os.environ.get("REWARD_URL", "http://127.0.0.1:8088"), "banana", sync=True)


class BananaTask(vf.Task[vf.TaskData]):
    """A task whose completions are scored by the reward `banana` of the service."""

    @vf.reward(weight=1.0)
    async def banana(self, trace: vf.Trace) -> float:
        """Return the score of the last reply."""
        scores = await asyncio.to_thread(reward, prompts=None, completions=[trace.last_reply])
        return scores[0]
