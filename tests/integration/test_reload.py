"""Reloading rewards and keys of a running service, and clients that meet the change."""

import time

import httpx
import pytest

from remote_rewards import RewardClient
from reward_service.rewards.rule import RuleReward
from reward_service.settings import Settings
from reward_service.specs import RuleSpec
from shared.errors import RevisionChanged, Unauthorized, UnknownReward
from tests import faults
from tests.conftest import running_service
from tests.plain_rules import BANANA

ADMIN = {"Authorization": "Bearer the-key-of-the-admin"}
SCALED = "rewards: {{banana: {banana}, scaled: {{kind: composite, parts: {{banana: {part}}}}}}}"


def scaled(weight):
    return SCALED.format(banana=BANANA, part=f"{{weight: {weight}}}")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "rewards.yaml"
    path.write_text(scaled(1.0))
    return path


def reload(url, headers=ADMIN):
    return httpx.post(f"{url}/admin/reload", headers=headers, timeout=30)


def score(url, name="scaled"):
    with RewardClient(url) as client:
        return client.score(["Sure: banana"], rewards=[name]).rewards[name]


def test_reload_changes_the_revision(config):
    """After a reload the new configuration scores, under another revision."""
    with running_service(Settings(config=config, admin_key="the-key-of-the-admin")) as url:
        before = score(url)
        config.write_text(scaled(2.0))
        assert score(url) == before  # nothing changes before the reload
        info = reload(url).json()
        after = score(url)
        metrics = httpx.get(f"{url}/metrics").text
    assert (before.scores, after.scores) == ([1.99], [3.98])
    assert after.revision in {reward["revision"] for reward in info["rewards"]}
    assert before.revision not in metrics


def test_static_rewards_do_not_reload():
    """Rewards passed in by a program cannot be reloaded and stay in use."""
    rewards = {"banana": RuleReward("banana", RuleSpec.model_validate_json(BANANA))}
    with running_service(Settings(admin_key="the-key-of-the-admin"), rewards=rewards) as url:
        assert (reload(url).status_code, reload(url).json()["code"]) == (409, "not_reloaded")
        assert score(url, "banana").scores == [1.99]


def test_failed_reload(config):
    """A configuration that cannot be loaded leaves the previous one in use."""
    with running_service(Settings(config=config, admin_key="the-key-of-the-admin")) as url:
        before = score(url)
        config.write_text("rewards: {banana: {kind: rule, checks: [{check: contain, text: banana, points: 1}]}}")
        response = reload(url)
        assert (response.status_code, response.json()["code"]) == (409, "not_reloaded")
        assert "did you mean 'contains'" in response.json()["detail"]
        assert score(url) == before


def test_reload_needs_the_admin_key(config):
    """Reloading needs the admin key; an API key does not do."""
    settings = Settings(config=config, api_keys="the-key-of-a-caller", admin_key="the-key-of-the-admin")
    with running_service(settings) as url:
        assert reload(url, {}).status_code == 401
        assert reload(url, {"Authorization": "Bearer the-key-of-a-caller"}).status_code == 401
        assert reload(url).status_code == 200


@pytest.mark.parametrize("keys", [{}, {"api_keys": "the-key-of-a-caller"}], ids=["open", "with keys"])
@pytest.mark.parametrize("path", ["/admin/reload%0A", "/admin/reload%0a%0a", "/admin/reload/", "/admin/%72eload"])
def test_reload_path_spellings(config, path, keys):
    """No other spelling of the path avoids the admin key."""
    caller = {"Authorization": "Bearer the-key-of-a-caller"}
    with running_service(Settings(config=config, admin_key="the-key-of-the-admin", **keys)) as url:
        response = httpx.post(f"{url}{path}", headers=caller, timeout=30, follow_redirects=True)
    assert response.status_code in {401, 404}


def test_no_reload_without_admin_key(rules_url):
    """Without an admin key there is no reload path."""
    assert reload(rules_url).status_code == 404


@pytest.mark.parametrize("content", ["", " \n"])
def test_emptied_key_file(config, tmp_path, content):
    """A reload with an emptied key file fails, and the keys stay as they were."""
    keys = tmp_path / "keys"
    keys.write_text("the-key-of-a-caller\n")
    with running_service(Settings(config=config, api_key_file=keys, admin_key="the-key-of-the-admin")) as url:
        keys.write_text(content)
        response = reload(url)
        assert (response.status_code, "holds no key" in response.json()["detail"]) == (409, True)
        assert httpx.get(f"{url}/v1/rewards").status_code == 401
        assert httpx.get(f"{url}/v1/rewards", headers={"Authorization": "Bearer the-key-of-a-caller"}).is_success


def test_key_rotation(config, tmp_path):
    """A key is rotated without restarting service or client."""
    served, held = tmp_path / "served", tmp_path / "held"
    served.write_text("the-first-key-of-all\n")
    held.write_text("the-first-key-of-all")
    settings = Settings(config=config, api_key_file=served, admin_key="the-key-of-the-admin")
    with running_service(settings) as url, RewardClient(url, held) as client:
        assert client.score(["banana"]).rewards
        served.write_text("the-second-key-of-all\n")
        assert reload(url).status_code == 200
        with pytest.raises(Unauthorized):
            client.score(["banana"])
        held.write_text("the-second-key-of-all")
        assert client.score(["banana"]).rewards


def test_client_skips_other_revisions(rules_url, config):
    """The client skips replicas that serve another revision than the pinned one."""
    with running_service(Settings(config=config)) as other, RewardClient([other, rules_url]) as client:
        with RewardClient(rules_url) as alone:
            pinned = alone.score(["a"], rewards=["banana"]).rewards["banana"].revision
        for _ in range(5):
            assert client.score(["Sure: banana"], rewards=["banana"], revisions={"banana": pinned})
        with pytest.raises(RevisionChanged, match="it began with composite:long-ago"):
            client.score(["a"], rewards=["banana"], revisions={"banana": "composite:long-ago"})


@pytest.mark.parametrize("order", [1, -1])
def test_client_skips_missing_rewards(rules_url, config, order):
    """The client skips replicas that do not have the reward."""
    config.write_text(scaled(1.0).replace("scaled", "newer"))
    with running_service(Settings(config=config)) as newer, RewardClient([newer, rules_url][::order]) as client:
        assert all(client.score(["Sure: banana"], rewards=["newer"]) for _ in range(3))
        with pytest.raises(UnknownReward, match="newest"):
            client.score(["a"], rewards=["newest"])


def test_hedging(rules_url):
    """A request to a slow replica is hedged by another replica."""

    def slow(answer):
        time.sleep(3)
        return answer, False

    with (
        faults.fault_proxy(rules_url, *[slow] * 3) as (url, _),
        RewardClient([url, rules_url], hedge_after_s=0.1, timeout_s=10) as client,
    ):
        started_s = time.monotonic()
        scores = [client.score(["Sure: banana"], rewards=["banana"]).rewards["banana"].scores for _ in range(4)]
        assert scores == [[1.99]] * 4
        assert time.monotonic() - started_s < 3
