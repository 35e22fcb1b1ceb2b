"""`reward-trainer train --workers N`: the ranks of a run as workers of Ray Train, which starts them again if one dies.

Only `train_on_workers` imports Ray.
"""

import argparse
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import RankFailed, RewardError
from trainer.errors import HackDetected, TrainerError

if TYPE_CHECKING:
    from trainer.algorithms import TrainingConfig
    from trainer.run_arguments import RunArguments

HELP_FLAGS = {"-h", "--help"}
MAX_FAILURES = 3
"""How often the ranks are started again, all together, from the latest checkpoint."""
FORWARDED = ("REWARD_", "REMOTE_REWARDS_", "HF_", "TRANSFORMERS_", "OMP_", "GOMP_", "WANDB_")
"""What the names of the variables begin with that the workers get from the command."""
SECRET = ("KEY", "TOKEN")


@dataclass(frozen=True)
class WorkerOptions:
    """How many ranks there are, and where."""

    workers: int
    gpus_per_worker: float = 0.0
    address: str | None = None


def split_options(argv: Sequence[str]) -> tuple[WorkerOptions | None, list[str]]:
    """Return the options of the workers, None without `--workers`, and the other flags."""
    parser = argparse.ArgumentParser(prog="reward-trainer train", add_help=False, allow_abbrev=False)
    add_options(parser)
    namespace, others = parser.parse_known_args(list(argv))
    options = vars(namespace)
    if not options:
        return None, list(argv)
    if options.get("workers", 0) < 1:
        raise TrainerError("training on Ray needs --workers N, at least 1")
    return WorkerOptions(**options), others


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the workers."""
    options = parser.add_argument_group("on Ray", argument_default=argparse.SUPPRESS)
    options.add_argument("--workers", type=int, metavar="N", help="Train in N processes on Ray.")
    options.add_argument(
        "--gpus-per-worker", "--gpus_per_worker", type=float, metavar="GPUS", help="GPUs of each process; default: 0."
    )
    options.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="Ray's address. Default: RAY_ADDRESS, else the Ray on this machine, else one that ends with the run.",
    )


def train_on_workers(options: WorkerOptions, argv: Sequence[str]) -> None:
    """Train with these flags of `reward-trainer train` on workers of Ray, here or in the cluster at the address.

    A run continues from its latest checkpoint when a worker has died, with as many workers. Raises the error that has
    stopped it.
    """
    if find_spec("ray") is None:
        raise TrainerError("--workers needs Ray: pip install 'remote-rewards[trainer,ray]'")
    from trainer.config import check_flags

    check_flags(argv)
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    environment = forwarded_environment(os.environ)
    ray.init(options.address, logging_level=logging.ERROR)
    cluster_cpus = ray.cluster_resources().get("CPU", 0.0)
    cpus = min(1.0, int(1000 * cluster_cpus / options.workers) / 1000)  # more processes than cores may run
    outcome = ray.remote(num_cpus=0)(Outcome).remote()
    trainer = TorchTrainer(
        run_rank,
        train_loop_config={
            "argv": list(argv),
            "folder": os.getcwd(),
            "environment": environment,
            "outcome": outcome,
        },
        scaling_config=ScalingConfig(
            num_workers=options.workers,
            use_gpu=options.gpus_per_worker > 0,
            resources_per_worker={"CPU": cpus, "GPU": options.gpus_per_worker},
        ),
        run_config=RunConfig(
            storage_path=str(Path(tempfile.gettempdir()) / "reward-trainer"),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            worker_runtime_env={"env_vars": without_secrets(environment)},
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise RankFailed(
            f"the ranks have died {MAX_FAILURES + 1} times, the last time so: {last_line(error)}"
        ) from error
    if (stopped_by := ray.get(outcome.stopped_by.remote())) is not None:
        raise stopped_by


class Outcome:
    """What a run remembers when its ranks die: an actor, which outlives them."""

    def __init__(self) -> None:
        self._started: set[int] = set()
        self._stopped_by: Exception | None = None

    def start(self, rank: int) -> bool:
        """Record the start of a rank. Return whether it has been started before."""
        restarted = rank in self._started
        self._started.add(rank)
        return restarted

    def stop(self, error: Exception) -> None:
        """Record an error after which no rank trains again: the first one counts."""
        self._stopped_by = self._stopped_by or error

    def stopped_by(self) -> Exception | None:
        """Return that error, or None."""
        return self._stopped_by


def run_rank(config: dict[str, Any]) -> None:
    """Train as one rank. Raises only what another start from the latest checkpoint may mend: that a rank has died."""
    import ray

    from trainer.cli import start_training

    if Path(config["folder"]).is_dir():
        os.chdir(config["folder"])
    os.environ.update(config["environment"])
    if "OMP_NUM_THREADS" not in config["environment"]:  # Ray has set it to 1
        share_cores(machine_cores(), os.environ)
    outcome = config["outcome"]
    restarted = ray.get(outcome.start.remote(int(os.environ["RANK"])))
    if ray.get(outcome.stopped_by.remote()) is not None:
        return
    try:
        start_training(config["argv"], restarted=restarted)
    except RankFailed:
        raise
    except (TrainerError, RewardError, HackDetected) as error:
        ray.get(outcome.stop.remote(error))


def forwarded_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a run depends on: rewards, models, threads. A Ray that runs already has others."""
    return {name: value for name, value in environ.items() if name.startswith(FORWARDED)}


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a worker may start with: Ray shows those in its dashboard, so no key is among them."""
    return {name: value for name, value in environment.items() if not any(word in name for word in SECRET)}


def machine_cores() -> int:
    """Return the number of cores of this worker's machine, as Ray counts them: within a container's limit."""
    import ray

    machine = ray.get_runtime_context().get_node_id()
    return int(next(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == machine))


def share_cores(cores: int, environ: Mapping[str, str]) -> None:
    """Compute with this worker's share of its machine's cores."""
    import torch

    torch.set_num_threads(max(1, cores // int(environ["LOCAL_WORLD_SIZE"])))


def resume_restarted(run: "RunArguments", args: "TrainingConfig") -> None:
    """Set a run whose rank has died to continue from its latest checkpoint; without one, as its flags say.

    What the run has written before its first checkpoint is replaced.
    """
    from trainer import checkpoints

    folder = Path(args.output_dir)
    named = str(args.resume_from_checkpoint or "false").lower()
    if checkpoints.latest(folder) is not None or named == "false":
        args.resume_from_checkpoint = checkpoints.AUTO
    elif not (folder / checkpoints.RESULT).exists():
        run.overwrite = True


def last_line(error: Exception) -> str:
    """Return the last line of an error of Ray, which has the reason."""
    return str(error).strip().rpartition("\n")[2]
