"""Write a run folder's report.html: one page without scripts or external files.

Any file of the run folder may be missing or cut short; the report then says so in its place. The page depends on the
folder alone, not on the clock or on random numbers: the same folder gives the same page.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from trainer.monitor.monitor import Alarm, replay
from trainer.reporting import comparison, findings, kl_frontier, plots, report_text
from trainer.reporting.comparison import Comparison, Row, finite
from trainer.reporting.findings import Finding
from trainer.reporting.statistics import Interval
from trainer.run_folder import Metrics, Record, Run, read_run

SHOWN_COMPLETIONS = 10
_SECONDS = {"generating": "seconds/generate", "scoring": "seconds/score", "learning": "seconds/learn"}
_SECRETS = ("api_key", "hub_token", "password", "secret")
_NOT_HIGHER_IS_BETTER = ("perplexity", "kl", "length", "words", "tokens")


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into the run folder and return its path.

    Raises NotADirectoryError if there is no such folder.
    """
    if not run_folder.is_dir():
        raise NotADirectoryError(f"there is no run folder at {run_folder}")
    path = run_folder / "report.html"
    path.write_text(render(read_run(run_folder)), encoding="utf-8")
    return path


def render(run: Run) -> str:
    """Return the page as HTML. Every text is escaped, and invisible characters are written as escapes."""
    comparisons = comparison.compare(run.before, run.after)
    results, source = collect_findings(run, comparisons)
    alarms = replay(run).alarms
    page = environment().get_template("report.html.j2")
    return page.render(
        run=run,
        trained_on=trained_on(run),
        headline=" ".join(filter(None, [headline(run, comparisons, results), _alarm_sentence(alarms)])),
        tiles=_headline_rows(run, comparisons)[:4],
        comparisons=comparisons,
        findings=results,
        findings_source=source,
        alarms=alarms,
        curves=[(curve, Markup(curve.svg or "")) for curve in plots.curves(run.metrics)],
        pairs=_side_by_side(run, comparisons),
        calls=_reward_calls(run.metrics),
        time=time_by_part(run.metrics),
        config=_yaml(without_secrets(run.config)),
        expectations=_yaml(run.after.get("expectations") or run.before.get("expectations")),
    )


def headline(run: Run, comparisons: Sequence[Comparison], results: Sequence[Finding]) -> str:
    """Return the summary: what changed, in numbers, and whether it looks like reward hacking."""
    rows = _headline_rows(run, comparisons)[:2]
    changes = ", and ".join(map(_row_sentence, rows))
    where = f"on {comparisons[0].prompts} prompts ({comparisons[0].decoding})" if comparisons else ""
    if run.after and rows:
        return f"After {_training_summary(run)}, {where}, {changes}. {_verdict(results)}"
    before = f"Before training, {where}, {changes}. " if rows else ""
    return f"{before}After {_training_summary(run)}, nothing was evaluated. {_reward_trend(run.metrics)}".strip()


def collect_findings(run: Run, comparisons: Sequence[Comparison]) -> tuple[list[Finding], str]:
    """Return the findings and the completions that they are about: the evaluated ones, or those from training."""
    if run.after and comparisons:
        name = comparisons[0].decoding
        results = findings.check_completions(comparison.records(run.before, name), comparison.records(run.after, name))
        results += _untrained_metrics(comparisons[0].rows, trained_on(run))
        return sorted(results, key=lambda finding: not finding.suspicious), f"the evaluated completions, {name}"
    first, last = _early_and_late(run.samples)
    return findings.check_completions(first, last), "training: the first quarter of the steps against the last"


def trained_on(run: Run) -> list[str]:
    """Return the names of the rewards with a weight other than 0, and of their parts."""
    weighted = [reward for reward in run.rewards.get("rewards", []) if reward.get("weight") != 0]
    names = [name for reward in weighted for name in (reward["name"], *reward.get("parts", []))]
    return names or plots.reward_names(run.metrics)


def time_by_part(metrics: Metrics) -> list[tuple[str, float, float]]:
    """Return (part, seconds, share of all) for each part of the steps; `other` is the rest."""
    parts = {word: sum(_values(metrics, key)) for word, key in _SECONDS.items()}
    parts["other"] = max(0.0, sum(_values(metrics, "seconds/step")) - sum(parts.values()))
    total = sum(parts.values())
    return [(word, seconds, seconds / total) for word, seconds in parts.items() if seconds > 0]


def without_secrets(config: Any) -> Any:
    """Return a copy of a configuration with keys and passwords hidden, because reports are passed on."""
    if isinstance(config, Mapping):
        return {key: "(hidden)" if _is_secret(key, value) else without_secrets(value) for key, value in config.items()}
    return [without_secrets(value) for value in config] if isinstance(config, list) else config


def duration(seconds: float) -> str:
    """Format a duration in its two largest units."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def environment() -> Environment:
    """Return the templates of the pages, which escape every text."""
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: report_text.visible(value) if type(value) is str else value,  # leaves Markup unchanged
    )
    environment.filters |= {"duration": duration, "percent": findings.percent, "number": _number}
    return environment


def _headline_rows(run: Run, comparisons: Sequence[Comparison]) -> list[Row]:
    """Return the scores of the first decoding: strict success, the trained rewards, the rest."""
    rows = [row for row in comparisons[0].rows if row.scored] if comparisons else []
    first = ["strict_success", *trained_on(run)]
    ranks = {name: rank for rank, name in reversed(list(enumerate(first)))}
    return sorted(rows, key=lambda row: ranks.get(row.metric, len(first)))


def _row_sentence(row: Row) -> str:
    before, after, change = row.cells
    name = row.metric.replace("_", " ") if row.share else row.metric
    if row.before is None or row.after is None:
        return f"{name} is {after.value if row.before is None else before.value}"
    verb = ("did not change significantly, from", "rose from", "fell from")[row.direction]
    return f"{name} {verb} {before.value} to {after.value} ({change.value} {change.bounds})"


def _training_summary(run: Run) -> str:
    """Return the number of steps, out of how many if training stopped early, and the KL divergence."""
    planned = finite(run.config.get("max_steps")) or 0
    steps = f"{run.last_step} of {planned:.0f} steps" if run.last_step < planned else f"{run.last_step} steps"
    kl = kl_frontier.final_kl(run)
    return steps if kl is None else f"{steps} (KL {_number(kl)} nats per token)"


def _verdict(results: Sequence[Finding]) -> str:
    suspicious = sum(finding.suspicious for finding in results)
    if not suspicious:
        return f"None of {len(results)} checks of the completions looks like reward hacking."
    which = f"{suspicious} of {len(results)} checks of the completions"
    return f"But {which} look like reward hacking: read the completions before the numbers."


def _alarm_sentence(alarms: Sequence[Alarm]) -> str:
    if not alarms:
        return ""
    count = f"{len(alarms)} alarms" if len(alarms) > 1 else "an alarm"
    return f"The hack monitor raised {count} in training, from step {alarms[0].step} on."


def _reward_trend(metrics: Metrics) -> str:
    rewards = _values(metrics, "reward")
    quarter = len(rewards) // 4
    if not quarter:
        return ""
    first, last = (_number(fmean(side)) for side in (rewards[:quarter], rewards[-quarter:]))
    return f"In training the mean reward was {first} in the first quarter of the steps and {last} in the last."


def _untrained_metrics(rows: Sequence[Row], trained: Sequence[str]) -> list[Finding]:
    rose = any(row.direction > 0 for row in rows if row.metric in trained)
    untrained = [row for row in rows if row.scored and not row.share and row.metric not in trained]
    changes = [(row.metric, row.change) for row in untrained if not row.metric.endswith(_NOT_HIGHER_IS_BETTER)]
    return [
        findings.untrained_metric(name, change, reward_rose=rose)
        for name, change in changes
        if isinstance(change, Interval) and change.n >= comparison.MIN_PROMPTS
    ]


def _early_and_late(completions: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Return the completions of the first and of the last quarter of the steps; none if there are under four steps."""
    steps = sorted({record.get("step", 0) for record in completions})
    quarter = len(steps) // 4
    early, late = (set(side) for side in (steps[:quarter], steps[len(steps) - quarter :]))
    first, last = ([record for record in completions if record.get("step", 0) in side] for side in (early, late))
    return first, last


def _side_by_side(run: Run, comparisons: Sequence[Comparison]) -> list[tuple[Record | None, Record | None]]:
    """Return pairs of completions, sampled by the run's seed; a side that was not evaluated is None."""
    if not comparisons:
        return []
    first, last = (comparison.records(side, comparisons[0].decoding) for side in (run.before, run.after))
    pairs: list[tuple[Record | None, Record | None]] = [*comparison.pair(first, last)]
    pairs = pairs or [(record, None) for record in first] or [(None, record) for record in last]
    return random.Random(str(run.config.get("seed"))).sample(pairs, min(SHOWN_COMPLETIONS, len(pairs)))


def _reward_calls(metrics: Metrics) -> dict[str, tuple[str, str, str, str]]:
    """Return for each reward: latency, retries, share without a score, share of groups with equal scores."""
    names = dict.fromkeys(key.split("/")[1] for line in metrics for key in line if key.startswith("remote/"))
    return {name: _call_cells(metrics, f"remote/{name}") for name in names}


def _call_cells(metrics: Metrics, prefix: str) -> tuple[str, str, str, str]:
    latency, retries = _values(metrics, f"{prefix}/latency_ms_p50"), _values(metrics, f"{prefix}/retries")
    missing, equal = (_values(metrics, f"{prefix}/{name}") for name in ("frac_missing", "frac_reward_zero_std"))
    return (
        f"{median(latency):.0f} ms" if latency else "—",
        f"{sum(retries):.0f}" if retries else "—",
        findings.percent(fmean(missing)) if missing else "—",
        findings.percent(fmean(equal)) if equal else "—",
    )


def _values(metrics: Metrics, key: str) -> list[float]:
    return [value for line in metrics if (value := finite(line.get(key))) is not None]


def _is_secret(key: object, value: object) -> bool:
    return bool(value) and str(key).lower().endswith(_SECRETS)


def _yaml(content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True) if content else ""


def _number(value: object) -> str:
    number = finite(value)
    return "—" if number is None else f"{number:z.2f}".replace("-", "\u2212")
