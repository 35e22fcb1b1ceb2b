"""What clients of other servers get from the service: native scores in order, and never a number nobody computed."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from reward_service.settings import Settings
from tests.clients.packages import Client, installed
from tests.conftest import DATA, native_scores, running_service, wait_for
from tests.integration.test_formats import Failing
from tests.label_rewards import label_rewards
from tests.soak.base import RULES, expected_score
from tests.soak.supervisor import Supervisor

pytestmark = pytest.mark.clients
SEVERAL = DATA / "several.yaml"
TEXTS = ["word " * index for index in range(200)]


@pytest.fixture(scope="module")
def openai():
    with Client(installed("openai==3.51.0", "jiter==0.19.0", "sniffio==1.3.1"), "call_openai.py") as client:
        yield client


@pytest.fixture(scope="module")
def tei():
    with Client(installed("tei-client==0.2.4"), "call_tei.py") as client:
        yield client


@pytest.fixture(scope="module")
def infinity():
    with Client(installed("infinity-client==0.0.78"), "call_infinity.py") as client:
        yield client


@pytest.fixture(scope="module")
def verl():
    with Client(installed("verl==0.9.1"), "call_verl.py") as client:
        yield client


@pytest.fixture
def failing():
    reward = Failing()
    with running_service(rewards={"plain": reward}) as url:
        yield reward, url


each_engine = pytest.mark.parametrize("engine", ["vllm", "sglang"])


@each_engine
def test_openai_client(rules_url, openai, engine):
    """200 concurrent calls get their own native scores."""
    assert openai.call(rules_url, [engine, "banana", TEXTS]) == native_scores(rules_url, "banana", TEXTS)


@each_engine
def test_openai_client_and_failures(failing, openai, engine):
    """Overload is tried again; a missing score and a wrong name raise with the reason."""
    reward, url = failing
    reward.overloaded = 2
    assert openai.call(url, [engine, "plain", ["a"]]) == [1.0]
    missing, unknown = (
        openai.call(url, [engine, "plain", ["null"]])["raised"],
        openai.call(url, [engine, "nope", ["a"]])["raised"],
    )
    assert "InternalServerError" in missing
    assert "it broke" in missing
    assert "NotFoundError" in unknown


@each_engine
def test_verl_client(rules_url, verl, engine):
    """200 concurrent rollouts get their own native scores."""
    assert verl.call(rules_url, [engine, 60, "banana", TEXTS]) == native_scores(rules_url, "banana", TEXTS)


@each_engine
def test_verl_client_and_failures(failing, verl, engine):
    """Overload and a missing score are tried again, a wrong name raises at once; none is a number."""
    reward, url = failing
    reward.overloaded = 1
    assert verl.call(url, [engine, 60, "plain", ["a"]]) == [1.0]
    assert "TimeoutError" in verl.call(url, [engine, 2, "plain", ["null"]])["raised"]
    assert "404" in verl.call(url, [engine, 60, "nope", ["a"]])["raised"]


def test_verl_client_and_restart(verl):
    """Rollouts in whose middle the service is killed and started again all get their own scores."""
    texts = TEXTS * 3
    with Supervisor(RULES) as service, ThreadPoolExecutor() as threads:
        scores = threads.submit(verl.call, service.url, ["vllm", 100, "banana", texts])
        wait_for(lambda: service.log.count("/classify 200") > 10)
        service.kill()
        assert scores.result() == pytest.approx([expected_score(text) for text in texts])


def test_tei_client(rules_url, tei):
    """200 concurrent calls get their own native scores."""
    assert tei.call(rules_url, [None, TEXTS]) == native_scores(rules_url, "banana", TEXTS)


def test_tei_client_and_failures(failing, tei):
    """Overload and a missing score raise: the client looks at no status, but the body is no score."""
    reward, url = failing
    assert tei.call(url, ["plain", ["a"]]) == [1.0]
    assert "raised" in tei.call(url, ["plain", ["null"]])
    assert "raised" in tei.call(url, ["nope", ["a"]])
    reward.overloaded = 1
    assert "raised" in tei.call(url, ["plain", ["a"]])


def test_infinity_client(rules_url, infinity):
    """200 concurrent calls get their own native scores."""
    assert infinity.call(rules_url, ["banana", TEXTS]) == native_scores(rules_url, "banana", TEXTS)


def test_infinity_client_and_failures(failing, infinity):
    """Overload, a missing score and a wrong name raise where the client was told to."""
    reward, url = failing
    assert "it broke" in infinity.call(url, ["plain", ["null"]])["raised"]
    assert "404" in infinity.call(url, ["nope", ["a"]])["raised"]
    reward.overloaded = 1
    assert "429" in infinity.call(url, ["plain", ["a"]])["raised"]
    assert infinity.call(url, ["plain", ["a"]]) == [1.0]


def test_huggingface_client_and_failures(failing):
    """huggingface_hub raises at overload and at a missing score."""
    reward, url = failing
    client = InferenceClient(model=f"{url}/predict")
    assert client.text_classification("a")[0].score == 1.0
    with pytest.raises(HfHubHTTPError, match="424"):
        client.text_classification("null")
    reward.overloaded = 1
    with pytest.raises(HfHubHTTPError, match="429"):
        client.text_classification("a")


def test_clients_and_sentiment(models_url, openai, verl, tei, infinity):
    """A classifier's score, or the winning label's probability where the format has labels, is the native one."""
    texts = ["I love it.", "What a terrible day."]
    native = native_scores(models_url, "sentiment", texts)
    assert openai.call(models_url, ["sglang", "sentiment", texts]) == native
    assert verl.call(models_url, ["sglang", 60, "embedded:sentiment", texts]) == native
    huggingface = InferenceClient(model=f"{models_url}/predict?reward=sentiment")
    for probabilities in (
        tei.call(models_url, ["sentiment", texts]),
        infinity.call(models_url, ["sentiment", texts]),
        [huggingface.text_classification(text)[0].score for text in texts],
    ):
        assert [2.0 * probabilities[0], -1.0 * probabilities[1]] == native


def test_clients_and_invalid_requests(openai, tei, infinity):
    """A request that is refused raises with the reason, where the client shows one, and is no number."""
    with running_service(rewards=label_rewards()) as url:
        for engine in ("vllm", "sglang"):
            refused = openai.call(url, [engine, "mood", [[1, 2]]])["raised"]
            assert "BadRequestError" in refused
            assert "token ids are not accepted" in refused
        assert "token ids are not accepted" in infinity.call(url, ["mood", [1]])[0]
        assert "raised" in tei.call(url, ["mood", ["word " * 11]])
        with pytest.raises(HfHubHTTPError, match="422"):
            InferenceClient(model=f"{url}/predict").text_classification(["a", "b", "c"])


@pytest.fixture
def ambiguous_url():
    """URL of a service whose default is several rewards, so that a request has to name one of them."""
    with running_service(Settings(config=SEVERAL)) as url:
        yield url


def test_verl_client_and_invalid_requests(ambiguous_url, verl):
    """A rollout that is refused raises at once, and is no number."""
    for engine in ("vllm", "sglang"):
        assert "400" in verl.call(ambiguous_url, [engine, 60, None, ["a"]])["raised"]
        assert verl.call(ambiguous_url, [engine, 60, "first", ["a b"]]) == [2.0]


def huggingface(url, texts):
    """Return the first label's score of each text, or what huggingface_hub's client raised."""
    client = InferenceClient(model=f"{url}/predict?reward=banana", timeout=30)
    try:
        return [client.text_classification(text)[0].score for text in texts]
    except Exception as error:  # which HTTP library it is, and so the error, depends on its version
        return {"raised": type(error).__name__}


def test_clients_and_restart(openai, tei, infinity):
    """A call over a restart raises or gets the right score, and the next one gets it."""
    texts = ["Sure: banana"]
    calls = {
        "openai": lambda url: openai.call(url, ["vllm", "banana", texts]),
        "tei": lambda url: tei.call(url, ["banana", texts]),
        "infinity": lambda url: infinity.call(url, ["banana", texts]),
        "huggingface": lambda url: huggingface(url, texts),
    }
    with Supervisor(RULES) as service:
        service.kill()
        for name, call in calls.items():
            during = call(service.url)
            assert during == [1.99] or "raised" in during, name
        service.wait_until_ready()
        for name, call in calls.items():
            assert call(service.url) == [1.99], name
