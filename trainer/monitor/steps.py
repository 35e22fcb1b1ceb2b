"""A training step as the hack monitor reads it: its completions in groups, and what TRL logged. Pure."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.reporting.comparison import finite
from trainer.run_folder import Metrics, Record, prompt_id

Group = list[Record]
"""The completions of one prompt that were generated together."""


@dataclass(frozen=True)
class Step:
    """One step that generated completions."""

    number: int
    groups: Sequence[Group]
    logs: Mapping[str, Any]


Window = Sequence[Step]


def make_step(number: int, completions: Iterable[Record], logs: Mapping[str, Any]) -> Step:
    """Return a step with its completions in the groups in which they were generated; without those, by prompt."""
    groups: dict[Hashable, Group] = {}
    for record in completions:
        groups.setdefault(record.get("group", prompt_id(record)), []).append(record)
    return Step(number, list(groups.values()), logs)


def recorded_steps(samples: Sequence[Record], metrics: Metrics) -> Iterator[Step]:
    """Yield the steps of a run folder that generated completions, in order."""
    logs = {line["step"]: line for line in metrics}
    completions: dict[int, list[Record]] = {}
    for record in samples:
        completions.setdefault(record["step"], []).append(record)
    for number in sorted(completions.keys() & logs.keys()):
        yield make_step(number, completions[number], logs[number])


def groups_of(window: Window) -> list[Group]:
    """Return the groups of all steps."""
    return [group for step in window for group in step.groups]


def records_of(window: Window) -> list[Record]:
    """Return the completions of all steps."""
    return [record for group in groups_of(window) for record in group]


def by_prompt(window: Window) -> list[Group]:
    """Return the completions of all steps, those of one prompt together even if several steps drew it."""
    groups: dict[str, Group] = {}
    for group in groups_of(window):
        groups.setdefault(prompt_id(group[0]), []).extend(group)
    return list(groups.values())


def group_means(window: Window, score: str | None) -> list[float]:
    """Return each group's mean of a score, or of the reward for None, without groups that have none."""
    values = [[value_of(record, score) for record in group] for group in groups_of(window)]
    present = [[value for value in group if value is not None] for group in values]
    return [sum(group) / len(group) for group in present if group]


def value_of(record: Record, score: str | None) -> float | None:
    """Return a completion's score, or its reward for None; None if it has none."""
    return finite(record.get("reward") if score is None else (record.get("scores") or {}).get(score))


def logged_mean(window: Window, metric: str) -> float | None:
    """Return the mean of what TRL logged under a name; None if it was not logged."""
    values = [value for step in window if (value := finite(step.logs.get(metric))) is not None]
    return sum(values) / len(values) if values else None
