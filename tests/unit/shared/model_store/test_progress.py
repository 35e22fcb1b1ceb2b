import io

import pytest

from shared.model_store.progress import ProgressLine, progress_line, stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, seconds_each: float, total: int = 10) -> str:
    now = iter(seconds_each * step for step in range(total + 1))
    progress = ProgressLine("training", total, stream=stream, clock=lambda: next(now))
    for done in range(1, total + 1):
        progress.update(done)
    return stream.getvalue()


def test_a_log_gets_a_line_every_20_s():
    """Without a terminal, a line is written every 20 seconds."""
    assert shown(io.StringIO(), seconds_each=10).splitlines() == [
        "models: training 20 %, 1:20 left",
        "models: training 40 %, 1:00 left",
        "models: training 60 %, 0:40 left",
        "models: training 80 %, 0:20 left",
        "models: training 100 %, 0:00 left",
    ]


def test_short_work_logs_nothing():
    """Work that ends within the interval writes nothing to a log."""
    assert shown(io.StringIO(), seconds_each=0.1) == ""


def test_a_terminal_line_is_rewritten():
    """In a terminal, one line is rewritten, and ended when the work is done."""
    output = shown(Terminal(), seconds_each=1)
    assert output.count("\r") == 10
    assert output.count("\n") == 1
    assert output.endswith("\n")


def test_remaining_time_is_extrapolated():
    """The remaining time is extrapolated from the elapsed time."""
    assert progress_line("x", done=1, total=4, elapsed_s=30) == "x 25 %, 1:30 left"


def test_stage_logs_its_duration(capsys):
    """A stage logs its start and, unless it raises, its duration."""
    with stage("boiling") as boiling:
        pass
    assert capsys.readouterr().err == f"models: boiling …\nmodels: boiling: done in {boiling.seconds} s\n"
    with pytest.raises(ValueError, match="burnt"), stage("frying"):
        raise ValueError("burnt")
    assert capsys.readouterr().err == "models: frying …\n"
