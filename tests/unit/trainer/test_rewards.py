import pytest

from shared.errors import NotReady, ServiceUnreachable
from trainer.rewards import LOADING_TIMEOUT_S, service_info


class StartingService:
    """The client of a service that is not ready within the first timeout."""

    def __init__(self, cause):
        self._cause, self.timeouts_s = cause, []

    def info(self, *, timeout_s):
        self.timeouts_s.append(timeout_s)
        if len(self.timeouts_s) == 1:
            raise ServiceUnreachable("gave up") from self._cause
        return "ready"


@pytest.mark.parametrize(("timeout_s", "second_s"), [(10.0, LOADING_TIMEOUT_S), (900.0, 900.0)])
def test_loading_service(timeout_s, second_s):
    """A service that loads its models is waited for, longer than one that does not respond."""
    client = StartingService(NotReady("loading", status=503, code="not_ready"))
    assert service_info(client, timeout_s) == "ready"
    assert client.timeouts_s == [timeout_s, second_s]


@pytest.mark.parametrize("cause", [None, NotReady("draining", status=503, code="draining")])
def test_no_service(cause):
    """A service that does not respond, or shuts down, is not waited for any longer."""
    client = StartingService(cause)
    with pytest.raises(ServiceUnreachable):
        service_info(client, 10.0)
    assert client.timeouts_s == [10.0]
