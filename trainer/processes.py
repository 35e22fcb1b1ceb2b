"""The processes of a run, as a launcher such as torchrun starts them: rank 0 owns the run folder and the terminal.

A launcher sets `RANK` and `WORLD_SIZE`, and torchrun `TORCHELASTIC_RESTART_COUNT`: how often it has restarted them.
"""

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import timedelta

from remote_rewards.distributed import is_distributed, lost_rank
from trainer.errors import TrainerError

RESTARTED_TIMEOUT = timedelta(minutes=30)
"""How long restarted processes wait for one that is silent: the default of `ddp_timeout`."""


def launched_rank(environ: Mapping[str, str]) -> int:
    """Return the rank that the launcher gave this process, 0 without a launcher."""
    return int(environ.get("RANK") or 0)


def launched_processes(environ: Mapping[str, str]) -> int:
    """Return the number of processes that the launcher has started, 1 without a launcher."""
    return int(environ.get("WORLD_SIZE") or 1)


def check_single_process(environ: Mapping[str, str], command: str) -> None:
    """Raise `TrainerError` if a launcher has started several processes: they would share one folder."""
    if launched_processes(environ) > 1:
        raise TrainerError(f"`reward-trainer {command}` runs in one process: start it without a launcher")


def connect(environ: MutableMapping[str, str]) -> None:
    """Prepare accelerate to connect these processes, or connect them where it cannot. Call it before the settings."""
    connect_on_cpu(environ)
    restarts = int(environ.get("TORCHELASTIC_RESTART_COUNT") or 0)
    if restarts and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        connect_restarted(environ, restarts)


def connect_restarted(environ: Mapping[str, str], restarts: int) -> None:
    """Connect processes that torchrun has started again: its store still has the addresses of those before them."""
    from torch.distributed import PrefixStore, TCPStore, init_process_group  # type: ignore[attr-defined]

    store = TCPStore(environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), is_master=False)
    init_process_group(
        store=PrefixStore(f"restart_{restarts}", store),
        rank=launched_rank(environ),
        world_size=launched_processes(environ),
        timeout=RESTARTED_TIMEOUT,
    )


def connect_on_cpu(environ: MutableMapping[str, str]) -> None:
    """Have accelerate connect processes on a machine without an accelerator: by itself it leaves each alone."""
    import torch

    if launched_processes(environ) > 1 and not torch.cuda.is_available():
        accelerator = torch.accelerator.current_accelerator()
        if accelerator is None or accelerator.type == "mps":
            environ.setdefault("ACCELERATE_USE_CPU", "true")


def check_connected(environ: Mapping[str, str]) -> None:
    """Raise `TrainerError` if several processes were started that are not connected: each would train by itself."""
    if launched_processes(environ) > 1 and not is_distributed():
        raise TrainerError(
            f"{launched_processes(environ)} processes were started, and torch.distributed connects none of them: pass "
            f"--use_cpu true to train on CPUs"
        )


def disconnect() -> None:
    """Close the connections to the other processes, if there are any, once no rank needs another.

    Otherwise gloo's threads live until the interpreter ends, which may abort a process that has done all its work, with
    "terminate called without an active exception" (pytorch/pytorch#190489).
    """
    distributed = sys.modules.get("torch.distributed")  # not imported means not initialized
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def lost_ranks_raise_rank_failed() -> Iterator[None]:
    """Turn torch's error about a lost connection into `RankFailed`."""
    try:
        yield
    except RuntimeError as error:
        if is_lost_connection(error):
            raise lost_rank(error) from error
        raise


def is_lost_connection(error: RuntimeError) -> bool:
    """Return whether an error of torch.distributed says that another process has died or is silent.

    For gloo torch raises plain `RuntimeError`s, which name the file of gloo's source.
    """
    from torch.distributed import DistError

    return isinstance(error, DistError) or "/gloo/" in str(error)
