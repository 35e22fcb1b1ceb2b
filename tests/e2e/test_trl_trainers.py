"""TRL's trainers that take reward functions: two steps of a small random policy against a real service."""

import pickle
import runpy
import sys
from pathlib import Path

import pytest
import trl
from accelerate import PartialState
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import RLOOConfig, RLOOTrainer
from trl.experimental import online_dpo
from trl.experimental.a2po import A2POConfig, A2POTrainer
from trl.experimental.async_grpo.async_rollout_worker import RolloutGroup, TrainingSequence, _AsyncRolloutLoop
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

from remote_rewards import ServiceUnreachable, remote_reward
from reward_service.rewards.base import Scores, all_failed
from shared.schemas import ItemError, RewardInfo
from tests.conftest import Plain, running_service
from tests.short_runs import short_run
from trainer.config import parse
from trainer.run_folder import read_run
from trainer.train import train

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"
PROMPTS = ["Name a yellow fruit.", "What do monkeys eat?"]
LOGGED = {"max_steps": 2, "report_to": "none", "save_strategy": "no", "logging_steps": 1}
SHORT = {**LOGGED, "use_cpu": True, "bf16": False}
GROUPS = {"num_generations": 4, "per_device_train_batch_size": 4, "max_completion_length": 4}


def logged(trainer, metric):
    return [line[metric] for line in trainer.state.log_history if metric in line]


@pytest.mark.parametrize(
    ("name", "module", "config", "metric"),
    [
        ("trl_rloo", trl, "RLOOConfig", "rewards/banana/mean"),
        ("trl_grpo", trl, "GRPOConfig", "rewards/banana/mean"),
        ("trl_online_dpo", online_dpo, "OnlineDPOConfig", "objective/scores"),
    ],
)
def test_example_trains(name, module, config, metric, policy, rules_url, tmp_path, monkeypatch):
    """Each example for TRL trains as it stands, but for fewer and shorter steps, on the scores of the service."""
    config_class = getattr(module, config)
    lengths = ("max_completion_length", "max_new_tokens")

    def short(folder, **settings):
        shortened = {setting: 4 for setting in lengths if setting in settings}
        return config_class(folder, **{**settings, **LOGGED, **shortened})

    monkeypatch.setattr(module, config, short)
    monkeypatch.setattr(sys, "argv", [name, policy])
    monkeypatch.setenv("REWARD_URL", rules_url)
    monkeypatch.chdir(tmp_path)
    trainer = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")["trainer"]
    assert all(logged(trainer, metric)[:2])


@pytest.mark.parametrize(
    ("trainer_class", "config_class", "sync", "metric", "settings"),
    [
        (GMPOTrainer, GMPOConfig, False, "rewards/banana/mean", GROUPS),
        (SDPOTrainer, SDPOConfig, True, "self_distillation/reward_mean", GROUPS),
        (A2POTrainer, A2POConfig, True, "reward", {"num_value_samples": 2, "max_completion_length": 4}),
    ],
)
def test_two_steps(trainer_class, config_class, sync, metric, settings, policy, rules_url, tmp_path):
    """The experimental trainers log a reward in each of two steps that is not the 0.0 of a missing one."""
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(policy),
        processing_class=AutoTokenizer.from_pretrained(policy, padding_side="left"),
        reward_funcs=remote_reward(rules_url, "banana", sync=sync),
        args=config_class(str(tmp_path), **SHORT, **settings),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
    )
    trainer.train()
    assert len(logged(trainer, metric)) == 2
    assert all(logged(trainer, metric))


class Fives(Plain):
    """Scores 5.0, and fails on the first completion of each request."""

    accepts_canary = False
    info = RewardInfo(name="fives", kind="rule", description="", revision="1")

    async def score(self, items):
        scores = [None, *[5.0] * (len(items) - 1)]
        return Scores(scores, [None] * len(items), {0: ItemError(code="backend_failed", message="it broke")})


class Broken(Fives):
    """Scores nothing."""

    info = RewardInfo(name="broken", kind="rule", description="", revision="1")

    async def score(self, items):
        return all_failed(len(items), "backend_failed", "it broke")


def test_watched_reward_in_trl(policy, tmp_path):
    """In plain TRL, a watched reward of weight 0 stops nothing, and makes no reward of a completion that has none."""
    with running_service(rewards={"plain": Plain(), "fives": Fives(), "broken": Broken()}) as url:
        learned = remote_reward(url, "fives", failure_budget=0.5)
        watched = [remote_reward(url, name, watch_only=True) for name in ("plain", "broken")]
        trainer = RLOOTrainer(
            model=policy,
            reward_funcs=[learned, *watched],
            args=RLOOConfig(str(tmp_path), reward_weights=[1.0, 0.0, 0.0], beta=0.0, **SHORT, **GROUPS),
            train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        )
        trainer.train()
    assert logged(trainer, "reward") == [5.0, 5.0]  # a reward of 0.0 for the failed completion would make it 3.75


def test_watched_reward_in_our_trainer(policy, tmp_path):
    """In reward-trainer, a reward of weight 0 that fails on everything stops neither training nor evaluation."""
    with running_service(rewards={"plain": Plain(), "broken": Broken()}) as url:
        words = [*short_run(policy, url, tmp_path / "run"), "--rewards", "plain", "broken", "--judges", "vader"]
        folder = train(*parse([*words, "--reward_weights", "1.0", "0.0"]))
    run = read_run(folder)
    assert [row["reward"] for row in run.metrics] == [1.0, 1.0]
    (decoding,) = run.after["decodings"].values()
    assert {(sample["scores"]["plain"], sample["scores"]["broken"]) for sample in decoding["samples"]} == {(1.0, None)}


def test_unscored_completion_has_no_diversity(policy, tmp_path):
    """A completion that the service could not score has no reward, although its diversity is known."""
    settings = {"rewards": "fives", "failure_budget": 0.5, "diversity_weight": 2.0}
    batch = {"per_device_train_batch_size": 4, "num_generations": 2, "judges": "vader"}
    with running_service(rewards={"fives": Fives()}) as url:
        flags = short_run(policy, url, tmp_path / "run", **settings, **batch)
        failed, *scored = read_run(train(*parse(flags))).samples[:4]
    assert (failed["reward"], failed["advantage"], failed["scores"]["diversity"]) == (None, 0.0, None)
    for record in scored:
        assert record["reward"] == pytest.approx(5.0 + 2.0 * record["scores"]["diversity"])


class Lengths(Fives):
    """Scores the number of characters, and fails on the first completion of each request."""

    info = RewardInfo(name="lengths", kind="rule", description="", revision="1")

    async def score(self, items):
        result = await super().score(items)
        return Scores([None, *map(len, items.completions[1:])], result.details, result.errors)


async def score_in_async_grpo(url):
    """Score a group as AsyncGRPO's rollout worker does, whose other work needs vLLM: its rewards are pickled."""
    PartialState(cpu=True)
    reward = pickle.loads(pickle.dumps(remote_reward(url, "lengths", failure_budget=0.5, timeout_s=2.0)))
    loop = object.__new__(_AsyncRolloutLoop)
    loop.reward_funcs, loop.reward_func_names, loop._env_reward_types = [reward], ["lengths"], []
    texts = ["a", "ab", "abcd"]
    group = RolloutGroup(
        prompts=[[{"role": "user", "content": "Hi"}]] * 3,
        reward_kwargs={"answer": ["a"] * 3},
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completions_ids=[[1]] * 3,
        completions_sequences=[[TrainingSequence([1, 2], [0, 1], [0.0, 0.0], text)] for text in texts],
        tool_call_counts=[0] * 3,
        tool_failure_counts=[0] * 3,
        model_version=0,
        group_id=0,
        env_rewards=[None] * 3,
        rollout_rewards=[None] * 3,
    )
    return [sample.advantage for sample in await loop._score_group(group)]


async def test_async_grpo_scores():
    """AsyncGRPO awaits the reward: a completion without a score is out of the baseline, and no service raises."""
    with running_service(rewards={"lengths": Lengths()}) as url:
        assert await score_in_async_grpo(url) == pytest.approx([0.0, -1.0, 1.0])
    with pytest.raises(ServiceUnreachable):
        await score_in_async_grpo(url)
