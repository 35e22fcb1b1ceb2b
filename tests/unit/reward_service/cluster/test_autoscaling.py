import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from reward_service.batching.batcher import BatchDone
from reward_service.cluster.autoscaling import (
    BACKLOG,
    BACKLOG_REASONS,
    BUSY,
    IN_FLIGHT,
    REJECTED,
    TARGET_IN_FLIGHT,
    TARGETS,
    BacklogPolicy,
    SignalReader,
    desired_replicas,
    targets_for,
)
from reward_service.metrics import Metrics

COMPONENTS = Path(__file__).parents[4] / "deploy/kubernetes/components"


@pytest.mark.parametrize(
    ("signals", "replicas"),
    [
        ({}, 1),
        ({BUSY: 0.7}, 1),
        ({BUSY: 0.8}, 2),
        ({BUSY: 4.0}, 6),
        ({REJECTED: 0.35}, 4),
        ({BUSY: 2.0, REJECTED: 0.05}, 3),
        ({BUSY: 1.0, BACKLOG: 18.0}, 4),
        ({IN_FLIGHT: 100.0}, 1),
    ],
)
def test_desired_replicas(signals, replicas):
    """Enough replicas run that no signal exceeds its target per replica; signals without a target do not count."""
    assert desired_replicas(signals, TARGETS) == replicas


def test_calls_count_for_functions():
    """Requests in flight count for rewards that call code, and for no others."""
    assert targets_for({"rule", "classifier"}) == TARGETS
    assert desired_replicas({IN_FLIGHT: 16.0}, targets_for({"function"})) == 4


def test_policy_sums_replicas():
    """The policy adds up what the replicas report, and ignores a cluster that reports nothing yet."""
    policy = BacklogPolicy(TARGETS)
    assert policy(SimpleNamespace(aggregated_metrics={BUSY: {"a": 0.9, "b": 0.8}})) == (3, {})
    assert policy(SimpleNamespace(aggregated_metrics=None)) == (1, {})


def test_signals_are_rates():
    """Counters are read as rates since the previous reading; only rejections for want of capacity count."""
    metrics = Metrics()
    metrics.record_rejection(BACKLOG_REASONS[0])
    reader = SignalReader(metrics, now_s=10.0)
    metrics.observe("x", BatchDone(texts=3, tokens=60, padded_tokens=80, wait_s=0.0, compute_s=1.5))
    metrics.observe("y", BatchDone(texts=3, tokens=60, padded_tokens=80, wait_s=0.0, compute_s=0.5))
    metrics.record_rejection(BACKLOG_REASONS[0])
    metrics.record_rejection("invalid")
    metrics.inflight.inc(3)
    metrics.record_loaded([], depth=float, backlog_s=lambda: 8.0)
    assert reader.read(now_s=14.0) == {BUSY: 0.5, REJECTED: 0.25, BACKLOG: 8.0, IN_FLIGHT: 3.0}
    assert reader.read(now_s=15.0) == {BUSY: 0.0, REJECTED: 0.0, BACKLOG: 8.0, IN_FLIGHT: 3.0}


def test_targets_equal_kedas():
    """Ray Serve and Kubernetes scale by the same metrics, reasons and targets."""
    scaled = yaml.safe_load((COMPONENTS / "keda/scaledobject.yaml").read_text())["spec"]
    triggers = [trigger["metadata"] for trigger in scaled["triggers"]]
    assert series_of(triggers) == TARGETS
    assert re.search(r'reason=~"([\w|]+)"', triggers[1]["query"])[1].split("|") == list(BACKLOG_REASONS)
    (patch,) = yaml.safe_load((COMPONENTS / "keda-functions/trigger.yaml").read_text())
    assert series_of([patch["value"]["metadata"]]) == {IN_FLIGHT: TARGET_IN_FLIGHT}


def series_of(triggers):
    """Return the series of KEDA's triggers with their thresholds."""
    return {re.search(r"reward_\w+", trigger["query"])[0]: float(trigger["threshold"]) for trigger in triggers}
