"""The sentiment reward over HTTP equals a local reward function on the pipeline of transformers."""

import random

import httpx
import pytest
import torch
from transformers import pipeline

from remote_rewards import RewardClient
from reward_service.settings import Settings
from shared.model_store import resolve
from shared.model_store.embedded import ratings
from tests.conftest import cases, running_service, spelled_out

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def classify():
    classifier = pipeline("text-classification", model=str(resolve("embedded:sentiment")), device="cpu")

    def local_reward(texts):
        """Score as a single-process training script does, with the reward as a local function."""
        with torch.inference_mode():
            predictions = [classifier(text, truncation=True, max_length=512)[0] for text in texts]
        return [2.0 * p["score"] if p["label"] == "POSITIVE" else -1.0 * p["score"] for p in predictions]

    return local_reward


def test_sentiment_table(models_url, classify):
    """The table of cases holds over HTTP; a completion in which nobody says anything is null."""
    table = [case.values[0] for case in cases("sentiment_cases.jsonl")]
    with RewardClient(models_url) as client:
        response = client.score([spelled_out(case, "completion") for case in table], rewards=["sentiment"])
    seen = [spelled_out(case, "seen") for case in table]
    scores = response.rewards["sentiment"].scores
    assert [index for index, score in enumerate(scores) if score is None] == [
        i for i, text in enumerate(seen) if not text
    ]
    right = [score if text else None for text, score in zip(seen, classify(seen), strict=True)]
    assert scores == pytest.approx(right, abs=1e-5)


def test_truncated(models_url):
    """Texts that were read in part are listed."""
    with RewardClient(models_url) as client:
        reward = client.score(["short", "x" * 512, "x" * 513], rewards=["sentiment"]).rewards["sentiment"]
    assert reward.truncated == [2]


def test_equals_pipeline(models_url, classify):
    """A thousand texts score as in transformers' pipeline."""
    texts = [rating.text for rating in ratings.load()]
    chosen = random.Random(0).sample(texts, 1000)
    with RewardClient(models_url) as client:
        scores = client.score(chosen, rewards=["sentiment"]).rewards["sentiment"].scores
    assert scores == pytest.approx(classify([text[-512:] for text in chosen]), abs=1e-5)


def test_valence_order(models_url):
    """The rating is low for hate, near zero for a plain fact, high for joy."""
    texts = [
        "I hate libraries, they are horrible and sad.",
        "A library is a place where books are kept.",
        "Oh wow, libraries are absolutely amazing, magical places full of joy!",
    ]
    with RewardClient(models_url) as client:
        hate, plain, joy = client.score(texts, rewards=["valence"]).rewards["valence"].scores
    assert hate < -1.5 < plain < 1.5 < joy
    assert abs(plain) < 1.2


def test_configured_classifier(tmp_path):
    """Any classifier can be configured in its place."""
    config = tmp_path / "rewards.yaml"
    config.write_text(
        f"""
rewards:
  mine:
    kind: classifier
    model: {resolve("embedded:sentiment")}
    last_chars: 512
    labels: {{POSITIVE: 2.0, "*": -1.0}}
"""
    )
    with running_service(Settings(config=config)) as url, RewardClient(url) as client:
        scores = client.score(["What a wonderful day!", "This is horrible."]).rewards["mine"].scores
    assert scores[0] > 1.5
    assert scores[1] < -0.5


def test_cache_hit_equal(models_url):
    """A cache hit has the same score."""
    texts = ["A text that nobody has asked for yet.", "Another of them.", "A text that nobody has asked for yet."]
    with RewardClient(models_url) as client:
        first, second = (client.score(texts, rewards=["sentiment"]).rewards["sentiment"] for _ in range(2))
    assert first == second
    assert first.scores[0] == first.scores[2]


def test_cache_metrics(models_url):
    """The metrics count cache hits and misses."""

    def looked_up():
        lines = httpx.get(f"{models_url}/metrics").text.splitlines()
        names = ("reward_cache_hits_total", "reward_cache_misses_total")
        return [sum(float(x.split()[-1]) for x in lines if x.startswith(f'{name}{{reward="valence"')) for name in names]

    hits, misses = looked_up()
    with RewardClient(models_url) as client:
        client.score(["One that is new here.", "Two that is new here."], rewards=["valence"])
        client.score(["Two that is new here.", "Three that is new here."], rewards=["valence"])
    assert looked_up() == [hits + 1, misses + 3]


def test_independent_of_batch():
    """A score does not depend on the rest of its batch."""
    texts = [f"This is number {i}, and it is fine. " * (i % 7 + 1) for i in range(64)]
    with running_service(Settings(backend="torch", dtype="float32", cache_size=0)) as url, RewardClient(url) as client:
        batched = client.score(texts, rewards=["sentiment"]).rewards["sentiment"].scores
        alone = [client.score([text], rewards=["sentiment"]).rewards["sentiment"].scores[0] for text in texts]
    assert batched == pytest.approx(alone, abs=1e-5)
