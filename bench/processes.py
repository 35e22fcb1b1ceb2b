"""`make bench-processes`: the banana recipe in one process and in two that share the cores."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

from bench.recipes import minutes
from bench.report import markdown, write
from bench.systems import our_service
from reward_service.process import usable_cores
from trainer.reporting.aggregate import score_of
from trainer.reporting.comparison import records
from trainer.run_folder import Run, read_run

PROCESSES = (1, 2)
COMPLETIONS = 24
REWARDS = ("banana_answer", "relevance", "content_words")
SUCCESS = "strict_success"


def main() -> None:
    """Run what is missing, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="Any other flag is passed to reward-trainer.")
    parser.add_argument("--folder", type=Path, default=Path("runs/processes"))
    args, flags = parser.parse_known_args()
    runs = {processes: args.folder / f"banana-{processes}" for processes in PROCESSES}
    with our_service("processes", "--rewards", *REWARDS) as target:
        for processes, folder in runs.items():
            if not (folder / "after.json").exists():
                train(processes, folder, ["--reward_url", target.url.removesuffix("/v1/score"), *flags])
    rows = [row(processes, read_run(folder)) for processes, folder in runs.items()]
    header = ["processes", "minutes of training", "strict success, greedy", "strict success, sampled"]
    table = markdown([header, *rows])
    write("processes", {"rows": rows}, table)
    print(table)


def train(processes: int, folder: Path, flags: list[str]) -> None:
    """Train the banana recipe in so many processes. Raises CalledProcessError."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    settings = ["--config", "banana", "--output_dir", str(folder), "--overwrite", "true"]
    settings += ["--per_device_train_batch_size", str(COMPLETIONS // processes)]
    threads = {"OMP_NUM_THREADS": str(max(1, usable_cores() // processes))}
    command = [sys.executable, *launcher, "-m", "trainer", "train", *settings, *flags]
    subprocess.run(command, env={**os.environ, **threads}, check=True)


def row(processes: int, run: Run) -> list[str]:
    """Return what a run reached."""
    return [str(processes), f"{minutes(run) or 0:.1f}", success(run, "greedy"), success(run, "sampled")]


def success(run: Run, decoding: str) -> str:
    """Return the share of completions in format, before and after training."""
    shares = []
    for evaluation in (run.before, run.after):
        scores = [score_of(SUCCESS)(record) or 0.0 for record in records(evaluation, decoding)]
        shares.append(f"{100 * fmean(scores):.0f} %")
    return " → ".join(shares)


if __name__ == "__main__":
    main()
