from trainer import cli


def test_an_interrupted_run_says_so_in_a_line(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    monkeypatch.setattr(cli, "_train", interrupted)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "reward-trainer: interrupted\n"
