# /// script
# requires-python = ">=3.11"
# dependencies = ["remote-rewards", "skyrl-gym"]
# ///
"""A remote reward for SkyRL, as an environment of one turn.

In the training script: skyrl_gym.register(id="banana", entry_point="examples.skyrl_env:BananaEnv"), then
REWARD_URL=http://host:8088 python train.py … environment.env_class=banana

A completion without a score raises.
"""

import os
from typing import Any

from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput, ConversationType

from remote_rewards import remote_reward

reward = remote_reward(os.environ.get("REWARD_URL", "http://127.0.0.1:8088"), "banana", sync=True)


class BananaEnv(BaseTextEnv):
    """One prompt, one completion, one score."""

    def __init__(self, env_config: Any = None, extras: dict[str, Any] | None = None) -> None:
        super().__init__()

    def init(self, prompt: ConversationType) -> tuple[ConversationType, dict[str, Any]]:
        """Remember the prompt, which some rewards read."""
        self.prompt = prompt
        return prompt, {}

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """Return the score of the completion and end the episode."""
        (score,) = reward(prompts=[self.prompt], completions=[action])
        return BaseTextEnvStepOutput(observations=[], reward=score, done=True, metadata={})
