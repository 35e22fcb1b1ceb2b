"""`make bench-tutorial`: minutes until 90 % of the completions are in the banana form, two ways on one machine.

The recipe `banana` trains over HTTP, as a user runs it. The tutorial's script trains in one process, with TRL's
`RLOOTrainer`, the tutorial's rule as a local function and its own hyperparameters.
Success is the tutorial's rule: the completion starts with `Sure:` and ends with banana. It is counted over the last 24
completions sampled in training; loading and evaluation are not counted.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.processes import REWARDS
from bench.report import markdown, write
from bench.systems import our_service
from bench.train_step import banana
from trainer.judges import ScoredCompletion, strict_success
from trainer.run_folder import read_run

WINDOW = 24
SUCCESS = 0.9


@dataclass
class Curve:
    """The share of successes among the last completions after each step, with the minutes of training until then."""

    minutes: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    @property
    def minutes_until(self) -> float:
        """The minutes until there are enough successes, infinite if that does not happen."""
        return next((m for m, s in zip(self.minutes, self.shares, strict=True) if s >= SUCCESS), math.inf)

    def row(self, name: str) -> list[str]:
        """Return a row of the table: the first step with enough successes, and the best share of all steps."""
        reached = next((index for index, share in enumerate(self.shares) if share >= SUCCESS), None)
        until = "not reached" if reached is None else f"{self.minutes[reached]:.1f} (step {reached + 1})"
        steps = f"{len(self.shares)} in {self.minutes[-1]:.1f} min"
        return [name, until, f"{100 * max(self.shares):.0f} %", f"{100 * self.shares[-1]:.0f} %", steps]


def main() -> int:
    """Train both ways, print the table and write it. Return the exit code: 1 unless the recipe is the faster one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/tutorial-time"), help="run folder of the recipe")
    parser.add_argument("--steps", type=int, help="steps of the tutorial's script (default: its own number)")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop the tutorial's script after this time")
    args = parser.parse_args()
    header = ["training", f"minutes to {100 * SUCCESS:.0f} %", "best share", "share at the end", "steps"]
    recipe = over_http(args.folder)
    rows = [recipe.row("recipe `banana` over HTTP")]
    print(*rows[-1], sep=" | ", flush=True)
    script = in_process(args.steps, args.minutes)
    rows.append(script.row("the tutorial's script in process"))
    print(*rows[-1], sep=" | ", flush=True)
    write("tutorial", {"rows": rows}, markdown([header, *rows]))
    print(markdown([header, *rows]))
    return 0 if recipe.minutes_until < script.minutes_until else 1


def over_http(folder: Path) -> Curve:
    """Train the recipe as a user does; a finished run in the folder is read instead. Raises CalledProcessError."""
    if not (folder / "after.json").exists():
        with our_service("tutorial", "--rewards", *REWARDS) as target:
            settings = ["--config", "banana", "--output_dir", str(folder), "--overwrite", "true", "--eval_limit", "50"]
            url = ["--reward_url", target.url.removesuffix("/v1/score")]
            subprocess.run([sys.executable, "-m", "trainer", "train", *settings, *url], check=True)
    metrics = read_run(folder).metrics  # a step has WINDOW completions
    seconds = accumulate(line["seconds/step"] for line in metrics)
    return Curve([s / 60 for s in seconds], [line["judges/strict_success/mean"] for line in metrics])


def in_process(steps: int | None, minutes: float) -> Curve:
    """Train as the tutorial's script does, at most for so many minutes."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
    from trl import RLOOTrainer

    from trainer.config import parse
    from trainer.policy import load_tokenizer, model_folder
    from trainer.prompts import read_prompts

    reward, successes, curve = banana(), deque[float](maxlen=WINDOW), Curve()

    def rule(completions: Sequence[Any], **_: Any) -> list[float | None]:
        successes.extend(strict_success(ScoredCompletion("", text[0]["content"])) for text in completions)
        return reward(completions)

    class Watch(TrainerCallback):  # type: ignore[misc]
        started_s = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.started_s = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            curve.minutes.append((time.monotonic() - self.started_s) / 60)
            curve.shares.append(fmean(successes) if len(successes) == WINDOW else 0.0)
            print(f"step {state.global_step}: {curve.shares[-1]:.0%} after {curve.minutes[-1]:.1f} min", flush=True)
            if curve.shares[-1] >= SUCCESS or curve.minutes[-1] >= minutes:  # else TRL's own decision stands
                control.should_training_stop = True

    with tempfile.TemporaryDirectory() as folder:
        limit = [] if steps is None else ["--max_steps", str(steps)]
        run, args, model = parse(["--config", "banana_tutorial", "--output_dir", folder, *limit])
        trainer = RLOOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model_folder(model.model_name_or_path), dtype=torch.float32),
            reward_funcs=[rule],
            args=args,
            train_dataset=Dataset.from_list(read_prompts(run.prompts, **run.before_prompts)),
            processing_class=load_tokenizer(model.model_name_or_path),
            callbacks=[Watch()],
        )
        trainer.remove_callback(PrinterCallback)  # Watch prints a line a step
        trainer.train()
    return curve


if __name__ == "__main__":
    sys.exit(main())
