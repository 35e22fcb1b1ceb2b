"""The dashboard and the alerts query metrics that the service exports."""

import json
import re
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from reward_service import errors

DEPLOY = Path(__file__).parents[2] / "deploy"
FUNCTIONS = "abs absent or by count histogram_quantile increase max offset rate sum".split()


def queries():
    dashboard = json.loads((DEPLOY / "grafana/dashboards/reward.json").read_text())
    alerts = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    yield from (rule["expr"] for group in alerts["groups"] for rule in group["rules"])


@pytest.fixture(scope="module")
def exported(rules_url):
    httpx.post(f"{rules_url}/v1/score", json={"completions": ["Sure: banana"]})
    families = [*text_string_to_metric_families(httpx.get(f"{rules_url}/metrics").text)]
    series = {sample.name for family in families for sample in family.samples}
    return series | {part for family in families if not family.samples for part in parts(family)}


def parts(family):
    """Return the series of a metric without samples."""
    if family.type == "histogram":
        return {family.name + part for part in ("_bucket", "_sum", "_count")}
    return {family.name + ("_total" if family.type == "counter" else "")}


@pytest.mark.parametrize("query", sorted(set(queries())))
def test_queried_metrics_exist(exported, query):
    """Every metric that the dashboard or an alert queries is exported."""
    plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)", " ", query)
    names = set(re.findall(r"\b[a-z_]{2,}\b", plain)) - set(FUNCTIONS)
    assert names
    assert names <= exported | {"up"}  # made by Prometheus itself


def test_queried_reasons_are_error_codes():
    """The reasons of rejections that an alert queries are error codes of the service."""
    reasons = {reason for query in queries() for reason in re.findall(r'reason="(\w+)"', query)}
    assert reasons
    assert reasons <= {error.code for error in vars(errors).values() if hasattr(error, "code")}
