"""What dashboard and alerts ask for is what the service exports."""

import json
import re
from pathlib import Path

import httpx
import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
FUNCTIONS = "abs by count histogram_quantile increase offset rate sum".split()


def queries():
    dashboard = json.loads((DEPLOY / "grafana/dashboards/reward.json").read_text())
    alerts = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    yield from (rule["expr"] for group in alerts["groups"] for rule in group["rules"])


@pytest.fixture(scope="module")
def exported(rules_url):
    httpx.post(f"{rules_url}/v1/score", json={"completions": ["Sure: banana"]})
    text = httpx.get(f"{rules_url}/metrics").text
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + part for name, kind in kinds.items() for part in parts.get(kind, ("",))}


@pytest.mark.parametrize("query", sorted(set(queries())))
def test_every_metric_that_is_asked_for_is_exported(exported, query):
    plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)", " ", query)
    names = set(re.findall(r"\b[a-z_]{2,}\b", plain)) - set(FUNCTIONS)
    assert names
    assert names <= exported | {"up"}  # which Prometheus makes itself
