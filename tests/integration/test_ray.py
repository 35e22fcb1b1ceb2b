"""Replicas on a real Ray, started by `reward-service deploy`. `make ray-test` installs Ray and runs them."""

import asyncio
from contextlib import aclosing

import httpx
import pytest
from transformers import BertConfig, BertForSequenceClassification

from remote_rewards import RewardClient
from reward_service.metrics import Metrics
from shared.schemas import REVISION_HEADER
from tests.conftest import RULES, wait_for
from tests.ray_cluster import ray_cluster
from tests.small_models import logits_alone, save_folder
from tests.soak.base import Tally, call_repeatedly

pytest.importorskip("ray", reason="pip install 'remote-rewards[ray]'")
KEY = "a-key-of-twenty-chars"
CALLERS = 4


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(KEY) as cluster:
        cluster.deploy("first", "--config", str(RULES))
        yield cluster


@pytest.fixture(scope="module")
def slow_rewards(tmp_path_factory):
    path = tmp_path_factory.mktemp("slow") / "rewards.yaml"
    path.write_text("rewards: {slow: {kind: function, object: 'tests.reward_functions:slow', columns: []}}")
    return path


def scores_while(url, act):
    """Score while `act` runs on a thread, and a little longer. Return the tally."""
    tally = Tally()

    async def run():
        acting = asyncio.create_task(asyncio.to_thread(act))
        async with aclosing(RewardClient(url, api_key=KEY)) as client:
            calls = [
                call_repeatedly(client, tally, lambda: not acting.done(), max_texts=32, seed=s) for s in range(CALLERS)
            ]
            await asyncio.gather(acting, *calls)

    asyncio.run(run())
    return tally


def test_score_and_pin(cluster):
    """Replicas score, both take part, a key is needed, and a pin to another revision is refused with 412."""
    url, authorized = f"{cluster.url('first')}/v1/score", {"Authorization": f"Bearer {KEY}"}
    body = {"completions": ["Sure: banana"], "rewards": ["banana"]}
    assert httpx.post(url, json=body).status_code == 401
    responses = [httpx.post(url, json=body, headers=authorized) for _ in range(20)]
    assert [response.json()["rewards"]["banana"]["scores"] for response in responses] == [[1.99]] * 20
    assert len({response.headers["X-Reward-Instance"] for response in responses}) == 2
    revision = responses[0].json()["rewards"]["banana"]["revision"]
    for pinned, status in ((revision, 200), ("rule:other", 412)):
        headers = {**authorized, REVISION_HEADER: f"banana={pinned}"}
        assert httpx.post(url, json=body, headers=headers).status_code == status


def test_metrics(cluster):
    """Ray exports the metrics of every replica, under the service's names after a prefix."""
    url, headers = f"{cluster.url('first')}/v1/score", {"Authorization": f"Bearer {KEY}"}

    def scored_by_replica():
        httpx.post(url, json={"completions": ["a"], "rewards": ["banana"]}, headers=headers).raise_for_status()
        samples = [sample for sample in cluster.metrics() if sample.name == "ray_reward_texts_total"]
        return [sample.value for sample in samples if sample.labels["application"] == "first"]

    wait_for(lambda: len(scored_by_replica()) == 2 and min(scored_by_replica()) > 0, timeout_s=60)
    names = {sample.name for sample in cluster.metrics()}
    assert {f"ray_{sample.name}" for sample in Metrics().samples()} <= names
    assert {"ray_reward_request_seconds_bucket", "ray_reward_model_info", "ray_reward_requests_total"} <= names


def test_model_reward(cluster, tmp_path):
    """Replicas of a model have one engine and one revision, and score as transformers does."""
    folder, config = tmp_path / "model", tmp_path / "rewards.yaml"
    model, tokenizer = save_folder(folder, BertForSequenceClassification, BertConfig, num_labels=1)
    config.write_text(f"rewards: {{rating: {{kind: regressor, model: {folder}}}}}")
    url = f"{cluster.deploy('model', '--config', str(config))}/v1/score"
    body, headers = {"completions": ["a banana"], "rewards": ["rating"]}, {"Authorization": f"Bearer {KEY}"}
    responses = [httpx.post(url, json=body, headers=headers) for _ in range(20)]
    assert len({response.headers["X-Reward-Instance"] for response in responses}) == 2
    ratings = [response.json()["rewards"]["rating"] for response in responses]
    assert len({rating["revision"] for rating in ratings}) == len({rating["scores"][0] for rating in ratings}) == 1
    expected = logits_alone(model, tokenizer("a banana", return_tensors="pt"))
    assert ratings[0]["scores"] == pytest.approx(expected, abs=0.05)
    assert cluster.run("retire", "model").returncode == 0


def test_killed_replica(cluster):
    """A replica that is killed costs no score, and is replaced."""

    def kill():
        (victim, *_) = cluster.replicas("first")
        victim.kill()
        wait_for(lambda: len(cluster.replicas("first")) == 2, timeout_s=60)

    tally = scores_while(cluster.url("first"), kill)
    assert tally.calls > CALLERS
    assert tally.lost == 0, tally.errors
    assert max(tally.latencies_s) < 10


def test_second_revision(cluster, tmp_path):
    """Another revision is refused in place, and deployed beside the first without a failed call; then it is retired."""
    other = tmp_path / "rewards.yaml"
    other.write_text("rewards: {banana: {kind: rule, checks: [{check: length, unit: words, factor: 1.0}]}}")
    refused = cluster.run("deploy", "--name", "first", "--config", str(other))
    assert (refused.returncode, "serves other revisions" in refused.stderr) == (2, True)
    tally = scores_while(cluster.url("first"), lambda: cluster.deploy("second", "--config", str(other)))
    assert tally.lost == 0, tally.errors
    with RewardClient(cluster.url("second"), api_key=KEY) as client:
        pins = client.info().revisions()
        assert client.score(["a banana"], revisions=pins).rewards["banana"].scores == [2.0]
    lines = cluster.run("applications").stdout.splitlines()
    assert [line.split()[:3] for line in lines if "http" in line] == [
        ["first", "RUNNING", "2"],
        ["second", "RUNNING", "2"],
    ]
    spared = cluster.run("retire", "second")
    assert (spared.returncode, "a pinned run called 'second'" in spared.stderr) == (2, True)
    assert cluster.run("retire", "second", "--force").returncode == 0
    assert "second" not in cluster.run("applications").stdout


def test_autoscaling(cluster, slow_rewards):
    """Under load on a slow reward, one replica becomes four."""
    arguments = ["--config", str(slow_rewards), "--min-replicas", "1", "--max-replicas", "4"]
    url = cluster.deploy("slow", *arguments, "--upscale-delay-s", "2")

    async def call_until(client, reached):
        while not reached.done():
            await client.ascore(["a"], rewards=["slow"])

    async def load():
        async with aclosing(RewardClient(url, api_key=KEY)) as client:
            reached = asyncio.create_task(asyncio.to_thread(wait_for, lambda: len(cluster.replicas("slow")) == 4, 60))
            await asyncio.gather(reached, *(call_until(client, reached) for _ in range(32)))

    asyncio.run(load())
