"""The alerts, evaluated by Prometheus's own promtool on the metrics of a real service.

promtool comes from `make promtool`.
"""

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import running_service
from tests.programs import find_program

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "alerts.yml"
KUBERNETES = DEPLOY / "kubernetes"
NAMES = [rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
PROMTOOL = find_program("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="make promtool")
Series = dict[str, str]
"""The values of each series, in promtool's notation, such as `0+60x60`: 60 more every minute, for an hour."""

COMPOSE = [{"job": "reward", "instance": f"10.0.0.{number}:8088"} for number in (1, 2)]


def operator_labels(revision: str) -> list[dict[str, str]]:
    """Return the labels that the operator gives to two pods of a revision, as the PodMonitor says."""
    monitor = yaml.safe_load((KUBERNETES / "monitoring/podmonitor.yaml").read_text())
    deployment = yaml.safe_load((KUBERNETES / "base/deployment.yaml").read_text())
    pod_labels = {**deployment["spec"]["template"]["metadata"]["labels"], "remote-rewards/revision": revision}
    spec, name = monitor["spec"], f"rl/{monitor['metadata']['name']}"
    labels = {"namespace": "rl", "container": "reward", "endpoint": "http"}
    labels["job"] = pod_labels[spec["jobLabel"]] if "jobLabel" in spec else name
    labels |= {re.sub(r"\W", "_", key): pod_labels[key] for key in spec.get("podTargetLabels", [])}
    return [labels | {"pod": f"reward-{revision}-{number}", "instance": f"{revision}-{number}"} for number in (1, 2)]


LAYOUTS = {
    "compose": COMPOSE,
    "operator": operator_labels("first"),
    "operator, two revisions": operator_labels("first") + operator_labels("second"),
}


@pytest.fixture(scope="module")
def samples():
    """The samples of a service that has scored enough for its drift to be measured."""
    with running_service() as url:
        for _ in range(2):
            texts = [f"Sure: {'banana ' * (number % 7)}" for number in range(1000)]
            httpx.post(f"{url}/v1/score", json={"completions": texts}, timeout=60).raise_for_status()
        families = [*text_string_to_metric_families(httpx.get(f"{url}/metrics").text)]
    return [sample for family in families for sample in family.samples if family.name.startswith("reward_")]


def healthy(samples: Iterable, targets: list[dict[str, str]]) -> Series:
    """Return an hour of the series of these replicas, each of which serves the revision of its deployment."""
    series = {series_name("up", target): "1+0x60" for target in targets}
    for target in targets:
        for sample in samples:
            labels = {**sample.labels, **target}
            if "revision" in sample.labels:
                labels["revision"] += target.get("remote_rewards_revision", "")
            series[series_name(sample.name, labels)] = f"{sample.value:g}+0x60"
    return series


def series_name(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}"


def changed(series: Series, target: dict[str, str], name: str, labels: dict[str, str], values: str) -> Series:
    """Return the series, in which one replaces all that a replica has under its name."""
    own = f'instance="{target["instance"]}"'
    others = {key: value for key, value in series.items() if not (key.startswith(name + "{") and own in key)}
    return {**others, series_name(name, {**labels, **target}): values}


FAULTS = {
    "a replica is down": ("up", {}, "0+0x60", "RewardServiceDown"),
    "requests are rejected": ("reward_rejected_total", {"reason": "overloaded"}, "0+60x60", "RewardRequestsRejected"),
    "the queue is long": ("reward_backlog_seconds", {}, "30+0x60", "RewardBacklog"),
    "deadlines pass": ("reward_rejected_total", {"reason": "deadline_exceeded"}, "0+60x60", "RewardDeadlineExceeded"),
    "scores are NaN": ("reward_nonfinite_total", {"reward": "banana"}, "0+1x60", "RewardNonFiniteScores"),
    "another revision": (
        *("reward_model_info", {"name": "banana", "revision": "other", "kind": "rule", "backend": "", "dtype": ""}),
        *("1+0x60", "RewardRevisionsDiffer"),
    ),
    "scores fall": ("reward_score_drift", {"reward": "x", "direction": "down"}, "0.4+0x60", "RewardScoresFall"),
    "scores drift": ("reward_score_drift", {"reward": "x", "direction": "up"}, "0.6+0x60", "RewardScoresDrift"),
}


def firing(name: str, series: Series, *alerts: str) -> dict:
    """Return a test of promtool: after half an hour these alerts fire, each once, and no others."""
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "30m",
                "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts],
            }
        ],
    }


@needs_promtool
@pytest.mark.parametrize("layout", LAYOUTS)
def test_alerts_fire(layout, samples, tmp_path):
    """No alert fires on healthy replicas, and each fires on its own fault, under Compose and under the operator."""
    targets = LAYOUTS[layout]
    series = healthy(samples, targets)
    tests = [firing("healthy", series), firing("no replica is left", {}, "RewardServiceDown")]
    for name, (metric, labels, values, alert) in FAULTS.items():
        tests.append(firing(name, changed(series, targets[0], metric, labels, values), alert))
    assert {alert for *_, alert in FAULTS.values()} == set(NAMES)
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    run = subprocess.run([PROMTOOL, "test", "rules", path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_promtool
def test_promtool_accepts_alerts():
    """Prometheus can load the rules."""
    run = subprocess.run([PROMTOOL, "check", "rules", ALERTS], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_operator_has_same_alerts():
    """The Prometheus operator loads the rules of Compose's Prometheus."""
    rule = yaml.safe_load((KUBERNETES / "monitoring/alerts.yaml").read_text())
    assert (rule["kind"], rule["spec"]) == ("PrometheusRule", yaml.safe_load(ALERTS.read_text())), "run `make alerts`"
    assert "alerts.yaml" in yaml.safe_load((KUBERNETES / "monitoring/kustomization.yaml").read_text())["resources"]
