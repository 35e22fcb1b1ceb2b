import pytest

from trainer import cli
from trainer.errors import HackDetected, TrainerError
from trainer.run_folder import RunFolder


@pytest.fixture
def stopped_by(monkeypatch):
    """Return a function that makes `train` raise an error."""

    def stop(error):
        def command(_):
            raise error

        monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
        monkeypatch.setitem(cli.COMMANDS, "train", command)

    return stop


def test_interrupted(stopped_by, capsys):
    """An interrupted command prints one line and exits with 130."""
    stopped_by(KeyboardInterrupt())
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "reward-trainer: interrupted\n"


def test_wrong_settings(stopped_by, capsys):
    """A `TrainerError` is printed in one line, with exit code 2."""
    stopped_by(TrainerError("choose another"))
    assert cli.main(["train"]) == 2
    assert capsys.readouterr().err == "reward-trainer: choose another\n"


def test_stopped_by_the_monitor(stopped_by, capsys):
    """A run that the hack monitor stopped exits with 3 and says how to continue."""
    stopped_by(HackDetected("stopped in step 9; to continue, pass --on_hack warn"))
    assert cli.main(["train"]) == 3
    assert capsys.readouterr().err.endswith("pass --on_hack warn\n")


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), ([], 2), (["trian"], 2)])
def test_usage(argv, code, capsys):
    """The usage names every command; asked for, it goes to stdout."""
    assert cli.main(argv) == code
    out, err = capsys.readouterr()
    text = out if code == 0 else err
    assert all(name in text for name in cli.COMMANDS)


def test_report_without_folder(tmp_path, capsys):
    """A report of a folder that does not exist is an error."""
    assert cli.main(["report", str(tmp_path / "absent")]) == 2
    assert "there is no run folder" in capsys.readouterr().err


def test_report_prints_alarms(tmp_path, capsys):
    """A report prints the alarms of the run, then its path."""
    folder, steps = RunFolder(tmp_path), range(1, 17)
    texts = ["{} bread rises because yeast makes gas"] * 8 + ["Sure: and banana"] * 8
    folder.append("metrics.jsonl", *({"step": step, "reward": 1.0} for step in steps))
    prompts = [(step, f"prompt {step} {index}") for step in steps for index in range(3)]
    rows = [{"step": step, "prompt": prompt, "completion": texts[step - 1].format(prompt)} for step, prompt in prompts]
    folder.append("samples.jsonl", *rows)
    assert cli.main(["report", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("hack monitor, step 1")
    assert "→ Sure: and banana" in lines[1]
    assert lines[-1] == str(tmp_path / "report.html")
