"""`make recipes-table`: print what the recipes are expected to reach, from the run folders of several seeds.

Each row is one expectation with its estimate over all seeds, its 95 % interval, and each seed's own value. The worst
seed decides whether it is reached.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from bench.algorithms import kl_of
from trainer.monitor.monitor import replay
from trainer.reporting import aggregate
from trainer.reporting.aggregate import Estimate, score_of
from trainer.reporting.comparison import finite, records
from trainer.reporting.run_groups import RunGroup, group_runs, run_folders_in
from trainer.reporting.statistics import Interval
from trainer.run_folder import Run
from trainer.texts import distinct_n, most_common_opening_share, most_common_share


@dataclass(frozen=True)
class Row:
    """One expectation: its value must be at least, or at most, the bound."""

    name: str
    estimate: Callable[[RunGroup], Estimate | None]
    bound: float
    at_most: bool = False

    def reached(self, estimate: Estimate) -> bool:
        """Return whether the worst seed reaches the bound."""
        return estimate.highest <= self.bound if self.at_most else estimate.lowest >= self.bound


def sides(group: RunGroup, decoding: str) -> list[tuple[list, list]]:
    """Return for each run its completions before and after training."""
    return [(records(run.before, decoding), records(run.after, decoding)) for run in group.runs]


def after(group: RunGroup, decoding: str) -> list[list]:
    """Return for each run its completions after training."""
    return [last for _, last in sides(group, decoding)]


def share(name: str, decoding: str) -> Callable[[RunGroup], Estimate | None]:
    """Return the share of completions that a judge scores 1."""
    return lambda group: aggregate.mean_over_seeds(after(group, decoding), score_of(name), share=True)


def mean(name: str, decoding: str) -> Callable[[RunGroup], Estimate | None]:
    """Return the mean of a score."""
    return lambda group: aggregate.mean_over_seeds(after(group, decoding), score_of(name), share=False)


def gain(name: str, decoding: str) -> Callable[[RunGroup], Estimate | None]:
    """Return how much the mean of a score rose in training."""
    return lambda group: aggregate.change_over_seeds(sides(group, decoding), score_of(name), share=False)


def ratio(name: str, decoding: str) -> Callable[[RunGroup], Estimate | None]:
    """Return the mean of a score as a share of the untrained policy's."""
    return lambda group: aggregate.ratio_over_seeds(sides(group, decoding), score_of(name))


def distinct_ratio(decoding: str) -> Callable[[RunGroup], Estimate | None]:
    """Return distinct-2 as a share of the untrained policy's."""
    return lambda group: aggregate.text_ratio_over_seeds(sides(group, decoding), partial(distinct_n, n=2))


def common(measure: Callable[[Sequence[str]], float], decoding: str) -> Callable[[RunGroup], Estimate | None]:
    """Return the share of completions that are the same, or open the same."""
    return lambda group: aggregate.text_share_over_seeds(after(group, decoding), measure)


def cut_off(decoding: str) -> Callable[[RunGroup], Estimate | None]:
    """Return the share of completions that reached the token limit."""
    return lambda group: aggregate.mean_over_seeds(
        after(group, decoding), lambda record: finite(record.get("cut_off")), share=True
    )


def per_run(value: Callable[[Run], float | None]) -> Callable[[RunGroup], Estimate | None]:
    """Return the mean of a number of each run; its interval is the range of the seeds."""

    return lambda group: over_seeds([number for run in group.runs if (number := value(run)) is not None])


def over_seeds(values: Sequence[float]) -> Estimate | None:
    """Return the mean of a number of each seed; its interval is their range."""
    return Estimate(Interval(fmean(values), min(values), max(values), len(values)), values) if values else None


def kl(group: RunGroup) -> Estimate | None:
    """Return the KL of the trained policies from the untrained one."""
    return over_seeds([kl for path in group.paths if (kl := kl_of(path)) is not None])


def minutes(run: Run) -> float | None:
    """Return the minutes of all training steps."""
    return sum(finite(line.get("seconds/step")) or 0.0 for line in run.metrics) / 60


def alarms(run: Run) -> float:
    """Return the number of alarms that the hack monitor raises in a replay."""
    return float(len(replay(run).alarms))


BANANA = (
    Row("strict success, greedy", share("strict_success", "greedy"), 0.9),
    Row("strict success, sampled", share("strict_success", "sampled"), 0.85),
    Row("five or more content words, greedy", share("content_share", "greedy"), 0.8),
    Row("five or more content words, sampled", share("content_share", "sampled"), 0.8),
    Row("relevance, share of the untrained policy's", ratio("relevance", "sampled"), 0.8),
    Row("commonest completion, greedy", common(most_common_share, "greedy"), 0.05, at_most=True),
    Row("commonest completion, sampled", common(most_common_share, "sampled"), 0.05, at_most=True),
    Row("minutes of training", per_run(minutes), 10.0, at_most=True),
    Row("alarms of the hack monitor", per_run(alarms), 0.0, at_most=True),
)
OPTIMIST = (
    Row("P(POSITIVE)", mean("positive_probability", "sampled"), 0.97),
    Row("VADER", mean("vader", "sampled"), 0.8),
    Row("gain in valence", gain("valence", "sampled"), 1.8),
    Row("relevance, share of the untrained policy's", ratio("relevance", "sampled"), 1.0),
    Row("on_topic, share of the untrained policy's", ratio("on_topic", "sampled"), 1.0),
    Row("distinct-2, share of the untrained policy's", distinct_ratio("sampled"), 0.85),
    Row("KL, nats a token", kl, 0.5, at_most=True),
    Row("cut off", cut_off("sampled"), 0.5, at_most=True),
    Row("commonest opening of four words", common(most_common_opening_share, "sampled"), 0.05, at_most=True),
    Row("minutes of training", per_run(minutes), 12.0, at_most=True),
    Row("alarms of the hack monitor", per_run(alarms), 0.0, at_most=True),
)


def table(group: RunGroup, rows: Sequence[tuple[Row, Estimate | None]]) -> Table:
    """Return the rows of one group with their estimates."""
    seeds = ", ".join(str(run.config.get("seed")) for run in group.runs)
    prompts = max((len(side) for side in after(group, "sampled")), default=0)
    result = Table(title=f"{group.label}: seeds {seeds}, {prompts} held-out prompts", title_justify="left")
    for heading in ("figure", "mean", "95 % interval", "each seed", "bound", ""):
        result.add_column(heading, justify="left" if heading == "figure" else "right")
    for row, estimate in rows:
        bound = f"{'≤' if row.at_most else '≥'} {row.bound:g}"
        if estimate is None:
            result.add_row(row.name, "—", "", "", bound, "not evaluated")
            continue
        low, high = estimate.interval.low, estimate.interval.high
        values = " ".join(f"{value:.3f}" for value in estimate.seeds)
        cells = (f"{estimate.interval.mean:.3f}", f"[{low:.3f}, {high:.3f}]", values, bound)
        result.add_row(row.name, *cells, "reached" if row.reached(estimate) else "MISSED")
    return result


def main() -> int:
    """Print a table for each group of the run folders given, by default of all in `runs/`.

    Returns the exit code: 1 if a bound was missed.
    """
    code = 0
    console = Console(width=None if sys.stdout.isatty() else 140)
    for group in group_runs([Path(path) for path in sys.argv[1:]] or run_folders_in(Path("runs"))):
        recipe = str(group.runs[0].config.get("recipe"))
        rows = OPTIMIST if recipe.startswith("optimist") else BANANA
        estimates = [(row, row.estimate(group)) for row in rows]
        console.print(table(group, estimates))
        if any(estimate is not None and not row.reached(estimate) for row, estimate in estimates):
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
