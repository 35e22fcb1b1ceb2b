from types import SimpleNamespace

import pytest

from trainer import time_limit
from trainer.time_limit import TimeLimit


@pytest.mark.parametrize(("minutes", "stops"), [(None, [False, False]), (2.0, [False, True]), (0.5, [True, True])])
def test_time_limit(monkeypatch, minutes, stops):
    """A training stops at the end of the step in which its minutes are over; they count from its start."""
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(time_limit.time, "monotonic", lambda: clock.now_s)
    limit = TimeLimit(minutes)
    clock.now_s += 600.0
    limit.on_train_begin()
    stopped = []
    for _ in stops:
        clock.now_s += 60.0
        control = SimpleNamespace(should_training_stop=False)
        limit.on_step_end(SimpleNamespace(ddp_timeout=1800), None, control)
        stopped.append(control.should_training_stop)
    assert stopped == stops
