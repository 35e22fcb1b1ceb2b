"""What clients of other servers get from the service: native scores in order, and never a number nobody computed."""

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.clients.packages import Client, installed
from tests.conftest import native_scores, running_service
from tests.integration.test_formats import Failing
from tests.soak.base import RULES
from tests.soak.supervisor import Supervisor

pytestmark = pytest.mark.clients
TEXTS = ["word " * index for index in range(200)]


@pytest.fixture(scope="module")
def openai():
    return installed("openai==3.51.0", "jiter==0.19.0", "sniffio==1.3.1")


@pytest.fixture(scope="module")
def tei():
    return installed("tei-client==0.2.4")


@pytest.fixture(scope="module")
def infinity():
    return installed("infinity-client==0.0.78")


@pytest.fixture(scope="module")
def verl():
    return installed("verl==0.9.1")


@pytest.fixture
def failing():
    reward = Failing()
    with running_service(rewards={"plain": reward}) as url:
        yield reward, url


each_engine = pytest.mark.parametrize("engine", ["vllm", "sglang"])


@each_engine
def test_openai_client(rules_url, openai, engine):
    """200 concurrent calls get their own native scores."""
    with Client(openai, "call_openai.py", rules_url, engine) as client:
        assert client.call(["banana", TEXTS]) == native_scores(rules_url, "banana", TEXTS)


@each_engine
def test_openai_client_and_failures(failing, openai, engine):
    """Overload is tried again; a missing score and a wrong name raise with the reason."""
    reward, url = failing
    with Client(openai, "call_openai.py", url, engine) as client:
        reward.overloaded = 2
        assert client.call(["plain", ["a"]]) == [1.0]
        missing, unknown = client.call(["plain", ["null"]])["raised"], client.call(["nope", ["a"]])["raised"]
    assert "InternalServerError" in missing
    assert "it broke" in missing
    assert "NotFoundError" in unknown


def test_openai_client_and_restart(openai):
    """A call over a restart gets the right score or raises."""
    with Supervisor(RULES) as service, Client(openai, "call_openai.py", service.url, "vllm") as client:
        assert client.call(["banana", ["Sure: banana"]]) == [1.99]
        service.kill()
        during = client.call(["banana", ["Sure: banana"]])
        assert during == [1.99] or "Error" in during["raised"]
        service.wait_until_ready()
        assert client.call(["banana", ["Sure: banana"]]) == [1.99]


@each_engine
def test_verl_client(rules_url, verl, engine):
    """200 concurrent rollouts get their own native scores."""
    with Client(verl, "call_verl.py", rules_url, engine) as client:
        assert client.call([60, "banana", TEXTS]) == native_scores(rules_url, "banana", TEXTS)


@each_engine
def test_verl_client_and_failures(failing, verl, engine):
    """Overload and a missing score are tried again, a wrong name raises at once; none is a number."""
    reward, url = failing
    with Client(verl, "call_verl.py", url, engine) as client:
        reward.overloaded = 1
        assert client.call([60, "plain", ["a"]]) == [1.0]
        assert "TimeoutError" in client.call([2, "plain", ["null"]])["raised"]
        assert "404" in client.call([60, "nope", ["a"]])["raised"]


def test_tei_client(rules_url, tei):
    """200 concurrent calls get their own native scores."""
    with Client(tei, "call_tei.py", rules_url) as client:
        assert client.call(TEXTS) == native_scores(rules_url, "banana", TEXTS)


def test_tei_client_and_failures(failing, tei):
    """Overload and a missing score raise: the client looks at no status, but the body is no score."""
    reward, url = failing
    with Client(tei, "call_tei.py", url) as client:
        assert client.call(["a"]) == [1.0]
        assert "raised" in client.call(["null"])
        reward.overloaded = 1
        assert "raised" in client.call(["a"])


def test_infinity_client(rules_url, infinity):
    """200 concurrent calls get their own native scores."""
    with Client(infinity, "call_infinity.py", rules_url) as client:
        assert client.call(["banana", TEXTS]) == native_scores(rules_url, "banana", TEXTS)


def test_infinity_client_and_failures(failing, infinity):
    """Overload, a missing score and a wrong name raise where the client was told to."""
    reward, url = failing
    with Client(infinity, "call_infinity.py", url) as client:
        assert "it broke" in client.call(["plain", ["null"]])["raised"]
        assert "404" in client.call(["nope", ["a"]])["raised"]
        reward.overloaded = 1
        assert "429" in client.call(["plain", ["a"]])["raised"]
        assert client.call(["plain", ["a"]]) == [1.0]


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
