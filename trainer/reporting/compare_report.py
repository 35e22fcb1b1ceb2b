"""Write the comparison of several runs: one HTML page without scripts or external files, and a terminal table."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from trainer.reporting import band_plots, kl_frontier, plots
from trainer.reporting.leaderboard import Board, GroupResult, boards
from trainer.reporting.report import environment
from trainer.reporting.report_text import visible
from trainer.reporting.run_groups import RunGroup

CHARTS = {"reward": "reward", "kl": "kl"}
"""Titles of the charts that a group has before those of its judges, with their metrics."""
OFFLINE_CHARTS = {
    "loss": "loss",
    "pairs in order": "rewards/accuracies",
    "margin of the pairs": "rewards/margins",
    "share of tokens predicted": "mean_token_accuracy",
}
"""Those of a group that generated no completions in training."""


def write_comparison(groups: Sequence[RunGroup], path: Path) -> Path:
    """Write the page to `path` and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(groups), encoding="utf-8")
    return path


def render(groups: Sequence[RunGroup]) -> str:
    """Return the page as HTML. Every text is escaped."""
    page = environment().get_template("compare.html.j2")
    compared = boards(groups)
    return page.render(
        boards=compared,
        results={result.group.label: result for board in compared for result in board.results}.values(),
        groups=[(group, [(title, Markup(svg)) for title, svg in charts(group)]) for group in groups],
        levels=kl_frontier.LEVELS,
        at_kl=at_kl,
        kl_cell=kl_cell,
        runs=sum(len(group.runs) for group in groups),
    )


def charts(group: RunGroup) -> list[tuple[str, str]]:
    """Return (title, SVG) of a group's charts: reward, KL and judges per step, and the reward by KL; or the losses."""
    metrics = [run.metrics for run in group.runs]
    is_online = any(plots.series(run, "reward")[0] for run in metrics)
    judges = dict.fromkeys(name for run in metrics for name in plots.judge_names(run))
    titles = CHARTS if is_online else OFFLINE_CHARTS
    drawn = [(title, band_plots.band(metrics, key)) for title, key in titles.items()]
    drawn.append(("reward by KL", band_plots.reward_by_kl(metrics)))
    drawn += [(f"judge: {name}", band_plots.band(metrics, f"judges/{name}/mean")) for name in judges]
    return [(title, svg) for title, svg in drawn if svg]


def at_kl(values: Sequence[float], runs: int) -> str:
    """Format the rewards of the seeds at one KL: their mean and range, and how many of the runs reached it."""
    if not values:
        return "—"
    mean = sum(values) / len(values)
    spread = f" ({min(values):.2f} … {max(values):.2f})" if len(values) > 1 else ""
    return f"{mean:.2f}{spread}" + (f", {len(values)} of {runs} runs" if len(values) < runs else "")


def kl_cell(result: GroupResult) -> str:
    """Format the KL of a group."""
    return "not measured" if result.kl is None else f"{result.kl:.2f}"


def comparison_table(board: Board) -> Table:
    """Return a table for the terminal: a row for each metric, a column for each group. No text is read as markup."""
    title = f"{board.conditions.decoding}, {board.conditions.text}, with 95 % intervals"
    table = Table(title=Text(visible(title)), title_justify="left")
    table.add_column("metric", overflow="fold", min_width=14)
    for result in board.results:
        runs = len(result.group.runs)
        heading = f"{result.group.label}\n{runs} run{'s' if runs > 1 else ''}"
        table.add_column(Text(visible(heading)), justify="right", overflow="fold", min_width=12)
    for metric in board.metrics:
        table.add_row(metric, *(Text(visible(_cell(result, metric))) for result in board.results))
    table.add_section()
    table.add_row("KL, nats a token", *map(kl_cell, board.results))
    for index, level in enumerate(kl_frontier.LEVELS):
        cells = [at_kl(result.rewards_at_kl[index], len(result.group.runs)) for result in board.results]
        table.add_row(f"reward at KL {level:g}", *cells)
    table.add_row("minutes of training", *(f"{result.minutes:.1f}" for result in board.results))
    table.add_row("alarms, each run", *(" ".join(map(str, result.alarms)) for result in board.results))
    return table


def _cell(result: GroupResult, metric: str) -> str:
    row = result.rows.get(metric)
    if row is None:
        return "—"
    _, after, change = row.cells
    lines = [f"{after.value} {after.bounds}".strip()]
    if row.change is not None:
        arrow = {1: "▲", -1: "▼"}.get(row.direction, "")
        lines.append(f"{arrow}{change.value} {change.bounds}".strip())
    return "\n".join([*lines, *filter(None, [row.note])])
