"""Runs of reward-trainer with a small random policy, a second long."""

import os
import subprocess
import sys
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from tests.small_models import save_folder
from trainer.run_folder import read_run

SHORT = """--config banana --rewards banana --judges strict_success --frozen_layers 0 --beta 0.0 --max_steps 2
--lr_scheduler_type constant --warmup_steps 0 --temperature 1.0 --eval_limit 2 --eval_decodings greedy
--eval_max_new_tokens 4 --num_generations 2 --gradient_accumulation_steps 1 --per_device_train_batch_size 2
--max_completion_length 4 --use_cpu true"""


OFFLINE = """--heldout_prompts recipe:banana_heldout.jsonl --rewards banana --judges vader --max_steps 4 --eval_limit 2
--eval_decodings greedy --eval_max_new_tokens 4 --per_device_train_batch_size 2 --learning_rate 0.1 --bf16 false
--gradient_checkpointing false --use_cpu true --report_to none --disable_tqdm true --save_strategy no"""


def save_policy(folder: Path) -> str:
    """Save a small random chat model; return its folder."""
    save_folder(folder, LlamaForCausalLM, LlamaConfig)
    return str(folder)


def short_run(policy: str, url: str, folder: Path, **settings: object) -> list[str]:
    """Return the flags of a run of two steps, changed by `settings`."""
    return _flags(SHORT, {"reward_url": url, "output_dir": folder, "model_name_or_path": policy, **settings})


def offline_run(policy: str, url: str, folder: Path, completions: Path, **settings: object) -> list[str]:
    """Return the flags of a run of four steps on completions in a file; `settings` name the algorithm."""
    run = {"reward_url": url, "output_dir": folder, "model_name_or_path": policy, "completions": completions}
    return _flags(OFFLINE, {**run, **settings})


def torchrun(flags: list[str], *options: str) -> "subprocess.Popen[str]":
    """Start a run of two processes under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *options]
    return subprocess.Popen(
        [*launcher, "-m", "trainer", "train", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def output_of(process: "subprocess.Popen[str]", timeout_s: float = 120) -> str:
    """Wait for a run, and return what it has printed. Raises AssertionError if it fails."""
    try:
        output, _ = process.communicate(timeout=timeout_s)
    finally:
        process.terminate()
    assert process.returncode == 0, output[-4000:]
    return output


def _flags(common: str, settings: dict[str, object]) -> list[str]:
    return [*common.split(), *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def recorded(folder: Path) -> list[tuple[int, str, str, float | None]]:
    """Return (step, prompt, completion, reward) of each completion of a run."""
    rows = read_run(folder).samples
    return [(row["step"], row["prompt"], row["completion"], row["reward"]) for row in rows]
