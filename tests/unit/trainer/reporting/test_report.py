import json
import random
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.reporting import plots, report
from trainer.reporting.report import write_report

HOSTILE = '<script>alert("x")</script> [red]b[/red] \x1b[31m \x00 \u202eevil\ud800 <b>&amp; {{ 7 * 7 }}'
SHOWN = '<script>alert("x")</script> [red]b[/red] \\x1b[31m \\x00 \\u202eevil\\ud800 <b>&amp; {{ 7 * 7 }}'
CONSTANT = {
    "remote/banana/retries": 1,
    "seconds/generate": 3.0,
    "seconds/score": 1.0,
    "seconds/learn": 5.0,
    "seconds/step": 10.0,
}
SECTIONS = ["comparison", "findings", "monitor", "curves", "completions", "rewards", "time", "configuration"]


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


def evaluation(step: int, complete: Callable[[int], str], reward: float, success: float) -> dict[str, Any]:
    draw = random.Random(step)
    records = [
        {
            "prompt": f"Question {index}?",
            "completion": complete(index),
            "tokens": 7,
            "cut_off": False,
            "scores": {"banana": reward + draw.gauss(0, 0.1), "strict_success": success, "vader": 0.1},
        }
        for index in range(20)
    ]
    decoding = {"temperature": 0.0, "max_new_tokens": 32, "samples": records}
    return {"step": step, "policy": "fake", "seconds": 3.0, "decodings": {"greedy": decoding}}


def plain(index: int) -> str:
    return f"Number {index} was counted, weighed, measured and written down{' again' * (index % 3)}."


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
    """Skip the drawing, which takes most of a report's time, unless a test is about the curves."""
    if "curves" not in request.node.name:
        monkeypatch.setattr(plots, "curves", lambda _: [plots.Curve("Reward", "", "<svg></svg>")])


def test_curves(folder: Path):
    """The page shows the curves, and names those that were not logged."""
    html = page(folder)
    assert [tag for tag, _ in html.tags].count("svg") == 3
    assert html.sections["curves"].count("Not logged in this run.") == 2
    assert "Reward: banana" in html.sections["curves"]


def test_sections(folder: Path):
    """The page has its sections in order, and loads nothing."""
    html = page(folder)
    assert [attrs["id"] for tag, attrs in html.tags if tag == "section"] == SECTIONS
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in html.tags}
    assert not [attrs for _, attrs in html.tags if "src" in attrs or (attrs.get("href") or "").startswith("http")]


def test_deterministic(folder: Path):
    """The same folder gives the same page."""
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


def test_headline(folder: Path):
    """The header has the question, the changes and the verdict."""
    header = page(folder).sections["header"]
    assert "Does it learn to say banana?" in header
    assert "After 8 steps (KL 0.50 nats per token), on 20 prompts (greedy), strict success rose from 0 %" in header
    assert "to 100 % (+100 points [77.2, 100])" in header
    assert "banana rose from −0.5" in header
    assert "checks of the completions look like reward hacking" in header


def test_no_change(folder: Path):
    """A run that changed nothing is reported as such."""
    (folder / "after.json").write_text((folder / "before.json").read_text())
    html = page(folder)
    assert "strict success did not change significantly" in html.sections["header"]
    assert "None of 7 checks of the completions looks like reward hacking." in html.sections["header"]
    assert html.classed("suspicious") == html.classed("significant") == 0


def test_findings(folder: Path):
    """The findings quote the completion that hacks the reward."""
    html = page(folder)
    assert "100 % of the completions (20 of 20) are exactly “Sure: banana”" in html.sections["findings"]
    assert "Of 20 strict successes, 20 have fewer than 5 content words" in html.sections["findings"]
    assert "vader, which the run did not train on, did not change significantly, although" in html.sections["findings"]
    assert html.classed("suspicious") == 5


@pytest.mark.parametrize("where", ["prompt", "completion"])
def test_hostile_text(folder: Path, where: str):
    """Prompts and completions cannot inject markup or control characters."""
    for name in ("before.json", "after.json"):
        edit(
            folder / name,
            lambda file: [record.update({where: HOSTILE}) for record in file["decodings"]["greedy"]["samples"]],
        )
    html = page(folder)
    assert SHOWN in html.sections["completions"]
    assert not {"script", "b[/red]"} & {tag for tag, _ in html.tags}
    raw = (folder / "report.html").read_text(encoding="utf-8")
    assert not {"\x1b", "\x00", "\u202e"} & set(raw)


@pytest.mark.parametrize("file", ["config.yaml", "rewards.json", "before.json"])
def test_hostile_names(folder: Path, file: str):
    """Names of runs, rewards and decodings cannot inject markup."""
    tag = "<img src=x onerror=alert(1)>"
    text = (folder / file).read_text().replace("banana", tag).replace("greedy", tag).replace("rule", tag)
    (folder / file).write_text(
        text if file.endswith("json") else yaml.safe_dump({"recipe": tag, "question": tag, tag: tag})
    )
    html = page(folder)
    assert "img" not in {name for name, _ in html.tags}
    assert tag in "".join(html.sections.values())


@pytest.mark.parametrize("file", ["config.yaml", "metrics.jsonl", "rewards.json", "before.json", "after.json"])
def test_missing_file(folder: Path, file: str):
    """A missing file is named in its section, and the other sections remain."""
    (folder / file).unlink()
    place = {"config.yaml": "configuration", "metrics.jsonl": "curves", "rewards.json": "rewards"}
    html = page(folder)
    assert f"There is no {file}" in html.sections[place.get(file, "comparison")]
    assert [attrs["id"] for tag, attrs in html.tags if tag == "section"] == SECTIONS


def test_empty_folder(tmp_path: Path):
    """An empty folder gives a page, and no folder an error."""
    assert "nothing was evaluated" in page(tmp_path).sections["header"]
    with pytest.raises(NotADirectoryError, match="no run folder"):
        write_report(tmp_path / "absent")


def test_unreadable_file(folder: Path):
    """An unreadable file is named with the reason."""
    (folder / "after.json").write_text('{"step": 8, "decod')
    assert "after.json (the evaluation after training) cannot be read" in page(folder).sections["comparison"]


def test_stopped_early(folder: Path):
    """A run that stopped early is reported up to its last step."""
    (folder / "after.json").unlink()
    whole = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([*whole[:4], whole[4][:20]]))
    html = page(folder)
    assert "Before training, on 20 prompts (greedy), strict success is 0 %" in html.sections["header"]
    assert "After 4 of 8 steps (KL 0.50 nats per token), nothing was evaluated." in html.sections["header"]
    assert "was 0.12 in the first quarter of the steps and 0.50 in the last" in html.sections["header"]
    assert "not evaluated" in html.sections["completions"]


def test_findings_from_training(folder: Path):
    """Without an evaluation after training the findings are about completions from training."""
    (folder / "after.json").unlink()
    source = "training: the first quarter of the steps against the last"
    assert source in page(folder).sections["findings"]


def test_step_logged_twice(folder: Path):
    """A step logged again after a resume counts once."""
    lines = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(lines + json.dumps({"step": 8, "reward": 0.5, "seconds/step": 30.0}) + "\n")
    run = report.read_run(folder)
    assert [line["step"] for line in run.metrics] == list(range(1, 9))
    assert run.metrics[-1] == {"step": 8, "reward": 0.5, "seconds/step": 30.0}


def test_sampled_completions(folder: Path):
    """Ten completions are sampled by the run's seed."""

    def prompts(seed: int) -> list[str]:
        (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed}))
        shown = page(folder).sections["completions"]
        return [word for word in shown.split() if word.endswith("?")]

    assert len(prompts(1)) == 10
    assert len(set(prompts(1))) == 10
    assert prompts(1) == prompts(1) != prompts(2)


def test_time_by_part(folder: Path):
    """The parts of the time add up to that of the steps."""
    parts = report.time_by_part(report.read_run(folder).metrics)
    assert parts == [
        ("generating", 24.0, 0.3),
        ("scoring", 8.0, 0.1),
        ("learning", 40.0, 0.5),
        ("other", 8.0, 0.1),
    ]
    assert "all 8 steps" in page(folder).sections["time"]
    assert "1 min 20 s" in page(folder).sections["time"]


def test_alarms(folder: Path):
    """Alarms of the hack monitor are in the headline, and shown with the completions that rang them."""
    assert "It raised no alarm." in page(folder).sections["monitor"]
    texts = [f"{number} bread rises because yeast makes gas" for number in range(8)] + [HOSTILE] * 8
    samples = [
        {"step": step, "prompt": f"{HOSTILE} {step}{index}", "completion": text, "reward": 1.0}
        for step, text in enumerate(texts, 1)
        for index in range(3)
    ]
    write_lines(folder / "samples.jsonl", samples)
    write_lines(folder / "metrics.jsonl", [{"step": step, "reward": 1.0} for step in range(1, 17)])
    shown = page(folder)
    assert "same_completion:" in shown.sections["monitor"]
    assert SHOWN in shown.sections["monitor"]
    assert "The hack monitor raised" in shown.sections["header"]


def test_judges(folder: Path):
    """The judges are listed beside the rewards."""
    edit(folder / "rewards.json", lambda rewards: rewards.update(judges=[{"name": HOSTILE, "kind": "local"}]))
    assert f"{SHOWN}  judge" in page(folder).sections["rewards"]


def test_rewards(folder: Path):
    """The rewards are listed with URL, revision, range and calls."""
    shown = page(folder).sections["rewards"]
    for text in ("http://127.0.0.1:8088", "rule:3f2a", "−4 … 2", "1.0"):
        assert text in shown
    assert "banana — 8 — —" in " ".join(shown.split())


def test_secrets(folder: Path):
    """No key of the configuration is on the page."""
    write_report(folder)
    assert "sk-hush" not in (folder / "report.html").read_text()
    assert report.without_secrets({"a": [{"hub_token": "x", "max_new_tokens": 3}], "api_key": None}) == {
        "a": [{"hub_token": "(hidden)", "max_new_tokens": 3}],
        "api_key": None,
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (59.98, "1 min 0 s"), (725, "12 min 5 s"), (3720, "1 h 2 min")]
)
def test_duration(seconds: float, text: str):
    """A duration is formatted in its two largest units."""
    assert report.duration(seconds) == text
