"""The commands against a cluster in memory. tests/integration/test_ray.py runs them against Ray."""

import math
import sys

import pytest

import reward_service.cluster
from reward_service.cli import main
from reward_service.cluster.application import Deployed
from shared.schemas import RewardInfo
from tests.conftest import RULES


class FakeSession:
    """The functions of `reward_service.cluster.session`, with a cluster whose rewards have one revision at a time."""

    def __init__(self):
        self.revision, self.runs, self.host, self.deployed, self.settings = "rule:1", False, None, {}, None
        self.pinned_s = math.inf

    def connect(self, address):
        return self.runs

    def start_local(self, host):
        self.runs = True
        return "127.0.0.1:6379"

    def http_address(self, host, port):
        return self.host or host, port

    def load(self, options, settings, config, timeout_s):
        return [RewardInfo(name="banana", kind="rule", description="", revision=self.revision)]

    def deploy(self, name, options, settings, config, infos):
        self.settings = settings
        revisions = {info.name: info.revision for info in infos}
        self.deployed[name] = Deployed(
            name=name, status="RUNNING", message="", revisions=revisions, replicas=2, url=f"http://x/{name}"
        )

    def wait_until_running(self, name, timeout_s, report):
        return self.deployed[name]

    def applications(self):
        return list(self.deployed.values())

    def seconds_since_pinned(self, name):
        return self.pinned_s

    def retire(self, name):
        del self.deployed[name]


@pytest.fixture
def cluster(monkeypatch):
    fake = FakeSession()
    monkeypatch.setattr("reward_service.cluster.commands.find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "reward_service.cluster.session", fake)
    monkeypatch.setattr(reward_service.cluster, "session", fake, raising=False)
    return fake


def deploy(*arguments):
    return main(["deploy", "--config", str(RULES), *arguments])


def test_deploy_starts_ray_once(cluster, capsys):
    """The first deployment starts Ray and says so; the next one uses it."""
    assert deploy() == 0
    assert "started Ray on this machine at 127.0.0.1:6379" in capsys.readouterr().out
    assert deploy() == 0
    output = capsys.readouterr().out
    assert "started" not in output
    assert "replaced one after the other" in output


def test_second_revision(cluster, capsys):
    """Another revision is refused under the name of the first, and deployed under its own."""
    assert deploy("--name", "a") == 0
    cluster.revision = "rule:2"
    assert deploy("--name", "a") == 2
    assert "retire 'a' when no run needs it" in capsys.readouterr().err
    assert deploy("--name", "b") == 0
    assert {name: one.revisions["banana"] for name, one in cluster.deployed.items()} == {"a": "rule:1", "b": "rule:2"}


def test_retire(cluster, capsys):
    """Retiring removes the named application only; an unknown name is an error."""
    deploy("--name", "a")
    deploy("--name", "b")
    assert main(["retire", "a"]) == 0
    assert [*cluster.deployed] == ["b"]
    assert main(["retire", "a"]) == 2
    assert "there is no application 'a'; there are: b" in capsys.readouterr().err


def test_retire_spares_pinned_runs(cluster, capsys):
    """An application that a pinned run has called of late is retired by force only."""
    deploy("--name", "a")
    cluster.pinned_s = 120.0
    assert main(["retire", "a"]) == 2
    assert "a pinned run called 'a' 120 s ago" in capsys.readouterr().err
    assert main(["retire", "a", "--idle-s", "60"]) == 0
    deploy("--name", "a")
    assert main(["retire", "a", "--force"]) == 0


def test_applications(cluster, capsys):
    """Applications are listed; without a running Ray there is a sentence."""
    assert main(["applications"]) == 2
    assert "no Ray runs on this machine" in capsys.readouterr().err
    deploy("--name", "a")
    assert main(["applications"]) == 0
    assert "http://x/a" in capsys.readouterr().out


def test_key_beyond_loopback(cluster, capsys, monkeypatch):
    """A cluster that listens beyond loopback needs a key, whatever --host says."""
    cluster.host = "0.0.0.0"
    assert deploy() == 2
    assert "set REWARD_SERVICE_API_KEYS" in capsys.readouterr().err
    assert deploy("--insecure") == 0
    monkeypatch.setenv("REWARD_SERVICE_API_KEYS", "k" * 16)
    assert deploy() == 0
    assert [key.get_secret_value() for key in cluster.settings.api_keys] == ["k" * 16]


def test_wrong_configuration_first(cluster, tmp_path, capsys):
    """A wrong file or option is reported before Ray is started."""
    (tmp_path / "rewards.yaml").write_text("rewards: {x: {kind: rle}}")
    assert main(["deploy", "--config", str(tmp_path / "rewards.yaml")]) == 2
    assert deploy("--max-replicas", "1") == 2
    assert "max_replicas must be at least min_replicas" in capsys.readouterr().err
    assert not cluster.runs


def test_ray_is_missing(monkeypatch, capsys):
    """Without Ray, one sentence says what to install."""
    monkeypatch.setattr("reward_service.cluster.commands.find_spec", lambda name: None)
    assert deploy() == 2
    assert "pip install 'remote-rewards[service,ray]'" in capsys.readouterr().err
