# /// script
# requires-python = ">=3.11"
# dependencies = ["remote-rewards"]
# ///
"""A remote reward for verl, which calls it once for each completion, many at a time.

REWARD_URL=http://host:8088 python -m verl.trainer.main_ppo … \\
    reward.custom_reward_function.path=examples/verl_reward.py reward.custom_reward_function.name=banana

A completion without a score raises. Keep verl's manager `naive`: `rate_limited` turns a late score into 0.0.
"""

import os
from typing import Any

from remote_rewards import remote_reward

reward = remote_reward(os.environ.get("REWARD_URL", "http://127.0.0.1:8088"), "banana", sync=True)


def banana(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **_: Any) -> float:
    """Return the score of one completion."""
    return reward(prompts=None, completions=[solution_str], answer=[ground_truth])[0]
