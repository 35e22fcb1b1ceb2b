import io
import logging
from types import SimpleNamespace

import pytest
from rich.console import Console

from remote_rewards.retry_log import RetryScheduled
from shared.errors import ServiceUnreachable
from trainer import display
from trainer.display import ConsoleHandler, LiveProgress, StatusColumn, TimeLeftColumn, progress_bar, retry_line

REFUSED = RetryScheduled(
    "http://a", ServiceUnreachable("connection refused at http://a"), attempt=1, delay_s=0.1, remaining_s=60.0
)
LOGS = {
    "loss": 0.1,
    "reward": 0.5,
    "kl": 0.1,
    "completions/mean_length": 7.0,
    "seconds/step": 2.0,
    "seconds/score": 0.25,
}


@pytest.fixture
def terminal(monkeypatch):
    """The display on a terminal, of which all output is kept."""
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    monkeypatch.setattr(display, "console", console)
    monkeypatch.setattr(display.sys.stderr, "isatty", lambda: True, raising=False)
    return console.file


@pytest.fixture
def client():
    return SimpleNamespace(last_retry=None)


def test_retry_line_has_cause_and_time_left():
    """The line says why the run waits, and how long it may go on waiting."""
    assert retry_line(REFUSED, elapsed_s=14.6) == "waiting for rewards: connection refused at http://a, 45 s left"
    assert retry_line(REFUSED, elapsed_s=99.0).endswith(" 0 s left")


def test_status_is_replaced_during_retries(client):
    """While the client retries, the cause replaces the status of the bar; the status is back after a response."""
    column, task = StatusColumn(client), SimpleNamespace(fields={"status": "reward +0.50"})
    client.last_retry = REFUSED
    assert column.render(task).plain == "waiting for rewards: connection refused at http://a, 60 s left"
    client.last_retry = None
    assert column.render(task).plain == "reward +0.50"


@pytest.mark.parametrize(
    ("retry", "status"), [(None, "reward +0.50  KL 0.100  length 7  2 s (scoring 0.25 s)"), (REFUSED, "waiting for")]
)
def test_training_shows_steps_and_retries(terminal, client, retry, status):
    """The bar of a training shows the metrics of the latest step, or that rewards are being retried."""
    live, client.last_retry = LiveProgress([], client), retry
    state = SimpleNamespace(max_steps=9, global_step=1)
    live.on_train_begin(None, state, None)
    live.on_log(None, state, None, LOGS)
    live.close()
    assert status in terminal.getvalue()


@pytest.mark.parametrize(("max_minutes", "left_s"), [(None, 700), (10, 500), (1, 0)])
def test_time_left(capsys, client, monkeypatch, max_minutes, left_s):
    """The time left is that of the steps that are left, at the pace of this process, or until the time limit."""
    clock = SimpleNamespace(monotonic=lambda: clock.now_s, now_s=0.0)
    monkeypatch.setattr("trainer.display.time", clock)
    live = LiveProgress([], client, max_minutes)
    live.on_train_begin(None, SimpleNamespace(max_steps=18, global_step=10), None)
    clock.now_s = 100.0
    live.on_log(None, SimpleNamespace(max_steps=18, global_step=11), None, LOGS)
    live.close()
    assert f"  100 s, {left_s} s left" in capsys.readouterr().err


def test_time_limit_in_the_bar():
    """The bar shows the time until the limit where that comes first."""
    task = SimpleNamespace(fields={"limit_s": 720.0}, time_remaining=9e6, elapsed=60.0)
    assert TimeLeftColumn().render(task).plain == "0:11:00"


def test_steps_without_rewards(terminal, client):
    """The bar of an offline algorithm shows the loss, and with pairs how many of them are in order."""
    live = LiveProgress([], client)
    state = SimpleNamespace(max_steps=9, global_step=1)
    live.on_train_begin(None, state, None)
    live.on_log(None, state, None, {"loss": 0.69, "rewards/accuracies": 0.75, "seconds/step": 2.0})
    live.close()
    assert "loss 0.690  75% of the pairs in order  2.0 s" in terminal.getvalue()


def test_evaluation_shows_retries_too(terminal, client):
    """The bar of an evaluation shows retries as that of a training does."""
    client.last_retry = REFUSED
    with progress_bar("evaluating", client) as update:
        update(1, 2)
    assert "waiting for rewards: connection refused at http://a" in terminal.getvalue()


def test_warnings_are_lines(terminal):
    """A warning of the client is printed as one line with its level."""
    logger = logging.Logger("remote_rewards")
    logger.addHandler(ConsoleHandler())
    logger.warning("%s", REFUSED)
    assert terminal.getvalue() == f"WARNING: {REFUSED}\n"


def test_without_terminal_lines_are_rare(capsys, client):
    """Where there is no terminal, progress is printed as a line at the end, and none within a few seconds."""
    with progress_bar("evaluating", client) as update:
        for done in range(1, 4):
            update(done, 3)
    assert capsys.readouterr().err == "  evaluating: 3 of 3 after 0 s\n"
