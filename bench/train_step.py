"""`make bench-step`: the overhead of HTTP in a training step.

Each step scores its completions over HTTP and in the trainer's process, in alternating order; the scores must agree.
The overhead is the median of the differences in time, as a share of a step that scores once.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.report import markdown, write
from bench.systems import our_service

FLAGS = ("--backend", "torch", "--dtype", "float32")


def main() -> None:
    """Run the benchmark with both recipes, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=7)
    steps = parser.parse_args().steps
    rows = [["recipe", "step, s", "scoring in process, s", "scoring over HTTP, s", "HTTP overhead, share of the step"]]
    with our_service("train-step", *FLAGS) as target:
        url = target.url.removesuffix("/v1/score")
        for recipe, reward, local in (("banana", "banana", banana()), ("optimist", "optimism", optimism())):
            reward_function = ComparedReward(local, remote(url, reward))
            step_s = train(recipe, reward_function, steps)
            local_s, remote_s = np.asarray(reward_function.local_s[1:]), np.asarray(reward_function.remote_s[1:])
            step = median(np.asarray(step_s[1:]) - remote_s)  # without the first step, the warmup
            overhead = median(remote_s - local_s) / step
            seconds = [f"{value:.3f}" for value in (step, median(local_s), median(remote_s))]
            rows.append([recipe, *seconds, f"{overhead:.2%}"])
            print(*rows[-1], sep=" | ", flush=True)
    write("train_step", {"rows": rows[1:]}, markdown(rows))
    print(markdown(rows))


class ComparedReward:
    """A reward function that scores locally and remotely, and records the seconds of both."""

    def __init__(self, local: Callable[..., list[float]], remote: Any) -> None:
        self.local, self.remote = local, remote
        self.local_s: list[float] = []
        self.remote_s: list[float] = []
        self.__name__ = "compared_reward"

    async def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Return the scores. Raises AssertionError if local and remote ones differ."""

        async def score_locally() -> list[float]:
            started_s = time.monotonic()
            scores = await asyncio.to_thread(self.local, completions)
            self.local_s.append(time.monotonic() - started_s)
            return scores

        async def score_remotely() -> list[float]:
            started_s = time.monotonic()
            scores = await self.remote(prompts, completions, **columns)
            self.remote_s.append(time.monotonic() - started_s)
            return scores  # type: ignore[no-any-return]

        order = (score_locally, score_remotely) if len(self.local_s) % 2 else (score_remotely, score_locally)
        first, second = [await score() for score in order]
        assert np.allclose(first, second, atol=1e-4), "local and remote scores differ"
        return first


def remote(url: str, name: str) -> Any:
    """Return the remote reward of a service."""
    from remote_rewards import remote_reward

    return remote_reward(url, name)


def banana() -> Callable[..., list[float | None]]:
    """Return a function that computes the banana rule in this process."""
    from reward_service.config import read_config
    from reward_service.rewards.base import Items
    from reward_service.rewards.rule import RuleReward
    from reward_service.specs import RuleSpec

    spec = read_config(None).rewards["banana"]
    assert isinstance(spec, RuleSpec)
    rule = RuleReward("banana", spec)
    return lambda completions, **_: rule.score_texts(Items([text[0]["content"] for text in completions])).scores


def optimism() -> Callable[..., list[float]]:
    """Return a function that computes the optimist's reward in this process with float32 torch."""
    from reward_service.backends.base import Backend
    from reward_service.backends.engines import REFERENCE, load
    from reward_service.backends.model_folder import ModelFolder
    from reward_service.config import read_config
    from reward_service.process import usable_cores
    from reward_service.rewards.model import score_from_logits
    from reward_service.specs import ClassifierSpec, RegressorSpec
    from shared.model_store import resolve

    specs = read_config(None).rewards
    folders = {name: ModelFolder(resolve(f"embedded:{name}")) for name in ("sentiment", "valence")}
    backends: dict[str, Backend] = {name: load(REFERENCE, folder, usable_cores()) for name, folder in folders.items()}

    def score(name: str, texts: Sequence[str]) -> list[float]:
        spec, folder = specs[name], folders[name]
        assert isinstance(spec, ClassifierSpec | RegressorSpec)
        logits = backends[name].forward([text.tokens for text in folder.encode(texts)])
        return [score_from_logits(spec, folder.labels, row, folder.multi_label)[0] for row in logits]

    def optimism(completions: Sequence[Any], **_: Any) -> list[float]:
        texts = [completion[0]["content"][-512:] for completion in completions]
        pairs = zip(score("sentiment", texts), score("valence", texts), strict=True)
        return [0.5 * sentiment + valence for sentiment, valence in pairs]

    return optimism


def train(recipe: str, reward: Any, steps: int, callbacks: Sequence[Any] = ()) -> list[float]:
    """Train a few steps of a recipe. Returns the seconds of each."""
    from datasets import Dataset

    from trainer.config import parse
    from trainer.online_trainers import RecordedRLOOTrainer
    from trainer.policy import load_policy, load_tokenizer
    from trainer.prompts import read_prompts
    from trainer.run_folder import RunFolder

    with tempfile.TemporaryDirectory() as folder:
        argv = ["--config", recipe, "--output_dir", folder, "--max_steps", str(steps)]
        run, args, model = parse(argv)
        prompts = read_prompts(run.prompts, **run.before_prompts)
        RecordedRLOOTrainer(
            model=load_policy(model.model_name_or_path, frozen_layers=run.frozen_layers),
            reward_funcs=[reward],
            args=args,
            train_dataset=Dataset.from_list(prompts),
            processing_class=load_tokenizer(model.model_name_or_path),
            callbacks=list(callbacks),
            run_folder=RunFolder(Path(folder)),
        ).train()
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line["seconds/step"] for line in lines]


if __name__ == "__main__":
    main()
