"""`reward-trainer train | evaluate | report | reward-model`: arguments in, an exit code out."""

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from shared.errors import RewardError
from trainer.errors import TrainerError

COMMANDS = {
    "train": "train a policy by a recipe: --config banana, and any flag of TRL's RLOOConfig and ModelConfig",
    "evaluate": "measure a policy on held-out prompts without training it",
    "report": "write a run folder's report.html anew",
    "reward-model": "train the sentiment reward models from human ratings",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code: 0 well, 1 stopped by rewards, 2 wrongly asked, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in COMMANDS:
        return _usage(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the first process of a container is not ended by itself
    try:
        return globals()[f"_{argv[0].replace('-', '_')}"](argv[1:]) or 0
    except TrainerError as error:
        print(f"reward-trainer: {error}", file=sys.stderr)
        return 2
    except RewardError as error:
        print(f"reward-trainer: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("reward-trainer: interrupted", file=sys.stderr)
        return 130


def _usage(argv: Sequence[str]) -> int:
    lines = [f"  {name:14}{text}" for name, text in COMMANDS.items()]
    text = "usage: reward-trainer COMMAND …\n\n" + "\n".join(lines) + "\n\n`reward-trainer COMMAND --help` says more."
    asked = bool(argv) and argv[0] in {"-h", "--help"}
    print(text, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def _quiet() -> None:
    """Keep the libraries' own bars and notices out of our display."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # names that TRL still uses
    warnings.filterwarnings("ignore", message=".*pin_memory.*")  # on a machine without an accelerator
    from transformers.utils import logging

    logging.disable_progress_bar()


def _train(argv: list[str]) -> None:
    _quiet()
    from trainer.config import parse
    from trainer.train import train

    train(*parse(argv))


def _evaluate(argv: list[str]) -> None:
    _quiet()
    from trainer.config import parse
    from trainer.evaluate_policy import evaluate

    evaluate(*parse(argv))


def _report(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="reward-trainer report", description=COMMANDS["report"])
    parser.add_argument("run_folder", type=Path, help="such as runs/banana")
    folder = parser.parse_args(argv).run_folder
    if not folder.is_dir():
        raise TrainerError(f"there is no run folder {folder}")
    from trainer.reporting.report import write_report

    print(write_report(folder))


def _reward_model(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="reward-trainer reward-model", description=COMMANDS["reward-model"])
    parser.parse_args(argv)
    _quiet()
    from trainer.policy import folder_of

    for name in ("embedded:sentiment", "embedded:valence"):
        folder = Path(folder_of(name))
        print(f"{name}: {folder}\n{(folder / 'README.md').read_text(encoding='utf-8')}")
