"""Public names: metrics for dashboards, the OpenAPI document for generated clients."""

import json
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from reward_service.batching.batcher import BatchDone
from reward_service.metrics import Metrics

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
METRICS = {
    "reward_requests": ("counter", {"route", "code"}),
    "reward_pinned_requests": ("counter", {"reward", "revision"}),
    "reward_texts": ("counter", {"reward"}),
    "reward_request_seconds": ("histogram", {"route"}),
    "reward_queue_seconds": ("histogram", {"reward"}),
    "reward_inference_seconds": ("histogram", {"reward"}),
    "reward_batch_size": ("histogram", {"reward"}),
    "reward_batch_tokens": ("histogram", {"reward"}),
    "reward_padding_ratio": ("histogram", {"reward"}),
    "reward_queue_depth": ("gauge", set()),
    "reward_backlog_seconds": ("gauge", set()),
    "reward_inflight": ("gauge", set()),
    "reward_rejected": ("counter", {"reason"}),
    "reward_nonfinite": ("counter", {"reward"}),
    "reward_truncated": ("counter", {"reward"}),
    "reward_cache_hits": ("counter", {"reward"}),
    "reward_cache_misses": ("counter", {"reward"}),
    "reward_score": ("histogram", {"reward"}),
    "reward_score_drift": ("gauge", {"reward", "direction"}),
    "reward_model_info": ("gauge", {"name", "revision", "kind", "backend", "dtype"}),
}


def test_metrics():
    """The metrics have exactly these names, types and labels."""
    collectors = [value for value in vars(Metrics()).values() if hasattr(value, "_labelnames")]
    assert {metric._name: (metric._type, set(metric._labelnames)) for metric in collectors} == METRICS


def test_batch_metrics():
    """A batch is recorded with its texts, its tokens with padding, and its times."""
    metrics = Metrics()
    metrics.observe("x", BatchDone(texts=3, tokens=60, padded_tokens=80, wait_s=0.5, compute_s=2.0))
    families = text_string_to_metric_families(metrics.render().decode())
    sums = {sample.name: sample.value for family in families for sample in family.samples if sample.name[-4:] == "_sum"}
    batch = {name: sums[f"reward_{name}_sum"] for name in ("batch_size", "batch_tokens", "padding_ratio")}
    assert batch == {"batch_size": 3.0, "batch_tokens": 80.0, "padding_ratio": 0.25}
    assert (sums["reward_queue_seconds_sum"], sums["reward_inference_seconds_sum"]) == (0.5, 2.0)


def test_openapi_document(rules_url):
    """The served OpenAPI document equals `docs/openapi.json`."""
    served = httpx.get(f"{rules_url}/openapi.json").json()
    stored = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    assert served == stored, (
        f"if the change is intended: curl -s http://127.0.0.1:8088/openapi.json | python -m json.tool > {DOCUMENT}"
    )
