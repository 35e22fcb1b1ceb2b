import pytest
from prometheus_client.parser import text_string_to_metric_families

from reward_service.drift import WINDOW_SCORES
from reward_service.metrics import Metrics
from shared.schemas import ItemError, RewardInfo, RewardScores, ScoreResponse, Timing


@pytest.fixture
def metrics():
    """The metrics of a service with two loaded rewards."""
    metrics = Metrics()
    load(metrics, "first")
    return metrics


def load(metrics, revision):
    names = ("banana", "relevance")
    infos = [RewardInfo(name=name, kind="rule", description="", revision=revision) for name in names]
    metrics.record_loaded(infos, depth=float, backlog_s=float)


def record(metrics, scores, revision="first", name="banana"):
    errors = {str(i): ItemError(code="not_applicable", message="") for i, score in enumerate(scores) if score is None}
    rewards = {name: RewardScores(scores=scores, revision=revision, errors=errors)}
    metrics.record_response(ScoreResponse(rewards=rewards, request_id="", timing=Timing(queue_ms=0, compute_ms=0)))


def drifts(metrics):
    families = text_string_to_metric_families(metrics.render().decode())
    samples = [sample for family in families for sample in family.samples if sample.name == "reward_score_drift"]
    return {(sample.labels["reward"], sample.labels["direction"]): sample.value for sample in samples}


def test_drift(metrics):
    """Each reward's recent scores are compared with its own first ones; nulls are not counted."""
    record(metrics, [0.5, None] * (WINDOW_SCORES - 1))
    assert drifts(metrics) == {}
    record(metrics, [0.5])
    record(metrics, [0.9, None, 0.9, 0.4] * (WINDOW_SCORES // 10))
    record(metrics, [0.2] * (2 * WINDOW_SCORES), name="relevance")
    assert drifts(metrics) == {
        ("banana", "up"): pytest.approx(0.2),
        ("banana", "down"): pytest.approx(0.1),
        ("relevance", "up"): 0.0,
        ("relevance", "down"): 0.0,
    }


def test_drift_after_reload(metrics):
    """A reload starts new windows, which scores of the replaced rewards do not enter."""
    record(metrics, [0.5] * WINDOW_SCORES)
    load(metrics, "second")
    assert drifts(metrics) == {}
    record(metrics, [0.5] * WINDOW_SCORES, "first")
    assert drifts(metrics) == {}
    record(metrics, [0.9] * WINDOW_SCORES, "second")
    assert drifts(metrics) == {("banana", "up"): 0.0, ("banana", "down"): 0.0}


def test_total(metrics):
    """A series is summed over all values of its labels, or over those that are asked for."""
    for code in ("overloaded", "invalid", "invalid"):
        metrics.record_rejection(code)
    assert metrics.total("reward_rejected_total") == 3
    assert metrics.total("reward_rejected_total", reason=["invalid", "unknown"]) == 2
    assert metrics.total("reward_inference_seconds_sum") == 0
