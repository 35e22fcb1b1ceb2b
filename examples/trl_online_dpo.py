# /// script
# requires-python = ">=3.11"
# dependencies = ["remote-rewards[trainer]"]
# ///
"""TRL's OnlineDPO, which does not await rewards: REWARD_URL=http://host:8088 uv run examples/trl_online_dpo.py MODEL.

From a checkout, before the package is published: uv run --with-editable '.[trainer]' python examples/….py MODEL.
"""

import os
import sys

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from remote_rewards import remote_reward

PROMPTS = ["Name a yellow fruit.", "What do monkeys eat?", "Describe the sun.", "What is in a smoothie?"]

if __name__ == "__main__":
    trainer = OnlineDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(sys.argv[1]),
        processing_class=AutoTokenizer.from_pretrained(sys.argv[1], padding_side="left"),
        reward_funcs=remote_reward(os.environ.get("REWARD_URL", "http://127.0.0.1:8088"), "banana", sync=True),
        args=OnlineDPOConfig("runs/online_dpo", max_steps=60, max_new_tokens=64, use_cpu=not torch.cuda.is_available()),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
    )
    trainer.train()
