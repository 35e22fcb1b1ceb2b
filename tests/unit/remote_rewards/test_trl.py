import asyncio
import inspect
import pickle
import typing

import pytest
from transformers import TrainerState

import remote_rewards
from remote_rewards import remote_reward
from remote_rewards.trl import RemoteReward, SyncRemoteReward, latency_metrics, reward_metrics
from shared.errors import DuplicateLabel, FailureBudgetExceeded, RevisionChanged, UnknownReward
from shared.schemas import ItemError, RewardScores
from tests.unit.remote_rewards.fakes import FakeClient


def test_function_has_the_name_of_its_reward():
    """TRL logs by `__name__`, so that metrics of two rewards do not collide."""
    assert [remote_reward("http://a", name).__name__ for name in ("banana", "sentiment")] == ["banana", "sentiment"]


def test_trl_sees_an_async_function():
    """TRL awaits a reward whose `__call__` is a coroutine function."""
    assert inspect.iscoroutinefunction(remote_reward("http://a", "banana").__call__)


def test_reward_can_be_pickled():
    """A pickled reward keeps its name and its URLs."""
    copy = pickle.loads(pickle.dumps(remote_reward("http://a", "banana")))
    assert (copy.__name__, copy.client.urls) == ("banana", ["http://a"])


@pytest.mark.parametrize("other", ["http://a/", ["http://a"], ["http://a/"]])
def test_one_service_has_one_client(other):
    """Rewards of the same service share a client, however its URL is written."""
    assert remote_reward("http://a", "banana").client is remote_reward(other, "sentiment").client


@pytest.mark.parametrize("option", [{"timeout_s": 1.0}, {"hedge_after_s": 1.0}, {"api_key": "k"}])
def test_other_settings_have_another_client(option):
    """Rewards with other settings have a client of their own."""
    client = remote_reward("http://127.0.0.1:1", "banana").client
    assert remote_reward("http://127.0.0.1:1", "banana", **option).client is not client


def test_attribute_is_the_reward_of_that_name(monkeypatch):
    """`remote_rewards.<name>` is the reward of that name at `REWARD_URL`."""
    monkeypatch.setenv("REWARD_URL", "http://a:1, http://b:2")
    assert remote_rewards.valence.name == "valence"
    assert remote_rewards.valence.client.urls == ["http://a:1", "http://b:2"]


@pytest.mark.parametrize("name", ["client", "trl", "rewards"])
def test_reward_may_be_named_like_a_module(name):
    """`remote_rewards.rewards.<name>` is the reward even where `remote_rewards.<name>` is a module."""
    assert getattr(remote_rewards.rewards, name).name == name


@pytest.mark.parametrize("module", [remote_rewards, remote_rewards.rewards])
@pytest.mark.parametrize("name", ["_x", "__wrapped__", "RewardClent"])
def test_impossible_names_are_no_attributes(module, name):
    """Private names and names that no reward can have raise `AttributeError`."""
    with pytest.raises(AttributeError, match=name):
        getattr(module, name)


def test_misspelt_class_cannot_be_imported():
    """A misspelt class raises `ImportError`, though a reward can be imported by its name."""
    with pytest.raises(ImportError, match="RewardClent"):
        from remote_rewards import RewardClent  # noqa: F401


def test_metrics_show_a_degenerate_reward():
    """The metrics are shares: of null scores, of truncated items, and of prompts with equal scores."""
    error = ItemError(code="failed", message="m")
    reward = RewardScores(scores=[1.0, 1.0, 2.0, None], revision="r", errors={"3": error}, truncated=[0])
    assert reward_metrics(reward, ["p", "p", "q", "q"]) == {
        "frac_missing": 0.25,
        "frac_truncated": 0.25,
        "frac_reward_zero_std": 1.0,
    }


@pytest.mark.parametrize(("latencies_ms", "p50", "p99"), [([5], 5, 5), ([1, 9], 5, 9), (range(1, 101), 50.5, 99)])
def test_latency_quantiles(latencies_ms, p50, p99):
    """The latencies are logged in milliseconds, by their median and their 99th percentile."""
    metrics = latency_metrics([latency_ms / 1000 for latency_ms in latencies_ms])
    assert metrics == pytest.approx({"latency_ms_p50": p50, "latency_ms_p99": p99})


async def test_other_revision_stops_the_run():
    """Scores of another revision than the one before raise, unless that is allowed; then the change is logged."""
    pinned, logged = RemoteReward(FakeClient(revisions="12"), "x"), {}
    assert await pinned(prompts=["p"], completions=["c"]) == [1.0]
    with pytest.raises(RevisionChanged, match="1"):
        await pinned(prompts=["p"], completions=["c"])
    free = RemoteReward(FakeClient(revisions="12"), "x", allow_revision_change=True)
    for changed in (0.0, 1.0):
        await free(prompts=["p"], completions=["c"], log_metric=logged.__setitem__)
        assert logged["remote/x/service_revision_changed"] == changed


async def test_concurrent_calls_must_agree_on_revision():
    """Two calls that started before any revision was known raise if their revisions differ."""
    reward = RemoteReward(FakeClient(revisions="12"), "x")
    calls = [reward(prompts=["p"], completions=[text]) for text in "ab"]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [list, RevisionChanged]


async def test_column_called_self():
    """Columns may have any name that TRL passes."""
    reward = RemoteReward(FakeClient(), "x")
    columns = {"self": [1], "name": [2], "client": [3], "call": [4], "prompt": [5]}
    assert await reward(prompts=["p"], completions=["c"], completion_ids=[[1]], **columns) == [1.0]


def test_sync_reward_is_a_plain_function():
    """With `sync`, the reward is no coroutine function, has the name of its reward, and can be pickled."""
    reward = pickle.loads(pickle.dumps(remote_reward("http://a", "banana", sync=True)))
    assert not inspect.iscoroutinefunction(reward.__call__)
    assert (reward.__name__, reward.client.urls) == ("banana", ["http://a"])


def test_sync_is_known_to_type_checkers():
    """With `sync=True` the declared type is the plain function's, otherwise the async one's, with the same options."""
    sync, either = typing.get_overloads(remote_reward)
    hints = [typing.get_type_hints(overload) for overload in (sync, either)]
    assert (hints[0].pop("return"), hints[0].pop("sync")) == (SyncRemoteReward, typing.Literal[True])
    assert (hints[1].pop("return"), hints[1].pop("sync")) == (RemoteReward, bool)
    options = typing.get_type_hints(remote_reward)
    assert hints[0] == hints[1] == {name: options[name] for name in options if name not in ("return", "sync")}


@pytest.mark.parametrize("code", ["failed", "not_applicable"])
def test_sync_reward_raises_for_a_null(code):
    """A sync reward raises where an item has no score, and names it; one that is only watched returns None."""
    client = FakeClient({"x": {"c": code}})
    batch = {"prompts": ["p"] * 3, "completions": ["a", "b", "c"]}
    with pytest.raises(FailureBudgetExceeded, match=f"completion 2 of 3 has no 'x' score.*{code}: it broke"):
        SyncRemoteReward(client, "x")(**batch)
    assert SyncRemoteReward(client, "x", watch_only=True)(**batch) == [1.0, 1.0, None]


def test_sync_reward_is_pinned():
    """A sync reward raises for another revision than that of its first call."""
    reward = SyncRemoteReward(FakeClient(revisions="12"), "x")
    assert reward(prompts=["p"], completions=["c"], completion_ids=[[1]], answer=["a"]) == [1.0]
    with pytest.raises(RevisionChanged, match="1"):
        reward(prompts=["p"], completions=["c"])


class Logging(FakeClient):
    async def ascore(self, completions, prompts, columns, rewards, **options):
        self.columns, self.options = columns, options
        response = await super().ascore(completions, prompts, columns, rewards, **options)
        for scores in response.rewards.values():
            scores.metrics, scores.extra = {"chars": 2.0}, {"first": ["c"]}
        return response


async def test_arguments_of_trl():
    """The ids travel as a column, of the state its plain fields; what a function logged is logged by TRL."""
    client, metrics, extra = Logging(), {}, {}
    state = TrainerState(global_step=3, max_steps=10, epoch=0.5)
    reward = RemoteReward(client, "x")
    arguments = {"log_metric": metrics.__setitem__, "log_extra": extra.__setitem__, "trainer_state": state}
    await reward(prompts=["p"], completions=["c"], completion_ids=[[1, 2]], **arguments)
    assert client.columns == {"completion_ids": [[1, 2]]}
    sent = client.options["trainer_state"]
    assert (sent["global_step"], sent["max_steps"], sent["epoch"]) == (3, 10, 0.5)
    assert "log_history" not in sent
    assert (metrics["chars"], extra) == (2.0, {"first": ["c"]})


async def test_labels():
    """Rewards of one name at two services are logged under two labels, and refused under one."""
    first, second = RemoteReward(FakeClient(), "judge"), RemoteReward(FakeClient(), "judge", label="judge_b")
    assert (first.__name__, second.__name__) == ("judge", "judge_b")
    completions, metrics = ["c"], {}
    arguments = {"prompts": ["p"], "completions": completions, "log_metric": metrics.__setitem__}
    await asyncio.gather(first(**arguments), second(**arguments))
    assert {"remote/judge/retries", "remote/judge_b/retries"} <= set(metrics)
    same = RemoteReward(FakeClient(), "judge")
    with pytest.raises(DuplicateLabel, match=r"label='judge_b'"):
        await asyncio.gather(first(**arguments), same(**arguments))


async def test_watch_only(caplog):
    """A reward that is only watched stops nothing when it fails, and masks no other reward's scores."""
    learned = RemoteReward(FakeClient(), "x")
    broken = RemoteReward(FakeClient(error=UnknownReward("no such reward", status=404, code="x")), "y", watch_only=True)
    partly = RemoteReward(FakeClient(codes={"z": {"c": "failed"}}, revisions="12"), "z", watch_only=True)
    for _ in range(2):
        arguments = {"prompts": ["p", "p"], "completions": ["c", "d"]}
        calls = [reward(**arguments) for reward in (learned, broken, partly)]
        assert await asyncio.gather(*calls) == [[1.0, 1.0], [None, None], [None, 1.0]]
    assert "no scores of y, which is only watched: no such reward" in caplog.text


@pytest.mark.parametrize("code", ["failed", "not_applicable"])
async def test_watched_without_a_sum(code):
    """An item without a score to learn from has no watched score: TRL would sum its zero weight to a reward of 0."""
    learned, watched = (
        RemoteReward(FakeClient({"x": {"c": code}}), "x"),
        RemoteReward(FakeClient(), "y", watch_only=True),
    )
    batch = {"prompts": ["p", "p"], "completions": ["c", "d"]}
    assert await asyncio.gather(learned(**batch), watched(**batch)) == [[None, 1.0], [None, 1.0]]
