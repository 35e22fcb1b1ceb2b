import io

import pytest

from shared.model_store.progress import Progress, progress_line, stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def told(stream: io.StringIO, seconds_each: float, total: int = 10) -> str:
    now = iter(seconds_each * step for step in range(total + 1))
    progress = Progress("training", total, stream=stream, clock=lambda: next(now))
    for done in range(1, total + 1):
        progress.step(done)
    return stream.getvalue()


def test_a_log_gets_a_line_every_twenty_seconds():
    assert told(io.StringIO(), seconds_each=10).splitlines() == [
        "models: training 20 %, 1:20 left",
        "models: training 40 %, 1:00 left",
        "models: training 60 %, 0:40 left",
        "models: training 80 %, 0:20 left",
        "models: training 100 %, 0:00 left",
    ]


def test_what_is_soon_over_fills_no_log():
    assert told(io.StringIO(), seconds_each=0.1) == ""


def test_a_terminal_gets_one_line_that_is_rewritten_and_ended():
    shown = told(Terminal(), seconds_each=1)
    assert shown.count("\r") == 10
    assert shown.count("\n") == 1
    assert shown.endswith("\n")


def test_the_remaining_time_follows_from_what_was_done():
    assert progress_line("x", done=1, total=4, seconds=30) == "x 25 %, 1:30 left"


def test_a_stage_says_how_long_it_took_unless_it_fails(capsys):
    with stage("boiling") as boiling:
        pass
    assert capsys.readouterr().err == f"models: boiling …\nmodels: boiling: done in {boiling.seconds} s\n"
    with pytest.raises(ValueError, match="burnt"), stage("frying"):
        raise ValueError("burnt")
    assert capsys.readouterr().err == "models: frying …\n"
