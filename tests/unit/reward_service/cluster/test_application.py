import pytest
import yaml

from reward_service.cluster.application import (
    Deployed,
    ReplicaOptions,
    application_name,
    check_name,
    check_replacement,
    deployment_options,
    find,
    replica_settings,
    table,
    with_engines,
)
from reward_service.errors import ConfigError
from reward_service.settings import Settings
from shared.schemas import EngineInfo, RewardInfo

REVISIONS = {"banana": "rule:1", "sentiment": "sha256:2"}


def deployed(name="first", revisions=REVISIONS, **fields):
    defaults = {"status": "RUNNING", "message": "", "replicas": 2, "url": f"http://127.0.0.1:8088/{name}"}
    return Deployed(name=name, revisions=revisions, **{**defaults, **fields})


def test_names_differ_by_revision():
    """The default name is that of the file, with a digest that other revisions do not have."""
    name = application_name("My Rewards", REVISIONS)
    assert name.startswith("my-rewards-")
    assert name == application_name("My Rewards", dict(reversed(REVISIONS.items())))
    assert name != application_name("My Rewards", {**REVISIONS, "banana": "rule:2"})
    check_name(name)


@pytest.mark.parametrize("name", ["", "a/b", "A", "-a", "a" * 64, "a b"])
def test_bad_names(name):
    """A name that cannot be part of a path is refused."""
    with pytest.raises(ConfigError, match="cannot be the name"):
        check_name(name)


@pytest.mark.parametrize("existing", [None, deployed()])
def test_same_revisions_may_replace(existing):
    """An application may be new, or be replaced by one with the same revisions."""
    check_replacement(existing, dict(REVISIONS))


@pytest.mark.parametrize(
    "revisions", [{**REVISIONS, "banana": "rule:9"}, {"banana": "rule:1"}, {**REVISIONS, "more": "rule:3"}]
)
def test_other_revisions_may_not(revisions):
    """An application is never replaced by one with any other revision; the error names it and says what to do."""
    with pytest.raises(ConfigError, match=r"'first' serves other revisions.*--name, and retire 'first'"):
        check_replacement(deployed(), revisions)


def test_find_suggests_names():
    """An unknown application is refused with the names that exist."""
    assert find("first", [deployed()]).name == "first"
    with pytest.raises(ConfigError, match=r"no application 'frist'; did you mean 'first'\?; there are: first"):
        find("frist", [deployed()])


def test_engines_are_fixed():
    """The engine of each model is written into its reward; nothing else changes."""
    config = '{"rewards": {"yes": {kind: classifier, model: m, labels: {no: 1.0, "*": .inf}}, r: {kind: rule}}}'
    engine = EngineInfo(backend="openvino", dtype="int8")
    infos = [
        RewardInfo(name="yes", kind="classifier", description="", revision="1", engine=engine),
        RewardInfo(name="r", kind="rule", description="", revision="2"),
    ]
    content = yaml.safe_load(with_engines(config, infos))
    labels = {"no": 1.0, "*": float("inf")}
    model = {"kind": "classifier", "model": "m", "labels": labels, "backend": "openvino", "dtype": "int8"}
    assert content == {"rewards": {"yes": model, "r": {"kind": "rule"}}}


def test_options_become_rays():
    """Options are laid out as those of a deployment: a fixed number of replicas unless there is a maximum."""
    options = ReplicaOptions(min_replicas=3, cpus=2.5, gpus=1)
    ray_options = deployment_options(options, Settings(), REVISIONS, {"rule"})
    assert ray_options["ray_actor_options"] == {"num_cpus": 2.5, "num_gpus": 1}
    scaling = ray_options["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (3, 3)
    assert ray_options["user_config"] == {"revisions": REVISIONS}
    wider = deployment_options(options.model_copy(update={"max_replicas": 8}), Settings(), {}, {"rule"})
    assert wider["autoscaling_config"]["max_replicas"] == 8


def test_settings_of_a_replica():
    """A replica computes with its CPUs, cannot be reloaded alone, and tells clients how many replicas there are."""
    settings = Settings(admin_key="x" * 16)
    replica = replica_settings(settings, ReplicaOptions(cpus=2.5, min_replicas=3))
    assert (replica.threads, replica.admin_key, replica.spread) == (2, None, 3)
    assert replica_settings(Settings(threads=4), ReplicaOptions()).threads == 4


def test_table_shows_what_runs():
    """The table has a line for each reward, and below it why an application does not run."""
    broken = deployed("second", {}, status="DEPLOY_FAILED", message="no GPU", replicas=0)
    lines = table([broken, deployed()])
    assert [line.split() for line in lines[1:3]] == [
        ["first", "RUNNING", "2", "http://127.0.0.1:8088/first", "banana", "rule:1"],
        ["sentiment", "sha256:2"],
    ]
    assert lines[-1] == "second: no GPU"
    assert table([]) == ["there are no applications"]
