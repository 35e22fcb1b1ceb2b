"""Changing rewards and keys while the service runs, and clients that meet the change."""

import time

import httpx
import pytest

from remote_rewards import RewardClient
from reward_service.config import RuleSpec
from reward_service.rewards.rule import RuleReward
from reward_service.settings import Settings
from shared.errors import RevisionChanged, Unauthorized, UnknownReward
from tests import faults
from tests.conftest import running_service

ADMIN = {"Authorization": "Bearer the-key-of-the-admin"}
SCALED = "rewards: {{banana: {{kind: rule, function: banana}}, scaled: {{kind: composite, parts: {{banana: {part}}}}}}}"


def scaled(weight):
    return SCALED.format(part=f"{{weight: {weight}}}")


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


def test_what_is_configured_anew_scores_after_a_reload_under_another_revision(config):
    with running_service(Settings(config=config, admin_key="the-key-of-the-admin")) as url:
        before = score(url)
        config.write_text(scaled(2.0))
        assert score(url) == before  # nothing changes by itself
        told = reload(url).json()
        after = score(url)
        metrics = httpx.get(f"{url}/metrics").text
    assert (before.scores, after.scores) == ([1.99], [3.98])
    assert after.revision in {reward["revision"] for reward in told["rewards"]}
    assert before.revision not in metrics


def test_rewards_that_a_program_has_given_are_not_reloaded_and_go_on():
    given = {"banana": RuleReward("banana", RuleSpec(kind="rule", function="banana"))}
    with running_service(Settings(admin_key="the-key-of-the-admin"), rewards=given) as url:
        assert (reload(url).status_code, reload(url).json()["code"]) == (409, "not_reloaded")
        assert score(url, "banana").scores == [1.99]


def test_a_configuration_that_cannot_be_loaded_leaves_the_old_one_serving(config):
    with running_service(Settings(config=config, admin_key="the-key-of-the-admin")) as url:
        before = score(url)
        config.write_text("rewards: {banana: {kind: rule, function: bannana}}")
        answer = reload(url)
        assert (answer.status_code, answer.json()["code"]) == (409, "not_reloaded")
        assert "did you mean 'banana'" in answer.json()["detail"]
        assert score(url) == before


def test_reloading_wants_the_admins_key_and_no_other(config):
    settings = Settings(config=config, api_keys="the-key-of-a-caller", admin_key="the-key-of-the-admin")
    with running_service(settings) as url:
        assert reload(url, {}).status_code == 401
        assert reload(url, {"Authorization": "Bearer the-key-of-a-caller"}).status_code == 401
        assert reload(url).status_code == 200


@pytest.mark.parametrize("keys", [{}, {"api_keys": "the-key-of-a-caller"}], ids=["open", "with keys"])
@pytest.mark.parametrize("path", ["/admin/reload%0A", "/admin/reload%0a%0a", "/admin/reload/", "/admin/%72eload"])
def test_no_other_spelling_of_its_path_is_a_way_around_the_admins_key(config, path, keys):
    caller = {"Authorization": "Bearer the-key-of-a-caller"}
    with running_service(Settings(config=config, admin_key="the-key-of-the-admin", **keys)) as url:
        answer = httpx.post(f"{url}{path}", headers=caller, timeout=30, follow_redirects=True)
    assert answer.status_code in {401, 404}


def test_without_an_admins_key_nobody_reloads(rules_url):
    assert reload(rules_url).status_code == 404


@pytest.mark.parametrize("left", ["", " \n"])
def test_a_key_file_that_holds_no_key_any_more_opens_nothing(config, tmp_path, left):
    keys = tmp_path / "keys"
    keys.write_text("the-key-of-a-caller\n")
    with running_service(Settings(config=config, api_key_file=keys, admin_key="the-key-of-the-admin")) as url:
        keys.write_text(left)
        answer = reload(url)
        assert (answer.status_code, "holds no key" in answer.json()["detail"]) == (409, True)
        assert httpx.get(f"{url}/v1/rewards").status_code == 401
        assert httpx.get(f"{url}/v1/rewards", headers={"Authorization": "Bearer the-key-of-a-caller"}).is_success


def test_keys_that_are_given_hold_at_least_one():
    with pytest.raises(ValueError, match="holds no key"):
        Settings(api_keys=" , ")


def test_a_key_is_changed_without_a_restart_of_either_side(config, tmp_path):
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


def test_a_replica_of_another_revision_is_passed_over(rules_url, config):
    with running_service(Settings(config=config)) as other, RewardClient([other, rules_url]) as client:
        with RewardClient(rules_url) as alone:
            pinned = alone.score(["a"], rewards=["banana"]).rewards["banana"].revision
        for _ in range(5):
            assert client.score(["Sure: banana"], rewards=["banana"], revisions={"banana": pinned})
        with pytest.raises(RevisionChanged, match="it began with composite:long-ago"):
            client.score(["a"], rewards=["banana"], revisions={"banana": "composite:long-ago"})


@pytest.mark.parametrize("order", [1, -1])
def test_a_reward_that_one_replica_has_not_is_had_of_another(rules_url, config, order):
    config.write_text(scaled(1.0).replace("scaled", "newer"))
    with running_service(Settings(config=config)) as newer, RewardClient([newer, rules_url][::order]) as client:
        assert all(client.score(["Sure: banana"], rewards=["newer"]) for _ in range(3))
        with pytest.raises(UnknownReward, match="newest"):
            client.score(["a"], rewards=["newest"])


def test_a_slow_replica_is_hedged_by_another(rules_url):
    def slow(answer):
        time.sleep(3)
        return answer, False

    with (
        faults.spoiling(rules_url, *[slow] * 3) as (url, _),
        RewardClient([url, rules_url], hedge_after_s=0.1, timeout_s=10) as client,
    ):
        began_s = time.monotonic()
        scores = [client.score(["Sure: banana"], rewards=["banana"]).rewards["banana"].scores for _ in range(4)]
        assert scores == [[1.99]] * 4
        assert time.monotonic() - began_s < 3
