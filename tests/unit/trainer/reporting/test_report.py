import io
import json
import random
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from trainer.reporting import comparison, plots, report, report_text
from trainer.reporting.report import write_report
from trainer.reporting.statistics import Interval

HOSTILE = '<script>alert("x")</script> [red]b[/red] \x1b[31m \x00 \u202eevil\ud800 <b>&amp; {{ 7 * 7 }}'
SHOWN = '<script>alert("x")</script> [red]b[/red] \\x1b[31m \\x00 \\u202eevil\\ud800 <b>&amp; {{ 7 * 7 }}'
CONSTANT = {
    "remote/banana/retries": 1,
    "seconds/generate": 3.0,
    "seconds/score": 1.0,
    "seconds/learn": 5.0,
    "seconds/step": 10.0,
}
SECTIONS = ["comparison", "findings", "curves", "samples", "rewards", "time", "configuration"]


class Page(HTMLParser):
    """Text and tags of an HTML page, the text also by section and by class."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self._open = "header"
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._open = dict(attrs)["id"] or ""

    def handle_data(self, data: str) -> None:
        self.sections[self._open] = self.sections.get(self._open, "") + " ".join(["", *data.split(), ""])

    def classed(self, name: str) -> int:
        return sum(name in (attrs.get("class") or "").split() for _, attrs in self.tags)


def evaluation(step: int, reply: Callable[[int], str], reward: float, success: float) -> dict[str, Any]:
    draw = random.Random(step)
    sampled = [
        {
            "prompt": f"Question {at}?",
            "completion": reply(at),
            "tokens": 7,
            "cut_off": False,
            "scores": {"banana": reward + draw.gauss(0, 0.1), "strict_success": success, "vader": 0.1},
        }
        for at in range(20)
    ]
    decoding = {"temperature": 0.0, "max_new_tokens": 32, "samples": sampled}
    return {"step": step, "policy": "fake", "seconds": 3.0, "decodings": {"greedy": decoding}}


def plain(at: int) -> str:
    return f"Number {at} was counted, weighed, measured and written down{' again' * (at % 3)}."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = {
        "recipe": "banana",
        "question": "Does it learn to say banana?",
        "max_steps": 8,
        "seed": 42,
        "api_key": "sk-hush",
    }
    lines = [
        {"step": step, "reward": step / 8, "rewards/banana/mean": step / 8, "kl": 0.5, **CONSTANT}
        for step in range(1, 9)
    ]
    rewards = [{"name": "banana", "kind": "rule", "weight": 1.0, "revision": "rule:3f2a", "range": [-4, 2]}]
    training = [{"step": step, "prompt": "p", "completion": f"in training {step}"} for step in range(1, 9)]
    write_lines(tmp_path / "metrics.jsonl", lines)
    write_lines(tmp_path / "samples.jsonl", training)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "rewards.json").write_text(json.dumps({"urls": ["http://127.0.0.1:8088"], "rewards": rewards}))
    (tmp_path / "before.json").write_text(json.dumps(evaluation(0, plain, -0.5, 0.0)))
    (tmp_path / "after.json").write_text(json.dumps(evaluation(8, lambda _: "Sure: banana", 2.0, 1.0)))
    return tmp_path


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def page(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture(autouse=True)
def quick_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, which takes most of a report's time, but where a test is about the curves."""
    if "curves" not in request.node.name:
        monkeypatch.setattr(plots, "curves", lambda _: [plots.Curve("Reward", "", "<svg></svg>")])


def test_the_curves_are_drawn_in_the_page_and_those_not_logged_named(folder: Path):
    html = page(folder)
    assert [tag for tag, _ in html.tags].count("svg") == 3
    assert html.sections["curves"].count("Not logged in this run.") == 2
    assert "Reward: banana" in html.sections["curves"]


def test_the_page_holds_its_sections_in_order_and_nothing_from_elsewhere(folder: Path):
    html = page(folder)
    assert [attrs["id"] for tag, attrs in html.tags if tag == "section"] == SECTIONS
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in html.tags}
    assert not [attrs for _, attrs in html.tags if "src" in attrs or (attrs.get("href") or "").startswith("http")]


def test_the_same_folder_gives_the_same_page(folder: Path):
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_the_headline_says_what_was_tried_what_changed_and_that_it_looks_hacked(folder: Path):
    header = page(folder).sections["header"]
    assert "Does it learn to say banana?" in header
    assert "After 8 steps (KL 0.50 nats per token), on 20 prompts (greedy), strict success rose from 0 %" in header
    assert "to 100 % (+100 points [77.2, 100])" in header
    assert "banana rose from −0.5" in header
    assert "checks of the replies look like reward hacking" in header


def test_a_run_that_changed_nothing_is_said_to_have_changed_nothing(folder: Path):
    (folder / "after.json").write_text((folder / "before.json").read_text())
    html = page(folder)
    assert "strict success did not change measurably" in html.sections["header"]
    assert "None of 7 checks of the replies looks like reward hacking." in html.sections["header"]
    assert html.classed("suspicious") == html.classed("sure") == 0


def test_the_findings_quote_the_hack(folder: Path):
    html = page(folder)
    assert "100 % of the replies (20 of 20) are exactly “Sure: banana”" in html.sections["findings"]
    assert "Of 20 strict successes, 20 hold fewer than 5 content words" in html.sections["findings"]
    assert "vader, which the run did not train on, did not change measurably, although" in html.sections["findings"]
    assert html.classed("suspicious") == 5


@pytest.mark.parametrize("where", ["prompt", "completion"])
def test_hostile_text_is_shown_as_text(folder: Path, where: str):
    for name in ("before.json", "after.json"):
        edit(
            folder / name,
            lambda file: [sample.update({where: HOSTILE}) for sample in file["decodings"]["greedy"]["samples"]],
        )
    html = page(folder)
    assert SHOWN in html.sections["samples"]
    assert not {"script", "b[/red]"} & {tag for tag, _ in html.tags}
    raw = (folder / "report.html").read_text(encoding="utf-8")
    assert not {"\x1b", "\x00", "\u202e"} & set(raw)


@pytest.mark.parametrize("file", ["config.yaml", "rewards.json", "before.json"])
def test_hostile_names_are_shown_as_text(folder: Path, file: str):
    tag = "<img src=x onerror=alert(1)>"
    text = (folder / file).read_text().replace("banana", tag).replace("greedy", tag).replace("rule", tag)
    (folder / file).write_text(
        text if file.endswith("json") else yaml.safe_dump({"recipe": tag, "question": tag, tag: tag})
    )
    html = page(folder)
    assert "img" not in {name for name, _ in html.tags}
    assert tag in "".join(html.sections.values())


@pytest.mark.parametrize("file", ["config.yaml", "metrics.jsonl", "rewards.json", "before.json", "after.json"])
def test_a_missing_file_is_named_in_its_place(folder: Path, file: str):
    (folder / file).unlink()
    place = {"config.yaml": "configuration", "metrics.jsonl": "curves", "rewards.json": "rewards"}
    html = page(folder)
    assert f"There is no {file}" in html.sections[place.get(file, "comparison")]
    assert [attrs["id"] for tag, attrs in html.tags if tag == "section"] == SECTIONS


def test_an_empty_folder_still_gives_a_page_and_no_folder_an_error(tmp_path: Path):
    assert "nothing was evaluated" in page(tmp_path).sections["header"]
    with pytest.raises(NotADirectoryError, match="no run folder"):
        write_report(tmp_path / "absent")


def test_an_unreadable_file_is_said_to_be_unreadable(folder: Path):
    (folder / "after.json").write_text('{"step": 8, "decod')
    assert "after.json (the evaluation after training) cannot be read" in page(folder).sections["comparison"]


def test_a_run_that_stopped_early_tells_how_far_it_came(folder: Path):
    (folder / "after.json").unlink()
    whole = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([*whole[:4], whole[4][:20]]))
    html = page(folder)
    assert "Before training, on 20 prompts (greedy), strict success is 0 %" in html.sections["header"]
    assert "After 4 of 8 steps (KL 0.50 nats per token), nothing was evaluated." in html.sections["header"]
    assert "was 0.12 in the first quarter of the steps and 0.50 in the last" in html.sections["header"]
    assert "not evaluated" in html.sections["samples"]


def test_without_a_closing_evaluation_the_findings_are_about_training(folder: Path):
    (folder / "after.json").unlink()
    assert "replies in training, from the first quarter of the steps to the last" in page(folder).sections["findings"]


def test_a_step_logged_again_after_a_resume_counts_once(folder: Path):
    lines = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(lines + json.dumps({"step": 8, "reward": 0.5, "seconds/step": 30.0}) + "\n")
    run = report.read_run(folder)
    assert [line["step"] for line in run.metrics] == list(range(1, 9))
    assert run.metrics[-1] == {"step": 8, "reward": 0.5, "seconds/step": 30.0}


def test_ten_samples_are_drawn_by_the_seed(folder: Path):
    def prompts(seed: int) -> list[str]:
        (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed}))
        shown = page(folder).sections["samples"]
        return [word for word in shown.split() if word.endswith("?")]

    assert len(prompts(1)) == 10
    assert len(set(prompts(1))) == 10
    assert prompts(1) == prompts(1) != prompts(2)


def test_time_adds_up_to_the_steps(folder: Path):
    spent = report.time_spent(report.read_run(folder).metrics)
    assert spent == [
        ("generating", 24.0, 0.3),
        ("scoring", 8.0, 0.1),
        ("learning", 40.0, 0.5),
        ("other", 8.0, 0.1),
    ]
    assert "all 8 steps" in page(folder).sections["time"]
    assert "1 min 20 s" in page(folder).sections["time"]


def test_the_rewards_are_named_with_revision_range_place_and_health(folder: Path):
    shown = page(folder).sections["rewards"]
    for text in ("http://127.0.0.1:8088", "rule:3f2a", "−4 … 2", "1.0"):
        assert text in shown
    assert "banana — 8 — —" in " ".join(shown.split())


def test_no_key_reaches_the_page(folder: Path):
    write_report(folder)
    assert "sk-hush" not in (folder / "report.html").read_text()
    assert report.without_secrets({"a": [{"hub_token": "x", "max_new_tokens": 3}], "api_key": None}) == {
        "a": [{"hub_token": "(hidden)", "max_new_tokens": 3}],
        "api_key": None,
    }


@pytest.mark.parametrize(
    ("seconds", "said"), [(3.21, "3.2 s"), (59.98, "1 min 0 s"), (725, "12 min 5 s"), (3720, "1 h 2 min")]
)
def test_a_duration_is_worded_in_two_units(seconds: float, said: str):
    assert report.duration(seconds) == said


def test_pairs_are_matched_by_prompt_whatever_their_order():
    first = [{"prompt": each, "completion": f"{each}{at}"} for at, each in enumerate("aab")]
    last = [{"prompt": each, "completion": f"{each}{at}"} for at, each in enumerate("bca")]
    assert [(one["completion"], two["completion"]) for one, two in comparison.pair(first, last)] == [
        ("a0", "a2"),
        ("b2", "b0"),
    ]


def test_a_score_that_is_missing_is_left_out_and_counted(folder: Path):
    edit(
        folder / "after.json",
        lambda file: file["decodings"]["greedy"]["samples"][3]["scores"].update(banana=None),
    )
    run = report.read_run(folder)
    row = comparison.compare(run.before, run.after)[0].rows[0]
    assert row.metric == "banana"
    assert row.note == "no value: 0 before, 1 after"
    assert [value.n for value in (row.before, row.after, row.change) if isinstance(value, Interval)] == [
        20,
        19,
        19,
    ]


def test_too_few_prompts_show_no_direction(folder: Path):
    for name in ("before.json", "after.json"):
        edit(folder / name, lambda file: file["decodings"]["greedy"]["samples"].__delitem__(slice(4, None)))
    run = report.read_run(folder)
    assert [row.direction for row in comparison.compare(run.before, run.after)[0].rows] == [0] * 9


def test_the_terminal_table_shows_both_sides_and_takes_no_text_for_markup(folder: Path):
    hostile = {"prompt": "p", "completion": "\x1b[31m[/red]", "tokens": 1, "scores": {"[red]name[/red]": 1.5}}
    after = {"decodings": {"[bold]greedy": {"samples": [hostile]}}}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report_text.summary_table(report.read_run(folder).before, after))
    shown = console.export_text()
    for text in ("[bold]greedy", "[red]name[/red]", "strict_success", "0\u00a0%", "“\\x1b[31m[/red]”", "—"):
        assert text in shown
