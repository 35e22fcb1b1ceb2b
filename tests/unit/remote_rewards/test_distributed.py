import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from remote_rewards.distributed import refuse_several
from shared.errors import RevisionChanged

ROOT = Path(__file__).parents[3]
RANK = """
import asyncio, pickle, sys
from types import SimpleNamespace
from torch import distributed
from shared.schemas import RewardScores
from remote_rewards.distributed import agreed_now
from remote_rewards.trl import RemoteReward

rank, port, allowed = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "allowed"

class Joint:
    "A client whose answers are of this process's own revision."
    client = SimpleNamespace(retries=0, timeout_s=10.0)

    async def score(self, name, completions, prompts, columns, *, revision=None):
        reward = RewardScores(scores=[1.0] * len(completions), revision=f"model-{rank}")
        return SimpleNamespace(rewards={name: reward})

async def call():
    return await RemoteReward(Joint(), "x", allow_revision_change=allowed)(prompts=["p", "p"], completions=["a", "b"])

def handshake():
    return agreed_now(lambda: f"model-{rank}", 10.0, lambda revision: {} if allowed else {"x": revision})

distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
said = []
for work in (lambda: asyncio.run(call()), handshake):
    try:
        said.append(work())
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")
distributed.barrier()
sys.stdout.buffer.write(pickle.dumps(said))
"""


def two_processes(allowed):
    """What each of two processes says of a call and of a handshake, each answered by a revision of its own."""
    with socket.create_server(("127.0.0.1", 0)) as meeting:
        port = str(meeting.getsockname()[1])
    words = [[sys.executable, "-c", RANK, str(rank), port, allowed] for rank in (0, 1)]
    processes = [subprocess.Popen(each, cwd=ROOT, stdout=subprocess.PIPE) for each in words]
    return [pickle.loads(process.communicate(timeout=120)[0]) for process in processes]


def test_processes_whose_scores_are_of_two_revisions_all_stop_and_say_the_same():
    first, second = two_processes("pinned")
    assert first == second
    reason = "RevisionChanged: the reward 'x' is not the same on all processes: process 0 has model-0 and process 1 has"
    assert all(said.startswith(f"{reason} model-1") for said in first)


def test_processes_may_have_two_revisions_where_that_is_allowed():
    assert two_processes("allowed") == [[[1.0, 1.0], "model-0"], [[1.0, 1.0], "model-1"]]


def test_processes_with_the_same_revisions_go_on_whatever_else_each_of_them_has():
    refuse_several([{"x": "1", "y": "2"}, {"x": "1"}, {}])
    with pytest.raises(RevisionChanged, match="process 1 has 2 and process 2 has 3"):
        refuse_several([{"x": "1"}, {"x": "1", "y": "2"}, {"y": "3"}])
