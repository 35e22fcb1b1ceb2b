"""The hack monitor: reads the steps of a run one by one and raises an alarm for each signal that keeps ringing.

It has no clock and no files: the same steps raise the same alarms, in training and in a replay of the run folder.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from trainer.monitor.judge_signal import MIN_GROUPS, JudgeSignal, shift
from trainer.monitor.signals import SIGNALS, Signal
from trainer.monitor.steps import Step, Window, group_means, recorded_steps
from trainer.run_folder import Record, Run, prompt_id

WINDOW_STEPS = 8
"""Number of first steps, the reference, and of last steps that the signals may look at."""
FIRST_STEPS = 5
"""Number of steps after which signals are read."""
RINGING, OF_LAST = 3, 4
"""An alarm is raised when a signal has rung at so many of the last steps."""
SHOWN_COMPLETIONS, SHOWN_CHARS = 2, 100
QUALITY_STEPS, MAX_QUALITY_Z = 4, 3.0
"""The quality of a policy is taken over so many last steps, or more with few groups; no z-score counts for more."""


@dataclass(frozen=True)
class Alarm:
    """A signal that kept ringing, from `step` on."""

    step: int
    signal: str
    sentence: str
    completions: list[dict[str, Any]]
    """Two completions that show it, for different prompts if possible."""


@dataclass
class HackMonitor:
    """Watches a run: `judges` are the names of scores that the policy is not trained on."""

    judges: Sequence[str] = ()
    alarms: list[Alarm] = field(default_factory=list)
    signals: list[Signal] = field(default_factory=lambda: [*SIGNALS])
    """The signals to read; those of the judges are added."""

    def __post_init__(self) -> None:
        self.signals += map(JudgeSignal, self.judges)
        self._first: list[Step] = []
        self._last: deque[Step] = deque(maxlen=WINDOW_STEPS)
        self._rang = {signal.name: deque([False] * OF_LAST, OF_LAST) for signal in self.signals}

    @property
    def ringing(self) -> bool:
        """Whether any signal rings at the latest step."""
        return any(rang[-1] for rang in self._rang.values())

    def observe(self, step: Step) -> tuple[dict[str, float], list[Alarm]]:
        """Add a step; return the value of each signal, and the alarms that it raises."""
        if not step.groups:
            return {}, []
        if len(self._first) < WINDOW_STEPS:
            self._first.append(step)
        self._last.append(step)
        if len(self._last) <= FIRST_STEPS:
            return {}, []
        readings = {signal: signal.read(self._first, [*self._last]) for signal in self.signals}
        raised = []
        for signal, reading in readings.items():
            self._rang[signal.name].append(reading is not None and reading.rings)
            if reading is not None and reading.rings and self._is_new_alarm(signal):
                raised.append(Alarm(step.number, signal.name, reading.sentence, _shown(signal.examples([*self._last]))))
        self.alarms += raised
        return {signal.name: reading.value for signal, reading in readings.items() if reading is not None}, raised

    def quality(self) -> float | None:
        """Return how good the policy is by reward and judges: the mean of their z-scores against the first steps.

        A judge without scores in the first steps counts at no checkpoint. None too early, without a judge that counts,
        and while one that counts has no scores: qualities by different judges do not compare.
        """
        judges = [judge for judge in self.judges if len(group_means(self._first, judge)) >= MIN_GROUPS]
        shifts = [
            shift(group_means(self._first, score), last_group_means([*self._last], score)) for score in (None, *judges)
        ]
        scores = [max(-MAX_QUALITY_Z, min(MAX_QUALITY_Z, moved.z)) for moved in shifts if moved is not None]
        return fmean(scores) if judges and len(scores) == len(shifts) else None

    def _is_new_alarm(self, signal: Signal) -> bool:
        raised = any(alarm.signal == signal.name for alarm in self.alarms)
        return not raised and sum(self._rang[signal.name]) >= RINGING


def last_group_means(steps: Window, score: str | None) -> list[float]:
    """Return the group means of the last `QUALITY_STEPS` steps, or of the fewest more with `MIN_GROUPS` groups."""
    windows = (group_means(steps[-count:], score) for count in range(QUALITY_STEPS, len(steps)))
    return next((means for means in windows if len(means) >= MIN_GROUPS), group_means(steps, score))


def replay(run: Run) -> HackMonitor:
    """Return the monitor of a run folder after all its recorded steps."""
    monitor = HackMonitor(judges_of(run.rewards))
    observe_all(monitor, run)
    return monitor


def observe_all(monitor: HackMonitor, run: Run, last_step: int | None = None) -> None:
    """Pass a monitor the recorded steps of a run folder, up to the last one."""
    for step in recorded_steps(run.samples, run.metrics):
        if last_step is None or step.number <= last_step:
            monitor.observe(step)


def alarm_text(alarm: Alarm) -> str:
    """Return an alarm as lines: what happened, and the completions that show it."""
    lines = [f"hack monitor, step {alarm.step}, {alarm.signal}: {alarm.sentence}"]
    for record in alarm.completions:
        prompt, completion = (" ".join(str(record[key]).split()) for key in ("prompt", "completion"))
        lines.append(f"    {prompt[:60]} → {completion[:SHOWN_CHARS]}")
    return "\n".join(lines)


def judges_of(manifest: Mapping[str, Any]) -> list[str]:
    """Return the names of the judges in a run's rewards.json, and of its rewards with weight 0."""
    unweighted = [reward["name"] for reward in manifest.get("rewards", []) if reward.get("weight") == 0]
    return [*unweighted, *(judge["name"] for judge in manifest.get("judges", []))]


def _shown(examples: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the first completions, of different prompts if possible."""
    first_of = {prompt_id(record): record for record in reversed(examples)}
    distinct = [record for record in examples if first_of[prompt_id(record)] is record]
    shown = (distinct if len(distinct) >= SHOWN_COMPLETIONS else list(examples))[:SHOWN_COMPLETIONS]
    return [{key: record.get(key) for key in ("step", "prompt", "completion", "reward", "scores")} for record in shown]
