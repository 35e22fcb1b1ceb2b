import dataclasses
import json

from tests.unit.trainer.monitor.runs import Policy
from trainer.monitor.monitor import HackMonitor, observe_all, replay
from trainer.run_folder import RunFolder, read_run

JUDGED = {"rewards": [{"name": "banana", "weight": 1.0}], "judges": [{"name": "relevance"}]}


def collapse(record, draw):
    record["completion"] = "Sure: and banana"


def recorded(folder, **hack):
    """Write a run's steps as its trainer does; return the steps."""
    run_folder, steps = RunFolder.create(folder, overwrite=False), list(Policy(1).steps(**hack))
    run_folder.write_json("rewards.json", JUDGED)
    for step in steps:
        run_folder.append("metrics.jsonl", {"step": step.number, **step.logs})
        run_folder.append("samples.jsonl", *(record for group in step.groups for record in group))
    return steps


def test_replay(tmp_path):
    """A replay of the run folder raises the alarms that training raised."""
    monitor = HackMonitor(["relevance"])
    for step in recorded(tmp_path, hack=collapse):
        monitor.observe(step)
    again = replay(read_run(tmp_path))
    assert again.judges == ["relevance"]
    assert again.alarms == monitor.alarms
    assert len(monitor.alarms) > 1


def test_alarm_is_raised_once(tmp_path):
    """A signal raises one alarm, however long it rings, in a resumed run as well."""
    steps = recorded(tmp_path, hack=collapse)
    resumed = HackMonitor(["relevance"])
    observe_all(resumed, read_run(tmp_path), last_step=30)
    signals = [alarm.signal for alarm in resumed.alarms]
    assert len(set(signals)) == len(signals)
    assert [alarms for step in steps[30:] for alarms in resumed.observe(step)[1]] == []
    assert resumed.ringing


def test_alarms_are_json(tmp_path):
    """An alarm can be written as JSON."""
    recorded(tmp_path, hack=collapse)
    alarm = replay(read_run(tmp_path)).alarms[0]
    assert json.loads(json.dumps(dataclasses.asdict(alarm)))["completions"][0]["completion"] == "Sure: and banana"


def worse(record, draw):
    record["scores"]["relevance"] -= 3.0


def test_quality():
    """The quality of a policy falls with its judges, although the reward rises; without judges there is none."""
    good, hacked, blind = HackMonitor(["relevance"]), HackMonitor(["relevance"]), HackMonitor()
    for monitor, hack in ((good, None), (hacked, worse), (blind, None)):
        for step in Policy(2).steps(hack, count=20):
            monitor.observe(step)
    assert good.quality() > hacked.quality() + 1.0
    assert blind.quality() is None


def one_group(steps, **scores):
    """Keep one group of each step; its completions have these scores, too."""
    for step in steps:
        group = [{**record, "scores": {**record["scores"], **scores}} for record in step.groups[0]]
        yield dataclasses.replace(step, groups=[group])


def test_quality_of_one_group_a_step():
    """With one prompt a step, the quality is taken over as many last steps as have enough groups."""
    monitor = HackMonitor(["relevance"])
    qualities = [monitor.observe(step) and monitor.quality() for step in one_group(Policy(2).steps(count=20))]
    assert qualities[:5] == [None] * 5
    assert None not in qualities[5:]


def test_quality_without_a_judge():
    """A judge that scored nothing in the first steps does not count; without any other there is no quality."""
    alone, beside, broken = HackMonitor(["vader"]), HackMonitor(["vader", "relevance"]), HackMonitor(["relevance"])
    for monitor in (alone, beside, broken):
        for step in one_group(Policy(2).steps(count=20), relevance=None):
            monitor.observe(step)
    assert beside.quality() == alone.quality() is not None
    assert broken.quality() is None


def test_quality_while_a_judge_fails():
    """While a judge fails that has scored the first steps, there is no quality, because it would not compare."""
    monitor, steps = HackMonitor(["vader", "relevance"]), [*Policy(2).steps(count=20)]
    for step in [*steps[:10], *one_group(steps[10:], relevance=None)]:
        monitor.observe(step)
    assert monitor.quality() is None


def test_steps_without_completions():
    """A step that reuses a generation batch is not observed."""
    monitor = HackMonitor()
    for step in Policy(3).steps(collapse):
        monitor.observe(step)
        assert monitor.observe(dataclasses.replace(step, groups=[])) == ({}, [])
    assert monitor.alarms
