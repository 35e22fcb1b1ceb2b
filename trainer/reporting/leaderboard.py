"""Compare groups of runs: every score before and after, over all seeds, and an order by the judges. Pure.

Groups are comparable if they were evaluated on the same held-out prompts with the same settings of the same decoding:
those form a board.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from trainer.monitor.monitor import judges_of, replay
from trainer.reporting import aggregate, kl_frontier, statistics
from trainer.reporting.aggregate import Estimate, Side, score_of
from trainer.reporting.comparison import MOST_COMMON, TOKENS, Evaluation, Row, decoding_settings, finite, records
from trainer.reporting.run_groups import RunGroup, final_evaluation
from trainer.run_folder import Record, Run
from trainer.texts import distinct_n, most_common_opening_share, most_common_share

Pairs = Sequence[tuple[Side, Side]]


@dataclass(frozen=True)
class GroupResult:
    """The rows of one group, by metric; its untrained policy is `before`."""

    group: RunGroup
    rows: dict[str, Row]
    kl: float | None
    minutes: float
    alarms: Sequence[int]
    """The number of alarms of the hack monitor in each run."""

    @property
    def rewards_at_kl(self) -> list[list[float]]:
        """The reward of each seed at each of `kl_frontier.LEVELS` that it reached."""
        return [kl_frontier.values_at(self.group.runs, level) for level in kl_frontier.LEVELS]


@dataclass(frozen=True)
class Conditions:
    """What the evaluations of a group must have in common with those of others to compare with them."""

    heldout: str
    decoding: str
    settings: str
    prompts: frozenset[tuple[str, ...]]
    """The prompts of each evaluation: a file may change, and `eval_limit` takes a part of it."""

    @property
    def text(self) -> str:
        """The held-out prompts and the settings of the decoding in words."""
        counts = sorted({len(prompts) for prompts in self.prompts})
        return f"{self.settings}{' or '.join(map(str, counts))} prompts of {self.heldout}"


@dataclass(frozen=True)
class Board:
    """Groups evaluated under the same conditions, the best by the judges first."""

    conditions: Conditions
    results: Sequence[GroupResult]

    @property
    def metrics(self) -> list[str]:
        """The names of all rows, those of scores first."""
        rows = [row for result in self.results for row in result.rows.values()]
        return list(dict.fromkeys(row.metric for row in sorted(rows, key=lambda row: not row.scored)))


def boards(groups: Sequence[RunGroup]) -> list[Board]:
    """Return a board for each set of conditions under which groups were evaluated, in the order of the groups."""
    members: dict[Conditions, list[RunGroup]] = {}
    for group in groups:
        for decoding in _decodings(group):
            members.setdefault(conditions(group, decoding), []).append(group)
    return [
        Board(shared, _ranked([result(group, shared.decoding) for group in evaluated]))
        for shared, evaluated in members.items()
    ]


def conditions(group: RunGroup, decoding: str) -> Conditions:
    """Return the conditions under which a group was evaluated with a decoding."""
    evaluations = [evaluation for evaluation in _evaluations(group) if records(evaluation, decoding)]
    settings = dict.fromkeys(decoding_settings(evaluation["decodings"][decoding]) for evaluation in evaluations)
    prompts = {
        tuple(sorted(str(record["prompt"]) for record in records(evaluation, decoding))) for evaluation in evaluations
    }
    return Conditions(group.heldout, decoding, "".join(settings), frozenset(prompts))


def result(group: RunGroup, decoding: str) -> GroupResult:
    """Return the rows of a group for one decoding."""
    pairs = [(records(run.before, decoding), records(final_evaluation(run), decoding)) for run in group.runs]
    trained = any(run.metrics or run.after for run in group.runs)
    rows = _rows(pairs if trained else [([], last) for _, last in pairs])
    kls = [kl for run in group.runs if (kl := kl_frontier.final_kl(run)) is not None]
    minutes = fmean(training_minutes(run) for run in group.runs)
    alarms = [len(replay(run).alarms) for run in group.runs]
    return GroupResult(group, {row.metric: row for row in rows}, fmean(kls) if kls else None, minutes, alarms)


def training_minutes(run: Run) -> float:
    """Return the minutes of all training steps."""
    return sum(finite(line.get("seconds/step")) or 0.0 for line in run.metrics) / 60


def _evaluations(group: RunGroup) -> list[Evaluation]:
    return [evaluation for run in group.runs for evaluation in (run.before, final_evaluation(run))]


def _decodings(group: RunGroup) -> list[str]:
    return list(dict.fromkeys(name for evaluation in _evaluations(group) for name in evaluation.get("decodings") or {}))


def _rows(pairs: Pairs) -> list[Row]:
    names = dict.fromkeys(
        name for sides in pairs for side in sides for record in side for name in record.get("scores") or {}
    )
    content = [] if "content_share" in names else ["content_share"]
    return [
        *(_row(name, pairs, score_of(name), scored=True) for name in [*names, *content]),
        _text_row(MOST_COMMON, pairs, most_common_share),
        _text_row("most common opening", pairs, most_common_opening_share),
        _diversity_row(pairs),
        _row("cut off", pairs, _cut_off),
        _row(TOKENS, pairs, lambda record: finite(record.get("tokens"))),
    ]


def _row(name: str, pairs: Pairs, get: Callable[[Record], float | None], *, scored: bool = False) -> Row:
    values = [value for sides in pairs for side in sides for record in side if (value := get(record)) is not None]
    share = get is _cut_off or statistics.is_share(name, values)
    before, after = (aggregate.mean_over_seeds([sides[index] for sides in pairs], get, share=share) for index in (0, 1))
    change = aggregate.change_over_seeds(pairs, get, share=share)
    return Row(name, _interval(before), _interval(after), _interval(change), share, scored, note=_spread(after))


def _text_row(name: str, pairs: Pairs, measure: aggregate.TextMeasure) -> Row:
    before, after = (aggregate.text_share_over_seeds([sides[index] for sides in pairs], measure) for index in (0, 1))
    return Row(name, _interval(before), _interval(after), None, share=True, note=_spread(after))


def _diversity_row(pairs: Pairs) -> Row:
    ratio = aggregate.text_ratio_over_seeds(pairs, partial(distinct_n, n=2))
    return Row("distinct-2, of untrained", None, _interval(ratio), None, share=True, note=_spread(ratio))


def _cut_off(record: Record) -> float | None:
    return finite(record.get("cut_off"))


def _interval(estimate: Estimate | None) -> statistics.Interval | None:
    return None if estimate is None else estimate.interval


def _spread(estimate: Estimate | None) -> str:
    """Return the range of the seeds, if there are several."""
    if estimate is None or len(estimate.seeds) < 2:
        return ""
    return f"seeds {estimate.lowest:.3g} … {estimate.highest:.3g}"


def _ranked(results: Sequence[GroupResult]) -> list[GroupResult]:
    """Order groups by their mean rank over the judges that all of them have; without such judges, as they are."""
    judges = [set(judges_of(run.rewards)) & result.rows.keys() for result in results for run in result.group.runs]
    common = set.intersection(*judges) if judges else set()
    ranks = [_ranks([result.rows[judge] for result in results]) for judge in sorted(common)]
    means = [fmean(rank[index] for rank in ranks) if ranks else 0.0 for index in range(len(results))]
    return [results[index] for index in sorted(range(len(results)), key=lambda index: means[index])]


def _ranks(rows: Sequence[Row]) -> list[int]:
    values = [row.after.mean if isinstance(row.after, statistics.Interval) else float("-inf") for row in rows]
    return [sum(other > value for other in values) for value in values]
