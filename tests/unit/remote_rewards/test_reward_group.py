import asyncio
import inspect
from pathlib import Path

import httpx
import pytest

import remote_rewards
from remote_rewards import RewardClient
from remote_rewards.trl import RemoteReward
from shared.errors import FailureBudgetExceeded, ServiceUnreachable
from shared.schemas import Limits, RewardInfo, ScoreResponse, ServiceInfo, Timing
from tests.unit.remote_rewards.fakes import FakeClient, scores_of

PACKAGE = Path(remote_rewards.__file__).parent
INFO = ServiceInfo(
    version="1",
    rewards=[RewardInfo(name="a", kind="rule", description="", revision="r")],
    default=["a"],
    limits=Limits(max_request_texts=10, max_body_bytes=10_000, max_queue_texts=10),
)
RESPONSE = ScoreResponse(rewards={"a": scores_of(["x"])}, request_id="", timing=Timing(queue_ms=0.0, compute_ms=0.0))
PARTLY = {"partly": {"poison": "failed", "other": "not_applicable"}, "slightly": {"venom": "failed"}}


async def call_all(rewards, completions, prompts=None, **options):
    """Call the rewards as TRL does: in one event-loop tick, with the same objects."""
    prompts = ["p"] * len(completions) if prompts is None else prompts
    calls = (reward(prompts=prompts, completions=completions) for reward in rewards)
    return await asyncio.gather(*calls, **options)


async def test_one_request_per_service():
    """Calls over the same completions are sent in one request to each service."""
    clients = FakeClient(), FakeClient()
    rewards = [RemoteReward(clients[0], "a"), RemoteReward(clients[1], "b"), RemoteReward(clients[0], "c")]
    assert await call_all(rewards, ["x", "y"]) == [[1.0, 1.0]] * 3
    assert [client.requests for client in clients] == [[["a", "c"]], [["b"]]]


def test_call_chain_is_short():
    """From the reward function to HTTP there are at most 12 functions, in the caller's task and one more."""
    chains = []

    def respond(request):
        ours = [frame.function for frame in inspect.stack() if Path(frame.filename).parent == PACKAGE]
        chains.append((["__call__", "score_in_group", *ours[::-1]], len(asyncio.all_tasks())))
        content = INFO if request.method == "GET" else RESPONSE
        return httpx.Response(200, content=content.model_dump_json())

    client = RewardClient("http://a", transport=httpx.MockTransport(respond))
    assert asyncio.run(RemoteReward(client, "a")(prompts=["p"], completions=["x"])) == [1.0]
    functions, tasks = chains[-1]
    assert functions[2] == "_score"  # the first in the group's task
    assert len(functions) <= 12
    assert tasks == 2


async def test_equal_batches_are_separate_requests():
    """Two batches with equal content are two groups: what counts is the identity of the list."""
    client = FakeClient()
    reward = RemoteReward(client, "a")
    calls = (reward(prompts=batch, completions=batch) for batch in (["x"], ["x"]))
    assert await asyncio.gather(*calls) == [[1.0]] * 2
    assert client.requests == [["a"]] * 2


async def test_other_columns_are_separate_requests():
    """Calls of one group whose columns have other names or values are sent in requests of their own."""
    client, completions, column = FakeClient(), ["x", "y"], ["1", "2"]
    columns = [{"answer": column}, {"reference": column}, {"answer": ["1", "2"]}, {"answer": column}]
    calls = (
        RemoteReward(client, name)(prompts=completions, completions=completions, **columns[index])
        for index, name in enumerate("abcd")
    )
    await asyncio.gather(*calls)
    assert client.requests == [["a", "d"], ["b"], ["c"]]


@pytest.mark.parametrize("services", [1, 2])
async def test_failed_item_has_no_score_at_all(services):
    """An item on which one reward failed has no score of any reward of the group, of whatever service."""
    clients = [FakeClient(PARTLY)] * 2 if services == 1 else [FakeClient(PARTLY), FakeClient()]
    rewards = [RemoteReward(clients[0], "partly"), RemoteReward(clients[1], "always")]
    assert await call_all(rewards, ["a", "poison", "b"]) == [[1.0, None, 1.0]] * 2


async def test_not_applicable_does_not_affect_others():
    """An item to which one reward does not apply keeps the scores of the others."""
    client = FakeClient(PARTLY)
    rewards = [RemoteReward(client, name) for name in ("partly", "always")]
    assert await call_all(rewards, ["a", "other"]) == [[1.0, None], [1.0, 1.0]]


async def test_batches_do_not_share_failures():
    """Two batches at the same moment are two groups: a failure in one does not mask items of the other."""
    rewards = [RemoteReward(FakeClient(PARTLY), "partly"), RemoteReward(FakeClient(), "always")]
    scores = await asyncio.gather(call_all(rewards, ["a", "poison"]), call_all(rewards, ["b", "c"]))
    assert scores == [[[1.0, None]] * 2, [[1.0, 1.0]] * 2]


async def test_first_failure_ends_the_group():
    """When one service fails, calls to the others are cancelled, and all calls raise the same error."""
    error = ServiceUnreachable("no response")

    class StuckClient(FakeClient):
        async def ascore(self, *args, **kwargs):
            await asyncio.Event().wait()

    rewards = [RemoteReward(FakeClient(error=error), "a"), RemoteReward(StuckClient(), "b")]
    outcomes = await call_all(rewards, ["x"], return_exceptions=True)
    assert outcomes == [error, error]


async def test_exceeded_budget_ends_the_group():
    """A reward over its failure budget ends the calls of the others, too, before they have their scores."""

    class StuckClient(FakeClient):
        async def ascore(self, *args, **kwargs):
            await asyncio.Event().wait()

    rewards = [RemoteReward(FakeClient(PARTLY), "partly"), RemoteReward(StuckClient(), "b")]
    outcomes = await call_all(rewards, ["poison", "poison"], return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [FailureBudgetExceeded] * 2


@pytest.mark.parametrize("services", [1, 2])
async def test_fully_failed_prompt_stops_the_run(services):
    """A prompt whose every completion fails on some reward raises, though each reward is within its budget."""
    clients = [FakeClient(PARTLY)] * 2 if services == 1 else [FakeClient(PARTLY), FakeClient(PARTLY)]
    rewards = [RemoteReward(clients[0], "partly"), RemoteReward(clients[1], "slightly")]
    completions, prompts = ["poison", "venom", "a", "b"], ["p", "p", "q", "q"]
    outcomes = await call_all(rewards, completions, prompts, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [FailureBudgetExceeded] * 2
    assert "no completion of the prompt \"'p'\" has all its scores" in str(outcomes[0])


async def test_cancelled_caller_leaves_the_others():
    """A caller that is cancelled takes nothing from the other callers of its group."""
    rewards, completions = [RemoteReward(FakeClient(), "a"), RemoteReward(FakeClient(), "b")], ["x", "y"]
    cancelled, other = (
        asyncio.ensure_future(reward(prompts=completions, completions=completions)) for reward in rewards
    )
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await other == [1.0, 1.0]
    assert cancelled.cancelled()


async def test_cancelled_group_accepts_no_calls():
    """A group whose only caller is cancelled before its request is sent sends none, and takes no later call."""
    client, completions = FakeClient(), ["x"]
    cancelled = asyncio.ensure_future(RemoteReward(client, "a")(prompts=["p"], completions=completions))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await RemoteReward(client, "b")(prompts=["p"], completions=completions) == [1.0]
    assert client.requests == [["b"]]


def test_any_event_loop():
    """The same reward can be called from one event loop after another, also with the same completions."""
    reward, completions = RemoteReward(FakeClient(), "a"), ["x"]
    scores = [asyncio.run(reward(prompts=["p"], completions=completions)) for _ in range(2)]
    assert scores == [[1.0]] * 2
