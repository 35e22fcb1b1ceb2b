import asyncio
import inspect
import pickle
from types import SimpleNamespace
from typing import ClassVar

import httpx
import pytest

import remote_rewards
from remote_rewards import remote_reward
from remote_rewards.trl import failed_items, fully_failed_group, over_budget, reward_metrics
from reward_service.rewards.base import Reward, Scores
from shared.errors import FailureBudgetExceeded, RevisionChanged, UnknownReward
from shared.schemas import ItemError, RewardInfo, RewardScores
from tests.conftest import running_service
from trainer.train import reward_infos


def test_each_adapter_has_the_name_of_its_reward_so_that_metrics_do_not_collide():
    assert [remote_reward("http://a", name).__name__ for name in ("banana", "sentiment")] == [
        "banana",
        "sentiment",
    ]


def test_trl_sees_an_async_function():
    assert inspect.iscoroutinefunction(remote_reward("http://a", "banana").__call__)


def test_an_adapter_survives_pickle():
    copy = pickle.loads(pickle.dumps(remote_reward("http://a", "banana")))
    assert (copy.__name__, copy.client.urls) == ("banana", ["http://a"])


def test_any_reward_can_be_named_as_an_attribute(monkeypatch):
    monkeypatch.setenv("REWARD_URL", "http://a:1, http://b:2")
    assert remote_rewards.valence.name == "valence"
    assert remote_rewards.valence.client.urls == ["http://a:1", "http://b:2"]


@pytest.mark.parametrize(
    ("recent", "over"),
    [
        ([(0, 16)] * 10, False),
        ([(1, 16)], False),
        ([(1, 16), (1, 16)], True),
        ([(3, 100)] + [(0, 100)] * 3, False),
        ([(5, 100)] + [(0, 100)] * 3, True),
        ([(4, 4)], True),
        ([(0, 0)], False),
    ],
)
def test_the_budget_is_a_share_of_the_items_of_recent_calls(recent, over):
    assert over_budget(recent, 0.01) is over


@pytest.mark.parametrize(("failed", "lost"), [("01", "'p'"), ("0", None), ("02", None), ("4", None), ("", None)])
def test_a_prompt_of_which_every_completion_failed_is_found(failed, lost):
    assert fully_failed_group(set(failed), ["p", "p", "q", "q", "single"]) == lost


def had(codes):
    """What a reward gives that fails in these ways on the items of these indices."""
    errors = {index: ItemError(code=code, message="m") for index, code in codes.items()}
    scores = [None if str(index) in errors else 1.0 for index in range(4)]
    return RewardScores(scores=scores, revision="r", errors=errors)


@pytest.mark.parametrize(
    ("one", "other", "failed"),
    [
        ({"0": "a"}, {"1": "b"}, {"0", "1"}),
        ({"0": "a"}, {"0": "b"}, {"0"}),
        ({"0": "a"}, {"1": "not_applicable"}, {"0"}),
        ({"0": "not_applicable"}, {}, set()),
    ],
)
def test_an_item_has_failed_that_any_reward_of_its_sum_has_failed_on(one, other, failed):
    assert failed_items([had(one), had(other)]).keys() == failed


def test_health_counts_nulls_cuts_and_groups_of_one_reward():
    error = ItemError(code="failed", message="m")
    reward = RewardScores(scores=[1.0, 1.0, 2.0, None], revision="r", errors={"3": error}, truncated=[0])
    assert reward_metrics(reward, ["p", "p", "q", "q"]) == {
        "frac_missing": 0.25,
        "frac_truncated": 0.25,
        "frac_reward_zero_std": 1.0,
    }


async def test_the_adapter_gives_one_float_a_completion_and_logs(rules_url):
    logged = {}
    reward = remote_reward(rules_url, "banana")
    completions = [
        [{"role": "assistant", "content": "Sure: banana"}],
        [{"role": "assistant", "content": "no"}],
    ]
    prompts = [[{"role": "user", "content": "Hi"}]] * 2
    scores = await reward(prompts=prompts, completions=completions, log_metric=logged.__setitem__, answer=["a", "b"])
    assert scores == pytest.approx([1.99, -0.505])
    assert logged["remote/banana/frac_missing"] == 0
    assert 0 < logged["remote/banana/latency_ms_p50"] <= logged["remote/banana/latency_ms_p99"]
    await reward.client.aclose()


def test_a_reward_that_is_not_served_is_told_before_step_0(rules_url):
    with pytest.raises(UnknownReward, match="it serves banana"):
        remote_reward(rules_url, "nope").handshake()


async def test_another_revision_in_the_middle_of_a_run_stops_it(rules_url):
    reward = remote_reward(rules_url, "banana")
    reward.revision = "rule:of-yesterday"
    with pytest.raises(RevisionChanged, match="rule:of-yesterday"):
        await reward(prompts=["p"], completions=["c"])
    await reward.client.aclose()


async def test_two_revisions_met_by_calls_that_began_before_any_was_known_stop_it_too(rules_url):
    reward = remote_reward(rules_url, "banana")
    other = RewardScores(scores=[1.0], revision="rule:of-a-replica")

    async def score(*_, **__):
        await asyncio.sleep(0)
        return SimpleNamespace(rewards={"banana": answers.pop()})

    answers = [other, other.model_copy(update={"revision": "rule:of-another"})]
    reward._joint = SimpleNamespace(score=score)
    calls = [reward(prompts=["p"], completions=[text]) for text in "ab"]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in found] == [list, RevisionChanged]


def test_rewards_of_one_run_are_pinned_by_what_one_replica_says(rules_url):
    first, second = (remote_reward(rules_url, name) for name in ("banana", "gated"))
    found = reward_infos({"banana": first, "gated": second}, 10.0)
    assert {name: info.revision for name, info in found.items()} == {"banana": first.revision, "gated": second.revision}
    info = first.client.info()
    info.rewards[0].revision = "rule:of-a-replica"
    unpinned = remote_reward(rules_url, info.rewards[0].name)
    assert unpinned.handshake(info).revision == unpinned.revision == "rule:of-a-replica"


class Partly(Reward):
    """A reward that fails on every text with `poison` in it, and has nothing to say of one with `other`."""

    info = RewardInfo(name="partly", kind="function", description="", revision="1")
    accepts_canary = False
    said: ClassVar = {"poison": "rule_failed", "other": "not_applicable"}

    async def score(self, items):
        errors = {
            index: ItemError(code=self.said[text], message="it broke")
            for index, text in enumerate(items.completions)
            if text in self.said
        }
        scores = [None if index in errors else 1.0 for index in range(len(items))]
        return Scores(scores=scores, details=[None] * len(items), errors=errors)


class Slightly(Partly):
    """A reward that fails on another text."""

    info = RewardInfo(name="slightly", kind="function", description="", revision="1")
    said: ClassVar = {"venom": "rule_failed"}


class Always(Partly):
    """A reward that always has a score."""

    info = RewardInfo(name="always", kind="function", description="", revision="1")

    async def score(self, items):
        return Scores(scores=[2.0] * len(items), details=[None] * len(items))


@pytest.fixture(scope="module")
def partly_url():
    with running_service(rewards={"partly": Partly(), "slightly": Slightly(), "always": Always()}) as url:
        yield url


@pytest.fixture(scope="module")
def slightly_url():
    with running_service(rewards={"slightly": Slightly()}) as url:
        yield url


async def ask(url, names, completions):
    """Ask as TRL does: every function at once, with the same objects."""
    rewards, prompts = [remote_reward(url, name) for name in names], ["p"] * len(completions)
    try:
        return await asyncio.gather(*(reward(prompts=prompts, completions=completions) for reward in rewards))
    finally:
        await rewards[0].client.aclose()


def requests_at(url):
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    counts = [line for line in lines if line.startswith('reward_requests_total{code="200",route="/v1/score"}')]
    return sum(float(line.split()[-1]) for line in counts)


async def test_the_rewards_of_one_service_travel_in_one_request(partly_url):
    before = requests_at(partly_url)
    assert await ask(partly_url, ["partly", "always"], ["a", "b"]) == [[1.0, 1.0], [2.0, 2.0]]
    assert requests_at(partly_url) == before + 1


async def test_two_batches_at_the_same_moment_are_two_requests(partly_url):
    reward, before = remote_reward(partly_url, "always"), requests_at(partly_url)
    batches = [["a"], ["b", "c"]]
    scores = await asyncio.gather(*(reward(prompts=batch, completions=batch) for batch in batches))
    assert scores == [[2.0], [2.0, 2.0]]
    assert requests_at(partly_url) == before + 2
    await reward.client.aclose()


async def test_two_that_ask_with_columns_of_other_names_are_two_requests(partly_url):
    rewards, before = [remote_reward(partly_url, name) for name in ("partly", "always")], requests_at(partly_url)
    completions, column = ["a", "b"], ["x", "y"]
    names = ("answer", "reference")
    calls = (
        reward(prompts=completions, completions=completions, **{name: column})
        for reward, name in zip(rewards, names, strict=True)
    )
    assert await asyncio.gather(*calls) == [[1.0, 1.0], [2.0, 2.0]]
    assert requests_at(partly_url) == before + 2
    for reward in rewards:
        await reward.client.aclose()


async def test_no_sum_is_made_of_an_item_on_which_one_reward_failed(partly_url):
    partly, always = await ask(partly_url, ["partly", "always"], ["a", "poison", "b"])
    assert partly == [1.0, None, 1.0]
    assert always == [2.0, None, 2.0]


async def test_no_sum_is_made_of_an_item_on_which_the_reward_of_another_service_failed(partly_url, rules_url):
    completions = ["banana", "poison"]
    rewards = [remote_reward(partly_url, "partly"), remote_reward(rules_url, "banana")]
    partly, banana = await asyncio.gather(*(reward(prompts=["p"] * 2, completions=completions) for reward in rewards))
    assert partly == [1.0, None]
    assert banana[0] is not None
    assert banana[1] is None
    for reward in rewards:
        await reward.client.aclose()


async def test_a_service_that_fails_ends_the_calls_to_another_that_are_summed_with_it(partly_url, rules_url):
    completions, rewards = ["a", "b"], [remote_reward(partly_url, "nope"), remote_reward(rules_url, "banana")]
    calls = (reward(prompts=["p"] * 2, completions=completions) for reward in rewards)
    broken, other = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(broken, UnknownReward)
    assert other is broken
    for reward in rewards:
        await reward.client.aclose()


async def test_two_batches_of_two_services_at_the_same_moment_are_two_sums(partly_url, rules_url):
    rewards = [remote_reward(partly_url, "partly"), remote_reward(rules_url, "banana")]
    batches = [["a", "poison"], ["b", "c"]]
    calls = (reward(prompts=["p"] * 2, completions=batch) for batch in batches for reward in rewards)
    scores = await asyncio.gather(*calls)
    assert [[score is None for score in had] for had in scores] == [[False, True]] * 2 + [[False, False]] * 2
    for reward in rewards:
        await reward.client.aclose()


async def test_one_caller_that_gives_up_takes_nothing_from_the_others_of_its_sum(partly_url, rules_url):
    completions, prompts = ["a", "b"], ["p"] * 2
    rewards = [remote_reward(partly_url, "partly"), remote_reward(rules_url, "banana")]
    gone, stays = (asyncio.ensure_future(reward(prompts=prompts, completions=completions)) for reward in rewards)
    await asyncio.sleep(0)
    gone.cancel()
    assert len(await stays) == 2
    assert gone.cancelled()
    for reward in rewards:
        await reward.client.aclose()


@pytest.mark.parametrize("other", ["http://a/", ["http://a"], ["http://a/"]])
def test_one_service_has_one_client_however_its_address_is_written(other):
    assert remote_reward("http://a", "banana").client is remote_reward(other, "sentiment").client


async def test_a_reward_that_does_not_apply_leaves_the_others_as_they_are(partly_url):
    partly, always = await ask(partly_url, ["partly", "always"], ["a", "other"])
    assert partly == [1.0, None]
    assert always == [2.0, 2.0]


@pytest.mark.parametrize("other", ["partly_url", "slightly_url"])
async def test_a_prompt_that_is_lost_to_several_rewards_together_stops_the_run(partly_url, request, other):
    url = request.getfixturevalue(other)
    rewards = [remote_reward(partly_url, "partly"), remote_reward(url, "slightly")]
    prompts, completions = ["p", "p", "q", "q"], ["poison", "venom", "a", "b"]
    calls = (reward(prompts=prompts, completions=completions) for reward in rewards)
    found = await asyncio.gather(*calls, return_exceptions=True)
    for reward in rewards:
        await reward.client.aclose()
    assert [type(each) for each in found] == [FailureBudgetExceeded] * 2
    assert "no completion of the prompt \"'p'\" has all its scores: there is nothing to compare" in str(found[0])


async def test_too_many_failed_items_stop_the_run(partly_url):
    reward = remote_reward(partly_url, "partly")
    with pytest.raises(FailureBudgetExceeded, match="it broke"):
        await reward(prompts=["p", "p"], completions=["poison", "poison"])
    await reward.client.aclose()
