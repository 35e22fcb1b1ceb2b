"""The examples, called as their trainers call them, against a real service.

The shapes are those of verl 0.9.1, ms-swift 4.6.0, AReaL 1.0.4, skyrl-gym 0.4.0 and verifiers 0.4.0. Modules with the
few names that the examples import stand in for them; `tests/clients/test_glue.py` has the trainers' own code.
"""

import asyncio
import multiprocessing
import re
import runpy
import sys
import tomllib
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Generic, TypeVar

import pytest

from remote_rewards import ServiceUnreachable, remote_reward

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMPT = [{"role": "user", "content": "Hi"}]
GOOD = "Sure: banana"
T = TypeVar("T")


class Base:
    """Stands in for the base classes of the trainers."""

    def __init__(self, args=None):
        self.args = args


class Task(Generic[T]):
    """verifiers' task is generic in its data."""


def stand_in(monkeypatch, name, **attributes):
    for parent in [name[: match.start()] for match in re.finditer(r"\.", name)]:
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    module = ModuleType(name)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)
    if "." in name:
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, module)


def load(name, url, monkeypatch):
    """Return the globals of an example, whose reward is requested from `url` with no time for retries."""
    monkeypatch.setenv("REWARD_URL", url)
    names = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    names["reward"].client = remote_reward(url, "banana", timeout_s=5.0 if url.endswith(":1") else 30.0).client
    return names


def verl(url, monkeypatch):
    """Call as `NaiveRewardManager.run_single` does."""
    function = load("verl_reward", url, monkeypatch)["banana"]
    return function(data_source="d", solution_str=GOOD, ground_truth="yellow", extra_info={"num_turns": 1})


def swift(url, monkeypatch):
    """Call as `compute_rewards_per_func` does with an instance from `orms`."""
    orms = {}
    stand_in(monkeypatch, "swift.rewards", ORM=Base, orms=orms)
    load("swift_plugin", url, monkeypatch)
    plugin = orms["remote_banana"](args=None)
    messages = [*PROMPT, {"role": "assistant", "content": GOOD}]
    (score,) = plugin([GOOD], trainer_state=None, messages=[messages], prompt_id=["0"], rollout_infos=[{}])
    return score


def areal(url, monkeypatch):
    """Call as `RLVRWorkflow` does: text with special tokens, positional, in a process."""
    monkeypatch.setenv("REWARD_URL", url)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "areal_reward", raising=False)
    from areal_reward import banana

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        call = partial(banana, "Hi", f"{GOOD}<|im_end|>", [1], [2, 3], messages=PROMPT)
        return pool.submit(call).result()


def skyrl(url, monkeypatch):
    """Call as `SkyRLGymGenerator` does."""
    module = "skyrl_gym.envs.base_text_env"
    stand_in(monkeypatch, module, BaseTextEnv=Base, BaseTextEnvStepOutput=dict, ConversationType=list)
    env = load("skyrl_env", url, monkeypatch)["BananaEnv"](env_config={}, extras={"max_turns": 1})
    prompt, _ = env.init(PROMPT)
    step = env.step(GOOD)
    assert (prompt, step["done"], step["observations"]) == (PROMPT, True, [])
    return step["reward"]


def verifiers(url, monkeypatch):
    """Call as `Task.score` does: methods marked by the decorator, awaited with the trace."""
    trace = SimpleNamespace(last_reply=GOOD)
    names = {"Task": Task, "TaskData": dict, "Trace": SimpleNamespace, "reward": lambda weight: lambda method: method}
    stand_in(monkeypatch, "verifiers.v1", **names)
    return asyncio.run(load("verifiers_task", url, monkeypatch)["BananaTask"]().banana(trace=trace))


TRAINERS = [verl, swift, areal, skyrl, verifiers]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_example_scores(trainer, rules_url, monkeypatch):
    """Each example returns the score of the service as a float."""
    score = trainer(rules_url, monkeypatch)
    assert isinstance(score, float)
    assert score == pytest.approx(1.99)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_example_raises(trainer, monkeypatch):
    """Without a service each example raises, also out of a process pool, and returns no number."""
    with pytest.raises(ServiceUnreachable):
        trainer("http://127.0.0.1:1", monkeypatch)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_header(path):
    """Each example declares its dependencies for `uv run`, and says how to run it."""
    source = path.read_text(encoding="utf-8")
    header = re.match(r"# /// script\n((?:# .*\n)+)# ///\n", source)
    fields = tomllib.loads("".join(line[2:] for line in header[1].splitlines(keepends=True)))
    assert fields["dependencies"][0].startswith("remote-rewards")
    assert "REWARD_URL=http://host:8088" in source
