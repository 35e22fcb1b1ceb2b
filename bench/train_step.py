"""`make bench-step`: in each training step the same completions are scored over HTTP and in the trainer's process.

The two take turns at being first, and must agree. What HTTP costs is the median of their differences, as a share of a
step with one of them.
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
    """Measure both recipes, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=7)
    steps = parser.parse_args().steps
    rows = [["recipe", "step, s", "scoring in process, s", "scoring over HTTP, s", "cost of HTTP, share of the step"]]
    with our_service("step", *FLAGS) as target:
        url = target.url.removesuffix("/v1/score")
        for recipe, reward, local in (("banana", "banana", banana), ("optimist", "optimism", optimism())):
            both = BothWays(local, remote(url, reward))
            step_s = train(recipe, both, steps)
            here_s, there_s = (np.asarray(each[1:]) for each in (both.here_s, both.there_s))  # the first warms up
            step = median(np.asarray(step_s[1:]) - there_s)
            cost = median(there_s - here_s) / step
            rows.append(
                [recipe, *(f"{figure:.3f}" for figure in (step, median(here_s), median(there_s))), f"{cost:.2%}"]
            )
            print(*rows[-1], sep=" | ", flush=True)
    write("step", {"rows": rows[1:]}, markdown(rows))
    print(markdown(rows))


class BothWays:
    """A reward function that scores everything twice, and notes what each way took."""

    def __init__(self, here: Callable[..., list[float]], there: Any) -> None:
        self.here, self.there = here, there
        self.here_s: list[float] = []
        self.there_s: list[float] = []
        self.__name__ = "both_ways"

    async def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """Score here and there. Raises AssertionError where they differ."""

        async def here() -> list[float]:
            began_s = time.monotonic()
            scores = await asyncio.to_thread(self.here, completions)
            self.here_s.append(time.monotonic() - began_s)
            return scores

        async def there() -> list[float]:
            began_s = time.monotonic()
            scores = await self.there(prompts, completions, **columns)
            self.there_s.append(time.monotonic() - began_s)
            return scores  # type: ignore[no-any-return]

        first, second = (here, there) if len(self.here_s) % 2 else (there, here)
        one, other = await first(), await second()
        assert np.allclose(one, other, atol=1e-4), "the two ways do not agree"
        return one


def remote(url: str, name: str) -> Any:
    """Give the reward as the service gives it."""
    from remote_rewards import remote_reward

    return remote_reward(url, name)


def banana(completions: Sequence[Any], **_: Any) -> list[float]:
    """Give the rule's rewards in this process."""
    from reward_service.rewards.rules import banana as rule

    return [sum(rule(completion[0]["content"]).values()) for completion in completions]


def optimism() -> Callable[..., list[float]]:
    """Give a function that makes the optimist's reward in this process, in bare batches of float32 torch."""
    from reward_service.backends.base import Backend
    from reward_service.backends.engines import REFERENCE, load
    from reward_service.backends.model_folder import ModelFolder
    from reward_service.config import ClassifierSpec, RegressorSpec, read_config
    from reward_service.process import usable_cores
    from reward_service.rewards.model import score_from_logits
    from shared.model_store import resolve

    specs = read_config(None).rewards
    folders = {name: ModelFolder(resolve(f"embedded:{name}")) for name in ("sentiment", "valence")}
    backends: dict[str, Backend] = {name: load(REFERENCE, each, usable_cores()) for name, each in folders.items()}

    def score(name: str, texts: Sequence[str]) -> list[float]:
        spec, folder = specs[name], folders[name]
        assert isinstance(spec, ClassifierSpec | RegressorSpec)
        logits = backends[name].forward([text.tokens for text in folder.encode(texts)])
        return [score_from_logits(spec, folder.labels, row, folder.multi_label)[0] for row in logits]

    def optimism(completions: Sequence[Any], **_: Any) -> list[float]:
        texts = [completion[0]["content"][-512:] for completion in completions]
        both = zip(score("sentiment", texts), score("valence", texts), strict=True)
        return [0.5 * sentiment + valence for sentiment, valence in both]

    return optimism


def train(recipe: str, reward: Any, steps: int) -> list[float]:
    """Train a few steps of a recipe and give the seconds that each took."""
    from datasets import Dataset

    from trainer.config import parse
    from trainer.policy import load_policy, load_tokenizer
    from trainer.prompts import read_prompts
    from trainer.rloo import RecordedRLOOTrainer
    from trainer.run_folder import RunFolder

    with tempfile.TemporaryDirectory() as folder:
        argv = ["--config", recipe, "--output_dir", folder, "--max_steps", str(steps)]
        run, rloo, model = parse(argv)
        prompts = read_prompts(run.prompts, system_prompt=run.system_prompt)
        RecordedRLOOTrainer(
            model=load_policy(model.model_name_or_path, frozen_layers=run.frozen_layers),
            reward_funcs=[reward],
            args=rloo,
            train_dataset=Dataset.from_list(prompts),
            processing_class=load_tokenizer(model.model_name_or_path),
            run_folder=RunFolder(Path(folder)),
        ).train()
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [line["seconds/step"] for line in lines]


if __name__ == "__main__":
    main()
