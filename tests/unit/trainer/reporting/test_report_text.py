import io

from rich.console import Console

from trainer.reporting.report_text import counted, summary_table


def evaluation(decoding, completion, scores):
    record = {"prompt": "p", "completion": completion, "tokens": 1, "scores": scores}
    return {"decodings": {decoding: {"samples": [record]}}}


def test_summary_table():
    """The table has both sides, and no text in it is read as markup or as a control sequence."""
    before = evaluation("greedy", "Hello.", {"strict_success": 0.0})
    after = evaluation("[bold]greedy", "\x1b[31m[/red]", {"[red]name[/red]": 1.5})
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_table(before, after))
    shown = console.export_text()
    for text in ("[bold]greedy", "[red]name[/red]", "strict_success", "0\u00a0%", "“\\x1b[31m[/red]”", "—"):
        assert text in shown


def test_summary_has_kl():
    """The table has the KL of the trained policy, if it was measured."""
    after = evaluation("sampled", "Hello.", {"vader": 0.0})
    after["kl"] = 0.314
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_table(None, after))
    assert "KL, nats a token" in (shown := console.export_text())
    assert "0.31" in shown


def test_names_are_whole():
    """In a terminal of 80 columns the names of metrics are not broken, whatever the completions beside them are."""
    names = ["positive_probability", "optimistic_answer"]
    sides = [evaluation("sampled", text, dict.fromkeys(names, 0.25)) for text in ("an answer " * 9, "another " * 9)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary_table(*sides))
    shown = console.export_text()
    assert all(name in shown for name in names)


def test_counted():
    """One thing is singular, any other number plural, and a large number is written in full."""
    assert [counted(number, "epoch") for number in (1, 1.0, 2, 0.5)] == ["1 epoch", "1 epoch", "2 epochs", "0.5 epochs"]
    assert counted(1_234_567, "step") == "1234567 steps"
