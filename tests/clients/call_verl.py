"""Run verl's reward loop on rollouts, all at once. Each call is an engine, a timeout, a model and responses."""

import asyncio
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock
from urllib.parse import urlsplit

import numpy as np
from calling import serve_calls, skip_package_init

skip_package_init("verl", "verl.experimental", "verl.experimental.reward_loop")
UNUSED = ["ray", "ray.actor", "omegaconf", "tensordict", "verl.protocol", "verl.single_controller.ray.base"]
UNUSED += ["verl.trainer.ppo.reward", "verl.utils", "verl.utils.fs", "verl.utils.ray_utils"]
sys.modules |= {name: MagicMock() for name in [*UNUSED, "verl.experimental.reward_loop.reward_model"]}
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker  # noqa: E402


def rollout(response):
    """Return verl's data of one response, of which a token is a character."""
    tokens = np.array([ord(char) for char in response + "<|im_end|>"])
    return SimpleNamespace(
        non_tensor_batch={"raw_prompt": [{"role": "user", "content": ""}]},
        batch={"responses": tokens, "attention_mask": np.ones_like(tokens)},
    )


def worker(url, engine, model):
    reward_model = SimpleNamespace(rollout=SimpleNamespace(name=engine), model_path=model)
    worker = object.__new__(RewardLoopWorker)  # its __init__ loads tokenizers
    worker.config = SimpleNamespace(reward=SimpleNamespace(reward_model=reward_model))
    worker.reward_router_address = urlsplit(url).netloc
    worker.input_tokenizer = SimpleNamespace(decode=lambda ids: "".join(map(chr, ids)), eos_token="<|im_end|>")
    worker.reward_model_tokenizer = SimpleNamespace(
        apply_chat_template=lambda chat, **_: "".join(message["content"] for message in chat), bos_token=None
    )
    return worker


async def run(url, engine, timeout_s, model, responses):
    calls = [worker(url, engine, model).compute_score_disrm([rollout(response)]) for response in responses]
    async with asyncio.timeout(timeout_s):
        return [result["reward_score"] for result in await asyncio.gather(*calls)]


serve_calls(lambda url, arguments: asyncio.run(run(url, *arguments)))
