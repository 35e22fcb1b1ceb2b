"""The soak trials by name, with the arguments of their full form and of their short form."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.soak import abuse, endurance, failures, functions, load, reloads, replicas
from tests.soak.base import Outcome


@dataclass(frozen=True)
class Trial:
    """A function that returns an `Outcome`, and its arguments."""

    function: Callable[..., Outcome]
    full: dict[str, Any]
    """For `make soak`."""
    short: dict[str, Any] | None = None
    """For `make test`; None if a few seconds are too short for it."""

    @property
    def name(self) -> str:
        """The trial's name in the table and on the command line."""
        return self.function.__name__

    def run(self, arguments: dict[str, Any]) -> Outcome:
        """Run it. Raises AssertionError if the service is unusable."""
        outcome = self.function(**arguments)
        if outcome.lost:
            outcome.violations.append(f"{outcome.lost} lost")
        return outcome


TRIALS = {
    trial.name: trial
    for trial in (
        Trial(load.batch_invariance, {"texts": 2000, "groupings": 16}, {"texts": 60, "groupings": 3}),
        Trial(load.concurrent_callers, {"callers": 200, "calls": 50}, {"callers": 50, "calls": 5}),
        Trial(failures.service_kills, {"seconds": 60, "every_s": 5}, {"seconds": 8, "every_s": 3}),
        Trial(failures.random_faults, {"requests": 10_000}, {"requests": 200}),
        Trial(failures.permanent_faults, {"seconds": 25}, {"seconds": 8}),
        Trial(replicas.replica_joins, {"seconds": 30}, {"seconds": 2, "within_s": 6.0}),
        Trial(replicas.silent_replica, {"seconds": 60}, {"seconds": 6}),
        Trial(replicas.revision_beside_revision, {"seconds": 60}, {"seconds": 4}),
        Trial(reloads.config_reloads, {"reloads": 20}, {"reloads": 4}),
        Trial(reloads.model_reloads, {"reloads": 20}, {"reloads": 3}),
        Trial(reloads.drains, {"drains": 50}, {"drains": 2}),
        Trial(functions.hanging_functions, {"calls": 60}, {"calls": 4}),
        Trial(abuse.slow_connections, {"connections": 200, "seconds": 10}, {"connections": 100, "seconds": 1.5}),
        Trial(abuse.disconnects, {"requests": 1000}, {"requests": 100}),
        Trial(load.overload, {"seconds": 30}),
        Trial(load.fairness, {"seconds": 20}, {"seconds": 1}),
        Trial(endurance.many_texts, {"texts": 1_000_000}),
        Trial(endurance.many_calls, {"calls": 1_000_000}, {"calls": 400}),
        Trial(
            endurance.mixed_load,
            {"seconds": 1800},
            {"seconds": 12, "reload_every_s": 2, "max_growth_percent": 15},
        ),
        Trial(abuse.malformed_bodies, {"requests": 10_000}, {"requests": 300}),
        Trial(abuse.tokenizer_stress, {"texts": 5000}, {"texts": 500}),
    )
}
