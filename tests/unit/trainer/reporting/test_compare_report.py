import io
import json
import random
import shutil

import pytest
import yaml
from rich.console import Console

from tests.unit.trainer.reporting.test_report import HOSTILE, SHOWN, Page
from trainer import cli
from trainer.reporting.compare_report import at_kl, charts, comparison_table, kl_cell, render
from trainer.reporting.leaderboard import boards
from trainer.reporting.run_groups import group_runs
from trainer.run_folder import RunFolder


def evaluation(vader, seed):
    draw = random.Random(seed)
    records = [
        {
            "prompt": f"Question {index}?",
            "completion": f"Number {index} bread rises because yeast makes gas {seed}",
            "tokens": 7,
            "cut_off": False,
            "scores": {"optimism": 1.0, "vader": vader + draw.gauss(0, 0.05)},
        }
        for index in range(20)
    ]
    return {"step": 8, "decodings": {"sampled": {"temperature": 0.7, "max_new_tokens": 50, "samples": records}}}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Two seeds of a recipe, one run of a better one, and an evaluated policy that was not trained."""
    root, paths = tmp_path_factory.mktemp("runs"), []
    for name, seed, beta, vader in (
        ("a1", 1, 0.01, 0.2),
        ("a2", 2, 0.01, 0.4),
        ("b", 1, 0.03, 0.9),
        ("base", 1, 0, 0.1),
    ):
        folder = RunFolder.create(root / name, overwrite=False)
        config = {"recipe": HOSTILE, "rewards": ["optimism"], "policy": "smollm2", "model": {}, "heldout_prompts": "h"}
        folder.write_config({**config, "beta": beta, "seed": seed, "output_dir": name})
        rewards = [{"name": "optimism", "revision": "1", "weight": 1.0}]
        folder.write_json("rewards.json", {"rewards": rewards, "judges": [{"name": "vader"}]})
        folder.write_json("before.json", evaluation(0.1, seed))
        if name != "base":
            folder.write_json("after.json", evaluation(vader, seed))
            lines = [
                {"step": step, "reward": step * vader, "kl": step / 4, "seconds/step": 60.0} for step in range(1, 9)
            ]
            folder.append("metrics.jsonl", *lines)
        paths.append(root / name)
    return paths


def test_order(paths):
    """Groups are ordered by the judges that all of them have, the seeds of one recipe together."""
    (board,) = boards(group_runs(paths))
    means = [result.rows["vader"].after.mean for result in board.results]
    assert means == pytest.approx([0.9, 0.3, 0.1], abs=0.05)
    assert [len(result.group.runs) for result in board.results] == [1, 2, 1]
    assert board.results[1].rows["vader"].note.startswith("seeds 0.2")
    assert [result.minutes for result in board.results] == [8.0, 8.0, 0.0]


def changed(path, name, change):
    """Copy a run folder as `name`, with its evaluations changed, and return the copy."""
    copy = path.parent.parent / "others" / name
    shutil.copytree(path, copy)
    for when in ("before", "after"):
        evaluation = json.loads((copy / f"{when}.json").read_text())
        change(evaluation, evaluation["decodings"]["sampled"])
        (copy / f"{when}.json").write_text(json.dumps(evaluation))
    config = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(json.dumps({**config, "policy": name}))
    return copy


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("temperature", lambda _, decoding: decoding.update(temperature=1.0)),
        ("length", lambda _, decoding: decoding.update(max_new_tokens=99)),
        ("limit", lambda _, decoding: decoding.update(samples=decoding["samples"][:9])),
        ("file", lambda _, decoding: decoding["samples"][0].update(prompt="Another?")),
    ],
)
def test_other_conditions_are_another_board(paths, name, change):
    """Groups that were evaluated on other prompts or with another setting of the decoding are not ranked together."""
    groups = group_runs([*paths, changed(paths[0], name, change)])
    first, other = boards(groups)
    assert (len(first.results), len(other.results)) == (3, 1)
    assert first.conditions.text == "temperature 0.7, at most 50 new tokens, 20 prompts of h"
    assert Page(render(groups)).sections["kl"].count("beta 0") == 4


def test_page(paths):
    """The page has a row for each group, its reward at each KL and its curves; no text is markup."""
    page = Page(render(group_runs(paths)))
    text = " ".join(page.sections.values())
    assert [tag for tag, _ in page.tags].count("svg") == 6
    assert "0.15 (0.10 … 0.20)" not in text
    assert f"{SHOWN} (beta 0.01)" in text
    assert "This policy was evaluated and not trained." in page.sections["curves"]
    assert not [tag for tag, _ in page.tags if tag == "script"]


def test_losses_of_offline_training(paths):
    """A group that generated no completions in training has a chart of its loss."""
    copy = shutil.copytree(paths[2], paths[2].parent / "offline")
    (copy / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "loss": {9 - step}}}\n' for step in range(1, 9)))
    (group,) = group_runs([copy])
    assert [title for title, _ in charts(group)] == ["loss"]


def test_kl_of_the_evaluation(paths):
    """The KL of the evaluations is compared, of runs whose training logs none as well."""
    copy = changed(paths[2], "measured", lambda evaluation, _: evaluation.update(kl=0.31))
    (board,) = boards(group_runs([*paths, copy]))
    cells = {result.group.runs[0].config["policy"]: kl_cell(result) for result in board.results}
    assert (cells["measured"], [*map(kl_cell, board.results)].count("not measured")) == ("0.31", 1)


def test_kl_of_an_evaluated_policy(paths, tmp_path):
    """A policy that was evaluated without a training has the KL of that evaluation."""
    copy = shutil.copytree(paths[3], tmp_path / "evaluated")
    before = json.loads((copy / "before.json").read_text())
    (copy / "before.json").write_text(json.dumps(before | {"kl": 0.42}))
    (board,) = boards(group_runs([copy]))
    assert kl_cell(board.results[0]) == "0.42"


def test_table(paths):
    """The table for the terminal has the judges with their change from the untrained policy."""
    console = Console(file=io.StringIO(), width=300)
    console.print(comparison_table(boards(group_runs(paths))[0]))
    line = next(line for line in console.file.getvalue().splitlines() if "vader" in line)
    assert line.count("[") == 3
    assert "[red]b[/red]" in console.file.getvalue()


def test_reward_at_kl():
    """A reward at a KL has the range of the seeds, and says how many reached it."""
    assert at_kl([1.0, 2.0], 3) == "1.50 (1.00 … 2.00), 2 of 3 runs"
    assert (at_kl([1.0], 1), at_kl([], 2)) == ("1.00", "—")


def test_command(paths, monkeypatch, tmp_path, capsys):
    """`compare` without runs compares those in runs/ and writes the leaderboard there; with runs, those."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare"]) == 2
    assert "there are no run folders in runs/" in capsys.readouterr().err
    (tmp_path / "runs").symlink_to(paths[0].parent)
    assert cli.main(["compare"]) == 0
    assert (tmp_path / "runs" / "leaderboard.html").exists()
    assert cli.main(["compare", str(paths[0]), "--output", "one/page.html"]) == 0
    assert (tmp_path / "one" / "page.html").exists()
