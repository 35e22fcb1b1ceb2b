"""What trainers get from the service: the native scores in order, and never a number that nobody computed."""

import pytest

from reward_service.settings import Settings
from tests.clients.packages import Client, installed
from tests.conftest import DATA, native_scores, running_service
from tests.integration.test_formats import Failing, rollout
from tests.soak.base import RULES
from tests.soak.supervisor import Supervisor

pytestmark = pytest.mark.clients
TEXTS = ["word " * index for index in range(200)]
NEMO_GYM = (
    "nemo-gym==0.7.0",
    "antlr4-python3-runtime==4.9.3",
    "hydra-core==1.3.8",
    "itsdangerous==2.2.0",
    "omegaconf==2.4.0",
    "openai==3.57.0",
    "orjson==3.13.0",
    "pydot==4.0.1",
    "ray==2.60.0",
    "sniffio==1.3.1",
    "yappi==1.7.6",
)


@pytest.fixture(scope="module")
def openrlhf():
    with Client(installed("openrlhf==0.11.2"), "call_openrlhf.py") as client:
        yield lambda url, *pairs: client.call(url, pairs)


@pytest.fixture(scope="module")
def llamafactory():
    with Client(installed("llamafactory==0.9.5"), "call_llamafactory.py") as client:
        yield lambda url, *texts, query="": client.call(f"{url}/v1/score/evaluation{query}", texts)


@pytest.fixture(scope="module")
def nemo_gym():
    with Client(installed(*NEMO_GYM), "call_nemo_gym.py") as client:
        yield lambda url, *texts: client.call(url, [rollout(text) for text in texts])


@pytest.fixture
def failing():
    reward = Failing()
    with running_service(rewards={"plain": reward}) as url:
        yield reward, url


def test_openrlhf_client(rules_url, openrlhf):
    """200 concurrent rollouts get their own native scores; markers and prompts are not scored."""
    url = f"{rules_url}/get_reward?reward=banana"
    outputs = openrlhf(url, *(["a prompt: ", f"{text}<|im_end|>"] for text in TEXTS))
    scores = native_scores(rules_url, "banana", TEXTS)
    assert [output["reward"] for output in outputs] == [[score] for score in scores]
    assert outputs[1]["extra_logs"] == {"banana": [scores[1]]}


def test_openrlhf_client_and_failures(failing, openrlhf):
    """An overloaded service is tried again; a missing score is no reward."""
    reward, url = failing
    reward.overloaded = 2
    outputs = openrlhf(f"{url}/get_reward", ["", "a"], ["", "null"])
    assert [output["reward"] for output in outputs] == [[1.0], None]


def test_openrlhf_client_and_invalid_requests(openrlhf):
    """A rollout that is refused gets no reward; one that names the reward gets its score."""
    with running_service(Settings(config=DATA / "several.yaml")) as url:
        assert openrlhf(f"{url}/get_reward", ["", "a b"])[0]["reward"] is None
        assert openrlhf(f"{url}/get_reward?reward=first", ["", "a b"])[0]["reward"] == [2.0]


def test_openrlhf_client_and_restart(openrlhf):
    """A rollout over a restart gets the right reward or none."""
    with Supervisor(RULES) as service:
        url = f"{service.url}/get_reward"
        service.kill()
        assert openrlhf(url, ["", "Sure: banana"])[0]["reward"] in ([1.99], None)
        service.wait_until_ready()
        assert openrlhf(url, ["", "Sure: banana"])[0]["reward"] == [1.99]


def test_llamafactory_client(rules_url, llamafactory):
    """200 texts get their native scores, in float32."""
    scores = llamafactory(rules_url, *(f"{text}</s>" for text in TEXTS))
    assert scores == pytest.approx(native_scores(rules_url, "banana", TEXTS), rel=1e-6)


def test_llamafactory_client_and_failures(failing, llamafactory):
    """Overload makes the call wait; a missing score, an invalid text or a lost service raises an error."""
    reward, url = failing
    reward.overloaded = 3
    assert llamafactory(url, "a") == [1.0]
    assert llamafactory(url, "null") == llamafactory(url, 1) == {"raised": "KeyError: 'scores'"}
    assert "ConnectionError" in llamafactory("http://127.0.0.1:9", "a")["raised"]


def test_llamafactory_client_and_restart(llamafactory):
    """A call while the service is gone raises; the next one gets its scores."""
    with Supervisor(RULES) as service:
        service.kill()
        during = llamafactory(service.url, "Sure: banana")
        assert "raised" in during or during == pytest.approx([1.99])
        service.wait_until_ready()
        assert llamafactory(service.url, "Sure: banana") == pytest.approx([1.99])


def test_trainers_and_sentiment(models_url, openrlhf, llamafactory, nemo_gym):
    """A model's scores are the native ones, in float32 for LLaMA-Factory."""
    texts, reward = ["I love it.", "What a terrible day."], "?reward=sentiment"
    native = native_scores(models_url, "sentiment", texts)
    outputs = openrlhf(f"{models_url}/get_reward{reward}", *(["How was it? ", f"{text}</s>"] for text in texts))
    assert [output["reward"] for output in outputs] == [[score] for score in native]
    scores = llamafactory(models_url, *(f"{text}</s>" for text in texts), query=reward)
    assert scores == pytest.approx(native, rel=1e-6)
    assert nemo_gym(models_url, *texts) == native  # the default reward


def test_nemo_gym_client(rules_url, nemo_gym):
    """200 concurrent rollouts get their own native scores."""
    assert nemo_gym(rules_url, *TEXTS) == native_scores(rules_url, "banana", TEXTS)


def test_nemo_gym_client_and_failures(failing, nemo_gym):
    """Overload makes the call wait; a missing score or an invalid rollout raises an error."""
    reward, url = failing
    reward.overloaded = 3
    assert nemo_gym(url, "a") == [1.0]
    assert nemo_gym(url, "null")["raised"].startswith("ClientResponseError: 503")
    assert nemo_gym(url, 1)["raised"].startswith("ClientResponseError: 422")


def test_nemo_gym_client_and_restart(nemo_gym):
    """A rollout over a restart gets its reward, or an error while the service loads."""
    with Supervisor(RULES) as service:
        service.kill()
        result = nemo_gym(service.url, "Sure: banana")
        assert result == [1.99] or result["raised"].startswith("ClientResponseError: 503")
