"""`make algorithms-table`: the algorithms at equal wall time on the rewards of the optimist recipe, by judges and KL.

RLOO and GRPO train for all of the minutes. DPO and SFT learn from completions that are sampled in two thirds of them;
the rest is their training, of three epochs at most. The evaluations before and after are not counted. No policy is
interpolated with the untrained one.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.report import markdown, write
from bench.systems import our_service
from trainer.algorithms import OFFLINE, ONLINE
from trainer.diversity import DIVERSITY
from trainer.kl import kl_per_token, token_rows
from trainer.monitor.monitor import replay
from trainer.policy import load_policy, load_tokenizer
from trainer.prompts import read_prompts
from trainer.reporting import aggregate, comparison
from trainer.reporting.aggregate import score_of
from trainer.reporting.comparison import finite
from trainer.run_folder import POLICY, Run, RunFolder, read_run
from trainer.texts import distinct_n

REWARDS = ("optimistic_answer", "relevance", "sentiment", "valence")
"""What the optimist recipe trains on and is judged by."""
ALGORITHMS = ("sft", "dpo", "rloo", "grpo")
COMPLETIONS = 8
"""Sampled of each prompt for the offline algorithms."""
SAMPLING_SHARE = 2 / 3
"""The part of the minutes in which completions are sampled for the offline algorithms."""
EPOCHS = 3
ENDLESS = 1_000_000
"""Steps of an online training, which the minutes end."""
FIRST_SEED = 42
DECODING = "sampled"


def main() -> None:
    """Run what is missing of each seed, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="Any other flag is passed to reward-trainer.")
    parser.add_argument("--minutes", type=float, default=12.0, help="wall time of each algorithm, without evaluations")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/algorithms"))
    args, flags = parser.parse_known_args()
    with our_service("algorithms", "--rewards", *REWARDS, "--backend", "torch") as target:
        flags += ["--reward_url", target.url.removesuffix("/v1/score")]
        for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
            run_seed(args.folder, seed, args.minutes, flags)
    rows = table(args.folder)
    write("algorithms", {"minutes": args.minutes, "seeds": args.seeds, "rows": rows}, markdown(rows))
    print(markdown(rows))


def run_seed(folder: Path, seed: int, minutes: float, flags: Sequence[str]) -> None:
    """Train with each algorithm that has no evaluation after training yet."""
    missing = [name for name in ALGORITHMS if not (run_folder(folder, name, seed) / "after.json").exists()]
    samples = run_folder(folder, "samples", seed)
    if any(name in OFFLINE for name in missing):
        sampling = ["--num_generations", f"{COMPLETIONS}", "--max_minutes", f"{SAMPLING_SHARE * minutes}"]
        reward_trainer("sample", samples, seed, [*sampling, *flags])
    for name in missing:
        settings = ["--algorithm", name, "--interpolation", "1.0"]
        if name in OFFLINE:
            settings += ["--completions", str(samples / "completions.jsonl")]
            settings += ["--max_minutes", f"{(1 - SAMPLING_SHARE) * minutes}", "--num_train_epochs", f"{EPOCHS}"]
        else:
            settings += ["--max_steps", f"{ENDLESS}", "--max_minutes", f"{minutes}"]
        reward_trainer("train", run_folder(folder, name, seed), seed, [*settings, *flags])


def run_folder(folder: Path, name: str, seed: int) -> Path:
    """Return the folder of a run."""
    return folder / f"{name}-seed{seed}"


def reward_trainer(command: str, output: Path, seed: int, flags: Sequence[str]) -> None:
    """Run a command of reward-trainer with the optimist recipe. Raises CalledProcessError."""
    settings = ["--config", "optimist", "--output_dir", str(output), "--seed", str(seed), "--overwrite", "true"]
    subprocess.run([sys.executable, "-m", "trainer", command, *settings, *flags], check=True)


def table(folder: Path) -> list[list[str]]:
    """Return a row for each algorithm and the untrained policy: mean scores of all seeds, 95 % intervals, KL.

    Distinct-2 is the mean of the seeds', alarms are those of the hack monitor in each.
    """
    runs = {name: [read_run(path) for path in sorted(folder.glob(f"{name}-seed*"))] for name in ALGORITHMS}
    sides = {"untrained": [(run, run.before) for run in runs["rloo"]]}
    sides |= {name: [(run, run.after) for run in members] for name, members in runs.items()}
    scored = [reward["name"] for key in ("rewards", "judges") for reward in runs["rloo"][0].rewards[key]]
    names = [name for name in scored if name != DIVERSITY]  # which evaluations do not have
    rows = [["algorithm", "steps", *names, "distinct-2", "KL, nats a token", "alarms"]]
    for name, members in sides.items():
        records = [comparison.records(evaluation, DECODING) for _, evaluation in members]
        steps = " ".join(str(evaluation["step"]) for _, evaluation in members)
        texts = [[record["completion"] for record in side] for side in records]
        distinct_2 = f"{fmean(distinct_n(side, 2) for side in texts):.2f}"
        alarms = " ".join(str(len(replay(run).alarms)) for run, _ in members) if name in ONLINE else "—"
        scores = [_mean(records, score) for score in names]
        rows.append([name, steps, *scores, distinct_2, _kl(folder, name), alarms])
    return rows


def _kl(folder: Path, name: str) -> str:
    if name == "untrained":
        return "0"
    kls = [kl for path in sorted(folder.glob(f"{name}-seed*")) if (kl := kl_of(path)) is not None]
    return f"{fmean(kls):.2f}" if kls else "—"


def _mean(records: Sequence[Sequence[Any]], score: str) -> str:
    estimate = aggregate.mean_over_seeds(records, score_of(score), share=False)
    if estimate is None:
        return "—"
    return f"{estimate.interval.mean:.2f} [{estimate.interval.low:.2f}, {estimate.interval.high:.2f}]"


def kl_of(path: Path) -> float | None:
    """Return the KL divergence of a run's policy from its base on its own completions; None without the policy.

    A run folder whose evaluation did not measure it keeps it in `kl.json`.
    """
    folder, run = RunFolder(path), read_run(path)
    if (evaluated := finite(run.after.get("kl"))) is not None:
        return evaluated
    if (known := folder.read_json("kl.json")) is None and (path / POLICY).is_dir():
        known = {"kl": measured_kl(path / POLICY, str(run.config["policy"]), run)}
        folder.write_json("kl.json", known)
    return None if known is None else known["kl"]


def measured_kl(policy: Path, base: str, run: Run) -> float | None:
    """Return the KL divergence of a policy from its base on the completions of its evaluation."""
    tokenizer = load_tokenizer(base)
    before = {name: run.config.get(name) for name in ("system_prompt", "few_shot")}
    prompts = read_prompts(str(run.config["heldout_prompts"]), **before)
    chats = [row["prompt"] for row in prompts[: run.config.get("eval_limit")]]
    texts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    rows = token_rows(tokenizer, texts, comparison.records(run.after, DECODING))
    return kl_per_token(load_policy(str(policy)), partial(load_policy, base), rows)


if __name__ == "__main__":
    main()
