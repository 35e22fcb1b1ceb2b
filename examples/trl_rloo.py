# /// script
# requires-python = ">=3.11"
# dependencies = ["remote-rewards[trainer]"]
# ///
"""TRL's RLOO with a remote reward: REWARD_URL=http://host:8088 uv run examples/trl_rloo.py Qwen/Qwen2.5-0.5B-Instruct.

From a checkout, before the package is published: uv run --with-editable '.[trainer]' python examples/trl_rloo.py MODEL.
"""

import os
import sys

import torch
from datasets import Dataset
from trl import RLOOConfig, RLOOTrainer

from remote_rewards import remote_reward

PROMPTS = ["Name a yellow fruit.", "What do monkeys eat?", "Describe the sun.", "What is in a smoothie?"]

if __name__ == "__main__":
    trainer = RLOOTrainer(
        model=sys.argv[1],
        reward_funcs=remote_reward(os.environ.get("REWARD_URL", "http://127.0.0.1:8088"), "banana"),
        args=RLOOConfig(
            "runs/rloo",
            max_steps=60,
            num_generations=4,
            max_completion_length=64,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
    )
    trainer.train()
