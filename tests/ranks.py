"""Code on two ranks of a process group."""

import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN = """
import pickle, sys
from torch import distributed

rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{sys.argv[2]}", rank=rank, world_size=2)
"""
END = """
distributed.barrier()
sys.stdout.buffer.write(pickle.dumps(outcome))
"""


def outcomes_on_two_ranks(code: str) -> list[Any]:
    """Run code that knows its `rank` and sets `outcome`; return the outcome of each rank."""
    with socket.create_server(("127.0.0.1", 0)) as rendezvous:
        port = str(rendezvous.getsockname()[1])
    commands = [[sys.executable, "-c", BEGIN + code + END, str(rank), port] for rank in (0, 1)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for command in commands]
    return [pickle.loads(process.communicate(timeout=120)[0]) for process in processes]
