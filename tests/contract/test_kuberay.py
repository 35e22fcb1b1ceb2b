"""The manifests for KubeRay: strictly valid where Kubernetes has a schema, and about what the service really has."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from reward_service.cluster.application import RAY_ENVIRONMENT, ApplicationArguments, check_name
from reward_service.config import read_config
from reward_service.settings import Settings
from tests.contract.test_kubernetes import check_valid, kustomize, needs_kubectl

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "ray"
SERVICE = yaml.safe_load((FOLDER / "rayservice.yaml").read_text())["spec"]
SERVE_CONFIG = yaml.safe_load(SERVICE["serveConfigV2"])
CLUSTER = SERVICE["rayClusterConfig"]
PODS = [group["template"] for group in (CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"])]
CONTAINERS = [container for pod in PODS for container in pod["spec"]["containers"]]


@needs_kubectl
def test_manifests_are_valid(tmp_path):
    """Every object, and every pod of the RayService, conforms to the schemas of Kubernetes, without unknown fields."""
    documents = [document for document in kustomize(FOLDER) if document["kind"] != "RayService"]
    pods = [
        {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": f"pod-{index}"}, "template": pod}
        for index, pod in enumerate(PODS)
    ]
    assert (len(documents), len(pods)) == (5, 2)
    check_valid([*documents, *pods], tmp_path / "manifest.yaml")


def test_serve_config_is_valid():
    """Ray Serve accepts the applications."""
    schema = pytest.importorskip("ray.serve.schema")
    assert schema.ServeDeploySchema.model_validate(SERVE_CONFIG)


@pytest.mark.parametrize("application", SERVE_CONFIG["applications"], ids=lambda application: application["name"])
def test_applications_are_ours(application):
    """An application is built by a function of ours, from arguments that it takes, at a path of its name."""
    check_name(application["name"])
    assert application["route_prefix"] == f"/{application['name']}"
    arguments = ApplicationArguments.model_validate(application["args"])
    assert read_config(FOLDER / arguments.config.name).rewards
    module, function = application["import_path"].split(":")
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    assert function in {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("container", CONTAINERS, ids=["head", "worker"])
def test_containers(container):
    """Every container has the environment that Ray needs, API keys, and the files of the applications."""
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert RAY_ENVIRONMENT.items() <= environment.items()
    ours = {name.removeprefix("REWARD_SERVICE_").lower() for name in environment if name.startswith("REWARD_SERVICE_")}
    assert "api_key_file" in ours <= set(Settings.model_fields)
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(Path(one["args"]["config"]).parent) for one in SERVE_CONFIG["applications"]} <= mounted
    assert SERVE_CONFIG["http_options"]["port"] in {port["containerPort"] for port in container["ports"]}


@needs_kubectl
def test_replicas_are_scraped():
    """Ray's agents are scraped once for the job of the alerts, and their samples get the names that the service has."""
    monitors = [document for document in kustomize(FOLDER / "monitoring") if document["kind"] == "PodMonitor"]
    (monitor,) = [
        monitor["spec"]
        for monitor in monitors
        if all(monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items() for pod in PODS)
    ]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert all({"name": endpoint["port"], "containerPort": 8080} in container["ports"] for container in CONTAINERS)
    assert {"targetLabel": "job", "replacement": "reward"} in endpoint["relabelings"]
    (renamed,) = [rule for rule in endpoint["metricRelabelings"] if rule["targetLabel"] == "__name__"]
    assert re.fullmatch(renamed["regex"], "ray_reward_texts_total")[1] == "reward_texts_total"
