"""What `make soak` does in full, in minutes: nothing may be lost; bounds on time are judged there alone."""

import pytest

from tests.soak import abuse, changes, faulty, lasting, load

SHORT = {
    "T1 batch invariance": lambda: load.invariance(texts=60, groupings=3),
    "T2 order and identity": lambda: faulty.many_callers(clients=50, requests=5),
    "T6 kill -9": lambda: faulty.kills(seconds=8, every_s=3),
    "T8 random faults": lambda: faulty.random_faults(requests=200),
    "T8 nothing but faults": lambda: faulty.nothing_but_faults(seconds=8),
    "T9 reloads": lambda: changes.reloads(times=4),
    "T9 reloads of a model": lambda: changes.reloaded_models(times=3),
    "T10 drains": lambda: changes.drains(times=2),
    "T11 slow callers": lambda: faulty.slow_callers(connections=100, seconds=1.5),
    "T12 callers that leave": lambda: abuse.leaving(requests=100),
    "T16 fairness": lambda: load.fairness(seconds=3),
    "T20 very many calls of a client": lambda: lasting.many_calls(calls=1000),
    "T21 everything at once": lambda: lasting.mixed(seconds=12, reload_every_s=2, growth_percent=15),
    "T22 malformed bodies": lambda: abuse.malformed(requests=500),
    "T24 tokenizer torture": lambda: abuse.torture(texts=500),
}


@pytest.mark.parametrize("trial", SHORT.values(), ids=SHORT)
def test_nothing_is_lost(trial):
    outcome = trial()
    assert not outcome.broken, outcome
