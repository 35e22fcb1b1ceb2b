"""Run the code of trainers that calls the reward of an example. An argument is a trainer and a policy's responses."""

import asyncio
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import torch
from calling import serve_calls, skip_package_init

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES.parent))
QUESTION = {"role": "user", "content": "Hi"}


class Characters:
    """A tokenizer whose tokens are characters."""

    def decode(self, tokens, skip_special_tokens):
        return "".join(map(chr, tokens))


async def verl(responses):
    """Configure the reward as `main_ppo` does, and score with the manager `naive`."""
    skip_package_init("verl", "verl.experimental", "verl.experimental.reward_loop", "verl.trainer", "verl.trainer.ppo")
    skip_package_init("verl.experimental.reward_loop.reward_manager", "verl.utils")
    sys.modules["verl"].DataProto = None
    unused = ("omegaconf", "verl.utils.reward_score", "verl.experimental.reward_loop.reward_manager.registry")
    sys.modules |= {name: MagicMock() for name in unused}
    sys.modules["verl.experimental.reward_loop.reward_manager"].register = lambda name: lambda manager: manager
    sys.modules["verl.utils.ray_utils"] = SimpleNamespace(get_event_loop=asyncio.get_running_loop)
    from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
    from verl.trainer.ppo.reward import get_custom_reward_fn

    config = {"custom_reward_function": {"path": str(EXAMPLES / "verl_reward.py"), "name": "banana"}}
    manager = NaiveRewardManager(None, Characters(), get_custom_reward_fn(SimpleNamespace(reward=config)))

    def rollout(response):
        tokens = torch.tensor([ord(char) for char in response], dtype=torch.long)
        fields = {"data_source": "d", "reward_model": {"ground_truth": "yellow"}, "extra_info": {}}
        batch = {"responses": tokens, "attention_mask": torch.ones_like(tokens)}
        return [SimpleNamespace(non_tensor_batch=fields, batch=batch)]

    results = await asyncio.gather(*(manager.run_single(rollout(response)) for response in responses))
    return [result["reward_score"] for result in results]


SWIFT_UTILS = ("TOOL_KEYS", "get_logger", "is_dist", "is_master", "remove_arrow_padding", "remove_response")
SWIFT_UTILS += ("safe_ddp_context",)


async def swift(responses):
    """Load the plugin, and score samples as GRPO does, in a thread without an event loop."""
    packages = ("swift.utils", "swift.rl_core", "swift.dataset", "swift.dataset.preprocessor", "swift.infer_engine")
    skip_package_init("swift", *packages)
    unused = ("dacite", "modelscope.hub.utils.utils", "swift.template", "swift.template.template_inputs")
    sys.modules |= {name: MagicMock() for name in [*unused, "swift.infer_engine.protocol"]}
    vars(sys.modules["swift.utils"]).update({name: MagicMock() for name in SWIFT_UTILS})
    sys.modules["swift.infer_engine"].InferRequest = None
    from swift.dataset.preprocessor.core import RowPreprocessor

    sys.modules["swift.dataset"].RowPreprocessor = RowPreprocessor
    from swift.rewards import orms
    from swift.rl_core.data import GRPOSample
    from swift.rl_core.grpo_algorithm import compute_rewards_per_func

    runpy.run_path(str(EXAMPLES / "swift_plugin.py"))
    chats = [[QUESTION, {"role": "assistant", "content": response}] for response in responses]
    samples = [GRPOSample(messages=chat, extra={"solution": "yellow"}) for chat in chats]
    reward = orms["remote_banana"](args=None)
    rewards = await asyncio.to_thread(compute_rewards_per_func, samples, [reward], [None], torch.device("cpu"))
    return rewards[:, 0].tolist()


async def areal(responses):
    """Score in processes, as `RLVRWorkflow` does."""
    skip_package_init("areal", "areal.api", "areal.utils")
    from areal.api.reward_api import AsyncRewardWrapper
    from areal.utils.dynamic_import import import_from_string

    reward = AsyncRewardWrapper(import_from_string("examples.areal_reward.banana"))
    calls = (reward("Hi", f"{response}<|im_end|>", [1], [2], messages=[QUESTION]) for response in responses)
    try:
        return await asyncio.gather(*calls)
    finally:
        AsyncRewardWrapper._atexit_shutdown_all()  # or its processes outlive this one


async def skyrl(responses):
    """Step through environments that the registry makes."""
    sys.modules["omegaconf"] = MagicMock()
    import skyrl_gym

    if "banana" not in skyrl_gym.registry:
        skyrl_gym.register(id="banana", entry_point="examples.skyrl_env:BananaEnv")
    environments = [skyrl_gym.make("banana", env_config={}, extras={"max_turns": 1}) for _ in responses]
    for environment in environments:
        environment.init([QUESTION])
    steps = [await asyncio.to_thread(each.step, text) for each, text in zip(environments, responses, strict=True)]
    return [step["reward"] for step in steps]


def call(url, trainer_and_responses):
    trainer, responses = trainer_and_responses
    os.environ["REWARD_URL"] = url
    return asyncio.run({"verl": verl, "swift": swift, "areal": areal, "skyrl": skyrl}[trainer](responses))


serve_calls(call)
