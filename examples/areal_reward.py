# /// script
# requires-python = ">=3.11"
# dependencies = ["remote-rewards"]
# ///
"""A remote reward for AReaL, which calls it once for each completion, in a process pool.

REWARD_URL=http://host:8088 and, in the training script: RLVRWorkflow(reward_fn="examples.areal_reward.banana", …)

A completion without a score raises, in less than the 15 seconds after which AReaL would use 0. AReaL counts the wait
for a process of its pool, too. With many rollouts at once, make the workflow with reward_fn=banana, and set
workflow.async_reward_fn = AsyncRewardWrapper(banana, timeout_seconds=600, max_workers=32).
"""

import os
from typing import Any

from remote_rewards import remote_reward

END_OF_TURN = "<|im_end|>"
"""The marker of the policy's chat template, which AReaL leaves in the completion."""
reward = remote_reward(os.environ.get("REWARD_URL", "http://127.0.0.1:8088"), "banana", sync=True, timeout_s=10.0)


def banana(prompt: str, completions: str, prompt_ids: list[int], completion_ids: list[int], **columns: Any) -> float:
    """Return the score of one completion."""
    return reward(prompts=[prompt], completions=[completions.removesuffix(END_OF_TURN)])[0]
