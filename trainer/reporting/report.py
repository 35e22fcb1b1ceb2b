"""Write a run folder's report.html: one page without scripts that opens anywhere.

The files of a run folder enter, one HTML file leaves. Any of them may be missing or cut short: the report
says so in its place. Nothing comes from the clock or from chance, so the same folder gives the same page.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from trainer.reporting import comparison, findings, plots, report_text
from trainer.reporting.comparison import Comparison, Row, finite
from trainer.reporting.findings import Finding
from trainer.reporting.statistics import Interval
from trainer.run_folder import Metrics, Record, Run, read_run

SHOWN_SAMPLES = 10
_SECONDS = {"generating": "seconds/generate", "scoring": "seconds/score", "learning": "seconds/learn"}
_SECRETS = ("api_key", "hub_token", "password", "secret")
_NOT_JUDGES = ("perplexity", "kl", "length", "words", "tokens")  # higher is not better


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into the run folder and return its path.

    Raises NotADirectoryError where there is no such folder.
    """
    if not run_folder.is_dir():
        raise NotADirectoryError(f"there is no run folder at {run_folder}")
    path = run_folder / "report.html"
    path.write_text(render(read_run(run_folder)), encoding="utf-8")
    return path


def render(run: Run) -> str:
    """Lay out the page. Every text is escaped, and what cannot be seen is written out."""
    comparisons = comparison.compare(run.before, run.after)
    found, found_in = collect_findings(run, comparisons)
    page = _environment().get_template("report.html.j2")
    return page.render(
        run=run,
        trained_on=trained_on(run),
        sentence=sentence(run, comparisons, found),
        tiles=_headline_rows(run, comparisons)[:4],
        comparisons=comparisons,
        findings=found,
        found_in=found_in,
        curves=[(curve, Markup(curve.svg or "")) for curve in plots.curves(run.metrics)],
        samples=_side_by_side(run, comparisons),
        health=_health(run.metrics),
        time=time_spent(run.metrics),
        config=_yaml(without_secrets(run.config)),
        expectations=_yaml(run.after.get("expectations") or run.before.get("expectations")),
    )


def sentence(run: Run, comparisons: Sequence[Comparison], found: Sequence[Finding]) -> str:
    """Say what happened in numbers, and whether the replies look like reward hacking."""
    rows = _headline_rows(run, comparisons)[:2]
    told = ", and ".join(map(_row_sentence, rows))
    where = f"on {comparisons[0].prompts} prompts ({comparisons[0].decoding})" if comparisons else ""
    if run.after and rows:
        return f"After {_training_summary(run)}, {where}, {told}. {_verdict(found)}"
    before = f"Before training, {where}, {told}. " if rows else ""
    return f"{before}After {_training_summary(run)}, nothing was evaluated. {_training_course(run.metrics)}".strip()


def collect_findings(run: Run, comparisons: Sequence[Comparison]) -> tuple[list[Finding], str]:
    """Collect the findings, and say which replies they are about: evaluated ones, or else from training."""
    if run.after and comparisons:
        name = comparisons[0].decoding
        found = findings.find(comparison.samples(run.before, name), comparison.samples(run.after, name))
        found += _strangers(comparisons[0].rows, trained_on(run))
        return sorted(found, key=lambda each: not each.suspicious), f"evaluated replies, {name}"
    first, last = _early_and_late(run.samples)
    return findings.find(first, last), "replies in training, from the first quarter of the steps to the last"


def trained_on(run: Run) -> list[str]:
    """Name the rewards that the policy was trained on, those with a weight other than 0, and their parts."""
    weighted = [reward for reward in run.rewards.get("rewards", []) if reward.get("weight") != 0]
    named = [name for reward in weighted for name in (reward["name"], *reward.get("parts", []))]
    return named or plots.reward_names(run.metrics)


def time_spent(metrics: Metrics) -> list[tuple[str, float, float]]:
    """Add up where the seconds went: (what, seconds, share of all), the rest of the steps being `other`."""
    parts = {word: sum(_values(metrics, key)) for word, key in _SECONDS.items()}
    parts["other"] = max(0.0, sum(_values(metrics, "seconds/step")) - sum(parts.values()))
    total = sum(parts.values())
    return [(word, seconds, seconds / total) for word, seconds in parts.items() if seconds > 0]


def without_secrets(config: Any) -> Any:
    """Copy a configuration with keys and passwords hidden, because reports are made to be passed on."""
    if isinstance(config, Mapping):
        return {key: "(hidden)" if _is_secret(key, value) else without_secrets(value) for key, value in config.items()}
    return [without_secrets(value) for value in config] if isinstance(config, list) else config


def duration(seconds: float) -> str:
    """Word a duration in its two largest units."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: report_text.visible(value) if type(value) is str else value,  # our Markup stays as it is
    )
    environment.filters |= {"duration": duration, "percent": findings.percent, "number": _number}
    return environment


def _headline_rows(run: Run, comparisons: Sequence[Comparison]) -> list[Row]:
    """Order the first decoding's scores: the recipe's own metric, success, trained rewards, the rest."""
    rows = [row for row in comparisons[0].rows if row.scored] if comparisons else []
    first = [run.config.get("eval_metric"), "strict_success", *trained_on(run)]
    ranks = {name: rank for rank, name in reversed(list(enumerate(first)))}
    return sorted(rows, key=lambda row: ranks.get(row.metric, len(first)))


def _row_sentence(row: Row) -> str:
    before, after, change = row.cells
    name = row.metric.replace("_", " ") if row.share else row.metric
    if row.before is None or row.after is None:
        return f"{name} is {after.value if row.before is None else before.value}"
    verb = ("did not change measurably, from", "rose from", "fell from")[row.direction]
    return f"{name} {verb} {before.value} to {after.value} ({change.value} {change.bounds})"


def _training_summary(run: Run) -> str:
    """Say how far training went: steps, of how many if fewer, and KL."""
    planned = finite(run.config.get("max_steps")) or 0
    steps = f"{run.last_step} of {planned:.0f} steps" if run.last_step < planned else f"{run.last_step} steps"
    kl = _values(run.metrics, "kl")
    return f"{steps} (KL {_number(fmean(kl[-5:]))} nats per token)" if kl else steps


def _verdict(found: Sequence[Finding]) -> str:
    suspicious = sum(finding.suspicious for finding in found)
    if not suspicious:
        return f"None of {len(found)} checks of the replies looks like reward hacking."
    which = f"{suspicious} of {len(found)} checks of the replies"
    return f"But {which} look like reward hacking: read the replies before the numbers."


def _training_course(metrics: Metrics) -> str:
    rewards = _values(metrics, "reward")
    quarter = len(rewards) // 4
    if not quarter:
        return ""
    first, last = (_number(fmean(side)) for side in (rewards[:quarter], rewards[-quarter:]))
    return f"In training the mean reward was {first} in the first quarter of the steps and {last} in the last."


def _strangers(rows: Sequence[Row], trained: Sequence[str]) -> list[Finding]:
    rose = any(row.direction > 0 for row in rows if row.metric in trained)
    judges = [row for row in rows if row.scored and not row.share and row.metric not in trained]
    changes = [(row.metric, row.change) for row in judges if not row.metric.endswith(_NOT_JUDGES)]
    return [
        findings.untrained_metric(name, change, reward_rose=rose)
        for name, change in changes
        if isinstance(change, Interval) and change.n >= comparison.MIN_PROMPTS
    ]


def _early_and_late(samples: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Take the training samples of the first and last quarter of the steps; none from under four steps."""
    steps = sorted({sample.get("step", 0) for sample in samples})
    quarter = len(steps) // 4
    early, late = (set(side) for side in (steps[:quarter], steps[len(steps) - quarter :]))
    first, last = ([sample for sample in samples if sample.get("step", 0) in side] for side in (early, late))
    return first, last


def _side_by_side(run: Run, comparisons: Sequence[Comparison]) -> list[tuple[Record | None, Record | None]]:
    """Draw the shown samples by the run's seed; a side that was not evaluated is None."""
    if not comparisons:
        return []
    first, last = (comparison.samples(side, comparisons[0].decoding) for side in (run.before, run.after))
    pairs: list[tuple[Record | None, Record | None]] = [*comparison.pair(first, last)]
    pairs = pairs or [(sample, None) for sample in first] or [(None, sample) for sample in last]
    return random.Random(str(run.config.get("seed"))).sample(pairs, min(SHOWN_SAMPLES, len(pairs)))


def _health(metrics: Metrics) -> dict[str, tuple[str, str, str, str]]:
    """Tell of each reward: latency, retries, share without a score, share of groups with equal scores."""
    names = dict.fromkeys(key.split("/")[1] for line in metrics for key in line if key.startswith("remote/"))
    return {name: _health_of(metrics, f"remote/{name}") for name in names}


def _health_of(metrics: Metrics, key: str) -> tuple[str, str, str, str]:
    latency, retries = _values(metrics, f"{key}/latency_ms_p50"), _values(metrics, f"{key}/retries")
    nulls, equal = (_values(metrics, f"{key}/{what}") for what in ("frac_missing", "frac_reward_zero_std"))
    return (
        f"{median(latency):.0f} ms" if latency else "—",
        f"{sum(retries):.0f}" if retries else "—",
        findings.percent(fmean(nulls)) if nulls else "—",
        findings.percent(fmean(equal)) if equal else "—",
    )


def _values(metrics: Metrics, key: str) -> list[float]:
    return [value for line in metrics if (value := finite(line.get(key))) is not None]


def _is_secret(key: object, value: object) -> bool:
    return bool(value) and str(key).lower().endswith(_SECRETS)


def _yaml(content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True) if content else ""


def _number(value: object) -> str:
    known = finite(value)
    return "—" if known is None else f"{known:z.2f}".replace("-", "\u2212")
