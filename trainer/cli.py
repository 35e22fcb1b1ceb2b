"""`reward-trainer train | evaluate | compare | report | reward-model | sample`: arguments in, an exit code out."""

import argparse
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from shared.errors import RewardError
from trainer.errors import HackDetected, TrainerError
from trainer.processes import (
    connect,
    disconnect,
    launched_processes,
    launched_rank,
    lost_ranks_raise_rank_failed,
)
from trainer.workers import HELP_FLAGS, resume_restarted, split_options, train_on_workers

SIGTERM_CODE = 128 + signal.SIGTERM


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0 success, 1 stopped by rewards, 2 wrong usage, 3 stopped
    by the hack monitor, 130 interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in COMMANDS:
        return _usage(argv)
    # The first process of a container ignores SIGTERM unless it has a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_CODE))
    configure_openmp()
    try:
        COMMANDS[argv[0]](argv[1:])
        disconnect()
    except TrainerError as error:
        return _fail(str(error), 2)
    except RewardError as error:
        return _fail(f"{type(error).__name__}: {error}", 1)
    except HackDetected as error:
        return _fail(str(error), 3)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except SystemExit as stopped:
        if stopped.code == SIGTERM_CODE and launched_processes(os.environ) > 1:
            _fail("ended by SIGTERM, which a launcher sends when another process has died", SIGTERM_CODE)
        raise
    return 0


def _fail(message: str, code: int) -> int:
    """Print why the command failed, and the rank if a launcher has started several processes. Return the exit code."""
    rank = f"rank {launched_rank(os.environ)}: " if launched_processes(os.environ) > 1 else ""
    print(f"reward-trainer: {rank}{message}", file=sys.stderr)
    return code


def start_training(argv: Sequence[str], *, restarted: bool = False) -> None:
    """Train with these flags of `reward-trainer train`, in the only process of a run or as one rank of several.

    A rank that is `restarted` continues the run that it has died in.

    A rank needs `RANK`, `LOCAL_RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT` in the environment, as torchrun
    sets them. Raises `TrainerError`, `RewardError` or `HackDetected`.
    """
    _configure_output()
    from trainer.config import parse
    from trainer.train import train

    connect(os.environ)
    with lost_ranks_raise_rank_failed():
        run, args, model = parse(argv)
        if restarted:
            resume_restarted(run, args)
        train(run, args, model)


def _train(argv: list[str]) -> None:
    """Train a policy by a recipe: --config banana, any flag of TRL's for the --algorithm, --workers N on Ray."""
    workers, flags = split_options(argv)
    if workers is None or not HELP_FLAGS.isdisjoint(flags):
        start_training(flags)
    else:
        train_on_workers(workers, flags)


def _evaluate(argv: list[str]) -> None:
    """Evaluate a policy, or --policies … with --shares … and --seeds …, on held-out prompts without training."""
    _configure_output()
    from trainer.evaluate_policy import evaluate_all

    connect(os.environ)
    evaluate_all(argv)


def _report(argv: list[str]) -> None:
    """Write the report.html of a run folder again, and print the alarms of its hack monitor."""
    parser = argparse.ArgumentParser(prog="reward-trainer report", description=_report.__doc__)
    parser.add_argument("run_folder", type=Path, help="the folder of a run, such as runs/banana")
    folder = parser.parse_args(argv).run_folder
    if not folder.is_dir():
        raise TrainerError(f"there is no run folder {folder}; pass the --output_dir of a run")
    from trainer.monitor.monitor import alarm_text, replay
    from trainer.reporting.report import write_report
    from trainer.run_folder import read_run

    print(*map(alarm_text, replay(read_run(folder)).alarms), write_report(folder), sep="\n")


def _reward_model(argv: list[str]) -> None:
    """Train a reward model on preference pairs: --pairs pairs.jsonl, by default pairs of human ratings."""
    _configure_output()
    from trainer.reward_model.config import parse
    from trainer.reward_model.train import train

    train(*parse(argv))


def _compare(argv: list[str]) -> None:
    """Compare the policies of several runs, the seeds of one recipe together; without RUN, all in runs/."""
    parser = argparse.ArgumentParser(prog="reward-trainer compare", description=_compare.__doc__)
    parser.add_argument("run_folders", metavar="RUN", type=Path, nargs="*", help="run folders, such as runs/banana")
    parser.add_argument("--output", type=Path, help="the page to write; by default runs/leaderboard.html")
    arguments = parser.parse_args(argv)
    from trainer.reporting.compare_runs import compare_runs

    compare_runs(arguments.run_folders, arguments.output)


def _sample(argv: list[str]) -> None:
    """Sample completions from a policy, score them, and write them with scores and revisions as JSONL."""
    _configure_output()
    from trainer.config import parse
    from trainer.sampling import sample

    sample(*parse(argv, "reward-trainer sample"))


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "compare": _compare,
    "report": _report,
    "reward-model": _reward_model,
    "sample": _sample,
}
"""Each command's help is its docstring."""


def _usage(argv: Sequence[str]) -> int:
    lines = [f"  {name:14}{command.__doc__}" for name, command in COMMANDS.items()]
    text = "usage: reward-trainer COMMAND …\n\n" + "\n".join(lines) + "\n\nSee `reward-trainer COMMAND --help`."
    help_requested = bool(argv) and argv[0] in HELP_FLAGS
    print(text, file=sys.stdout if help_requested else sys.stderr)
    return 0 if help_requested else 2


def configure_openmp() -> None:
    """Make OpenMP's threads sleep while they wait. Call it before torch is imported.

    By default they spin at each barrier: beside another busy process, for the time that a thread waits for its core.
    A step then takes many times as long; `make bench-busy` measures it.
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _configure_output() -> None:
    """Keep the libraries' progress bars and warnings out of the display, and show those of the client in it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # names that TRL still uses
    warnings.filterwarnings("ignore", message=".*pin_memory.*")  # on a machine without an accelerator
    # Without its own kernel it warns in each run, quantized or not, on CPUs where it could pack weights.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    from trainer.display import ConsoleHandler, console

    console.quiet = launched_rank(os.environ) > 0
    for name in ("remote_rewards", "trainer"):
        logging.getLogger(name).handlers = [ConsoleHandler()]
