# /// script
# requires-python = ">=3.11"
# dependencies = ["remote-rewards", "ms-swift"]
# ///
"""A remote reward for ms-swift, which calls it with the completions of a batch.

REWARD_URL=http://host:8088 swift rlhf --rlhf_type grpo … \\
    --external_plugins examples/swift_plugin.py --reward_funcs remote_banana

A completion without a score raises: ms-swift would turn None into 0.0.
"""

import os
from typing import Any

from swift.rewards import ORM, orms

from remote_rewards import remote_reward

reward = remote_reward(os.environ.get("REWARD_URL", "http://127.0.0.1:8088"), "banana", sync=True)


class RemoteBanana(ORM):
    """The reward `banana` of the service."""

    def __call__(self, completions: list[str], messages: list[list[dict[str, Any]]], **columns: Any) -> list[float]:
        """Return one score for each completion, the last of its messages."""
        state = columns.pop("trainer_state", None)
        prompts = [chat[:-1] for chat in messages]
        return reward(prompts=prompts, completions=completions, trainer_state=state, **columns)


orms["remote_banana"] = RemoteBanana
