"""`reward-trainer compare`: run folders in, a table on the terminal and a page out."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from trainer.errors import TrainerError
from trainer.reporting.compare_report import comparison_table, write_comparison
from trainer.reporting.leaderboard import boards
from trainer.reporting.run_groups import group_runs, run_folders_in

RUNS = Path("runs")
PAGE = "leaderboard.html"


def compare_runs(run_folders: Sequence[Path], page: Path | None) -> Path:
    """Compare the runs, by default all in `runs/`; print the tables, write the page, and return its path."""
    paths = list(run_folders) or run_folders_in(RUNS)
    if not paths:
        raise TrainerError(f"there are no run folders in {RUNS}/; pass some, such as runs/banana")
    groups = group_runs(paths)
    console = Console()
    for board in boards(groups):
        console.print(comparison_table(board))
    path = write_comparison(groups, page or RUNS / PAGE)
    console.print(f"page: {path}", highlight=False)
    return path
