import pytest
from torch import distributed
from torch.distributed import DistNetworkError

from shared.errors import RankFailed
from trainer import cli
from trainer.errors import TrainerError
from trainer.processes import check_single_process, connect_on_cpu, lost_ranks_raise_rank_failed

GLOO = (
    "[/pytorch/third_party/gloo/transport/tcp/pair.cc:537] Connection closed by peer [::1]:9. This is typically a crash"
)


@pytest.mark.parametrize("error", [RuntimeError(GLOO), DistNetworkError("the client socket has timed out")])
def test_lost_connection(error):
    """An error of torch about a lost connection becomes the one that says that a rank has died."""
    message = r"another rank of this run has died or does not respond \((Connection closed by peer \[::1\]:9|the .*)\)$"
    with pytest.raises(RankFailed, match=message), lost_ranks_raise_rank_failed():
        raise error


def test_own_error():
    """Any other error of torch stays as it is."""
    with pytest.raises(RuntimeError, match="out of memory"), lost_ranks_raise_rank_failed():
        raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("environ", "cuda", "connected"),
    [({"WORLD_SIZE": "2"}, False, True), ({"WORLD_SIZE": "2"}, True, False), ({}, False, False)],
)
def test_connected_on_cpu(monkeypatch, environ, cuda, connected):
    """Several processes are connected on CPUs where there is no GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: None)
    environ = dict(environ)
    connect_on_cpu(environ)
    assert ("ACCELERATE_USE_CPU" in environ) is connected


def test_single_process():
    """A command that runs in one process says so."""
    check_single_process({}, "sample")
    with pytest.raises(TrainerError, match="`reward-trainer sample` runs in one process: start it without a launcher"):
        check_single_process({"WORLD_SIZE": "2"}, "sample")


def test_failure_names_the_rank(monkeypatch, capsys):
    """Of several processes, each names its rank when it fails."""

    def command(_):
        raise TrainerError("choose another")

    for name, value in {"WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setitem(cli.COMMANDS, "train", command)
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == "reward-trainer: rank 1: choose another\n"


def test_ended_by_the_launcher(monkeypatch, capsys):
    """A process that its launcher ends says why that may be."""

    def command(_):
        raise SystemExit(cli.SIGTERM_CODE)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setitem(cli.COMMANDS, "train", command)
    with pytest.raises(SystemExit):
        cli.main(["train"])
    assert "rank 0: ended by SIGTERM, which a launcher sends when another process has died" in capsys.readouterr().err


def test_disconnected_at_the_end(monkeypatch):
    """After a command its process is connected to no other one, whether it was or not."""

    def train(_):
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)

    for command in (train, lambda _: None):
        monkeypatch.setitem(cli.COMMANDS, "train", command)
        assert cli.main(["train"]) == 0
        assert not distributed.is_initialized()
