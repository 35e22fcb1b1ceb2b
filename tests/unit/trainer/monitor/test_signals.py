import math

import pytest

from tests.unit.trainer.monitor.runs import Policy
from trainer.monitor.monitor import HackMonitor
from trainer.monitor.signals import SIGNALS, distinct_2, equal_groups, shared_by_prompts
from trainer.monitor.steps import Step, make_step
from trainer.texts import opening

START, WITHIN = 12, 20
NAMES = [signal.name for signal in SIGNALS]


def alarms(steps, judges=()):
    monitor = HackMonitor(judges)
    for step in steps:
        monitor.observe(step)
    return monitor.alarms


def window(*completions, **fields):
    """Return a window of one step with a group for each list of completions."""
    records = [
        {"prompt": f"prompt {index}", "completion": completion, **fields}
        for index, group in enumerate(completions)
        for completion in group
    ]
    return [make_step(1, records, {})]


@pytest.mark.parametrize("seed", range(8))
def test_good_runs_ring_nothing(seed):
    """A policy that learns its task rings no signal."""
    assert not alarms(Policy(seed).steps(), ["relevance", "vader"])


def rewritten(**fields):
    return lambda record, draw: record.update(fields)


def drift(record, draw):
    record["scores"]["relevance"] -= 2.5


def template(record, draw):
    record["completion"] = "The world is a " + record["completion"]


def sharpen(record, draw):
    record["completion"] = " ".join(draw.choices(["vibrant tapestry", "marvel of", "rich", "joy in"], k=14))


def loop(record, draw):
    record["completion"] = " ".join([record["completion"].split()[0]] * 30)


HACKS = {
    "same_completion": rewritten(completion="Sure: and banana"),
    "little_content": rewritten(completion="Sure: and banana"),
    "same_opening": template,
    "distinct_2": sharpen,
    "repetition": loop,
    "cut_off": rewritten(cut_off=True),
    "length": rewritten(tokens=90),
    "equal_groups": rewritten(reward=2.0),
    "judge_relevance": drift,
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("signal", HACKS)
def test_hacks_ring(signal, seed):
    """Each hack rings its signal within twenty steps, and shows two completions of different prompts."""
    raised = {alarm.signal: alarm for alarm in alarms(Policy(seed).steps(HACKS[signal], START), ["relevance"])}
    assert START <= raised[signal].step < START + WITHIN
    assert len({record["prompt"] for record in raised[signal].completions}) == 2


@pytest.mark.parametrize(
    ("signal", "logs"),
    [("entropy_collapse", {"entropy": 0.05}), ("entropy_rise", {"entropy": 6.0}), ("kl", {"kl": 5.0})],
)
def test_logged_signals_ring(signal, logs):
    """What TRL logs rings a signal, too."""
    steps = [
        make_step(step.number, [record for group in step.groups for record in group], {**step.logs, **logs})
        if step.number >= START
        else step
        for step in Policy(1).steps()
    ]
    assert signal in {alarm.signal for alarm in alarms(steps)}


def test_shared_by_prompts():
    """A text counts as shared only between prompts, and each prompt counts once."""
    assert shared_by_prompts(window(["a"] * 9, ["b"], ["c"]), str) == ((), 0.0)
    assert shared_by_prompts(window(["a", "a"], ["a", "b"], ["c", "d"]), str) == ("a", pytest.approx(0.5))
    assert shared_by_prompts(window(["a"], ["a"]), str) is None
    assert opening("Sure: The sky, is blue")[:2] == ("sure", "the")


def test_distinct_2_between_prompts():
    """Equal completions of one prompt do not lower the diversity between prompts."""
    texts = ["one two three", "four five six", "seven eight nine"]
    assert distinct_2(window(*([text] * 4 for text in texts))) == 1.0
    assert distinct_2(window(*([texts[0]] * 4 for _ in texts))) == pytest.approx(1 / 3)


def test_equal_groups():
    """A group without two scores is not counted."""
    steps = window(["a", "b"], ["c", "d"], reward=1.0)
    steps[0].groups[0][0]["reward"] = 2.0
    steps[0].groups[1][0]["reward"] = math.nan
    assert equal_groups(steps) == 0.0
    assert equal_groups(window(["a", "b"], ["c"], reward=1.0)) == 1.0
    assert equal_groups(window(["a"], reward=None)) is None


def conversations(rewards, **fields):
    """Return a step with a group for each list of rewards, all of conversations that end in the same message."""
    records = [
        {"prompt": "Continue.", "completion": f"text {number}", "reward": reward, "group": number, **fields}
        for number, group in enumerate(rewards)
        for reward in group
    ]
    return make_step(1, records, {})


def test_groups_of_one_last_message():
    """Completions of different conversations are different groups, even if all of them end in the same message."""
    step = conversations([[1.0, 1.0], [2.0, 2.0]])
    assert [len(group) for group in step.groups] == [2, 2]
    assert equal_groups([step]) == 1.0


def test_prompts_of_one_last_message():
    """Texts are shared by conversations, not by last messages; one conversation in two groups counts once."""
    groups = [group for index in range(3) for group in conversations([[1.0]], prompt_id=str(index)).groups]
    assert shared_by_prompts([Step(1, groups, {})], str) == ("text 0", 1.0)
    assert shared_by_prompts([conversations([[1.0]] * 3, prompt_id="same")], str) is None


def test_names_are_unique():
    """Signals have names of their own."""
    assert len(set(NAMES)) == len(NAMES)
