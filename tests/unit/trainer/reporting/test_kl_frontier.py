import pytest

from trainer.reporting.kl_frontier import final_kl, path, value_at
from trainer.run_folder import Run


def metrics(kls, rewards):
    points = zip(kls, rewards, strict=True)
    return [{"step": step, "kl": kl, "reward": reward} for step, (kl, reward) in enumerate(points, 1)]


STRAIGHT = metrics([0.01 * step for step in range(101)], [2.0 * 0.01 * step for step in range(101)])


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_reward_at_kl(level):
    """The reward at a KL is that of the step that first reached it."""
    assert value_at(STRAIGHT, level) == pytest.approx(2 * level, abs=0.01)


def test_kl_never_reached():
    """A KL that was never reached, or never logged, has no reward."""
    assert value_at(STRAIGHT, 3.0) is None
    assert value_at([{"step": 1, "reward": 1.0}], 0.1) is None
    assert path([]) == []


def test_final_kl_of_the_evaluation():
    """The final KL is that of the evaluation after training, if it was measured, rather than of the steps."""
    kls = [final_kl(Run({}, metrics([9.0], [0.0]), [], {}, {}, {"kl": kl}, {})) for kl in (0.25, None)]
    assert kls == [0.25, 9.0]


def test_final_kl():
    """Without one in the evaluation, the final KL is the mean of the last five steps."""
    run = Run({}, metrics([9.0] * 5 + [1.0, 2.0, 3.0, 4.0, 5.0], [0.0] * 10), [], {}, {}, {}, {})
    assert final_kl(run) == 3.0
    assert final_kl(Run({}, [{"step": 1}], [], {}, {}, {}, {})) is None
