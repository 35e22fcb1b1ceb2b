"""A client's calls against a real service: all that is given arrives, and only what was asked for is taken."""

import asyncio
import json
import multiprocessing
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from remote_rewards import RewardClient
from remote_rewards.client import TRIES, halved, smaller
from reward_service.rewards.base import Reward, Scores
from reward_service.settings import Settings
from shared.aio import EventLoopThread
from shared.errors import BadRequest, RevisionChanged, RewardError, ServiceUnreachable
from shared.schemas import Limits, RewardInfo
from tests import faults
from tests.conftest import RULES, running_service


class Echo(Reward):
    """A reward that tells what it was given."""

    info = RewardInfo(name="echo", kind="function", description="", revision="1")
    accepts_canary = False

    async def score(self, items):
        told = [
            {"completion": completion, "prompt": (items.prompts or [None] * len(items))[index]}
            | {name: values[index] for name, values in items.columns.items()}
            for index, completion in enumerate(items.completions)
        ]
        return Scores(scores=[float(len(text)) for text in items.completions], details=told)


class Other(Echo):
    info = RewardInfo(name="other", kind="function", description="", revision="1")


TEXTS, PROMPTS, COLUMNS = ["a", "bb", "ccc"], ["p", "q", "r"], {"answer": (1, 2, 3)}
TOLD = [
    {"completion": text, "prompt": prompt, "answer": answer}
    for text, prompt, answer in zip(TEXTS, PROMPTS, COLUMNS["answer"], strict=True)
]


@pytest.fixture(scope="module")
def url():
    settings = Settings(config=RULES, max_request_texts=2)
    with running_service(settings, {"echo": Echo(), "other": Other()}) as address:
        yield address


def in_a_loop(client, *args, **kwargs):
    async def call():
        try:
            return await client.ascore(*args, **kwargs)
        finally:
            await client.aclose()

    return asyncio.run(call())


@pytest.mark.parametrize("score", [RewardClient.score, in_a_loop], ids=["score", "ascore"])
def test_prompts_columns_rewards_and_details_travel_with_the_completions(url, score):
    with RewardClient(url) as client:
        found = score(client, TEXTS, PROMPTS, COLUMNS, ["echo"], details=True).rewards
        assert set(found) == {"echo"}
        assert (found["echo"].scores, found["echo"].details) == ([1.0, 2.0, 3.0], TOLD)
        assert score(client, TEXTS, rewards=["other"]).rewards["other"].details is None
        with pytest.raises(RevisionChanged, match="'echo' changed"):
            score(client, TEXTS, rewards=["echo"], revisions={"echo": "another"})


def test_a_client_is_used_again_after_it_was_closed_and_copied(url):
    client = RewardClient(url)
    for each in (client, client, pickle.loads(pickle.dumps(client))):
        assert each.score(["a"], rewards=["echo"]).rewards["echo"].scores == [1.0]
        threads = dict(each._threads)
        assert not pickle.loads(pickle.dumps(each))._threads  # while it is used
        assert each.info().limits.max_request_texts == 2
        assert each._threads == threads
        each.close()
        each.close()
        assert not each._threads


def test_where_no_thread_could_be_begun_the_next_call_tries_again(url, monkeypatch):
    begin, tries = threading.Thread.start, iter([True])

    def start(thread):
        if thread.name == "reward-client" and next(tries, False):
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with RewardClient(url, timeout_s=10) as client:
        with pytest.raises(RuntimeError):
            client.info()
        assert client.info().limits


def clients_threads():
    return [thread for thread in threading.enumerate() if thread.name == "reward-client"]


def test_threads_that_call_first_in_the_same_moment_share_one_loop_and_close_leaves_none(url):
    before = len(clients_threads())
    gather_or_cancel = threading.Barrier(16)

    def call(client):
        gather_or_cancel.wait(10)
        return client.score(["a"], rewards=["echo"]).rewards["echo"].scores

    with RewardClient(url) as client, ThreadPoolExecutor(16) as pool:
        assert list(pool.map(call, [client] * 16)) == [[1.0]] * 16
        assert len(clients_threads()) == before + 1
    assert len(clients_threads()) == before


def test_a_client_that_nobody_closes_keeps_no_process_from_its_end(url):
    with RewardClient(url) as client:
        client.score(["a"], rewards=["echo"])
        assert {thread.daemon for thread in clients_threads()} == {True}


def scored_in_a_child(client, answers):
    answers.put(client.score(TEXTS, rewards=["echo"]).rewards["echo"].scores)
    client.close()


def test_a_forked_child_scores_with_the_client_that_its_parent_used(url):
    forking = multiprocessing.get_context("fork")
    answers = forking.Queue()
    with RewardClient(url) as client:
        client.score(TEXTS, rewards=["echo"])
        child = forking.Process(target=scored_in_a_child, args=[client, answers], daemon=True)
        child.start()
        assert answers.get(timeout=30) == [1.0, 2.0, 3.0]
        child.join(10)
        assert child.exitcode == 0
        assert client.score(TEXTS, rewards=["echo"]).rewards["echo"].scores == [1.0, 2.0, 3.0]


def test_a_call_under_way_when_its_client_is_closed_ends_and_says_so():
    began, errors = threading.Event(), []

    class Slow(Echo):
        async def score(self, items):
            began.set()
            await asyncio.sleep(5)
            return await super().score(items)

    def call(client):
        try:
            client.score(["a"])
        except RewardError as error:
            errors.append(str(error))

    with running_service(rewards={"echo": Slow()}) as slow:
        client = RewardClient(slow)
        caller = threading.Thread(target=call, args=[client], daemon=True)
        caller.start()
        assert began.wait(10)
        client.close()
        caller.join(3)
        assert errors == ["reward-client was closed while a call was in flight"]
        assert client.info().limits


def test_connections_of_a_loop_that_is_over_are_forgotten_once_another_one_comes(url):
    client = RewardClient(url)
    for _ in range(3):
        asyncio.run(client.ainfo())
    (loop,) = client._asker.transport._clients
    assert loop.is_closed()

    async def twice():
        await client.ainfo()
        (kept,) = client._asker.transport._clients.values()
        await client.ainfo()
        assert client._asker.transport._clients[asyncio.get_running_loop()] is kept
        await client.aclose()

    asyncio.run(twice())
    assert not client._asker.transport._clients


def test_another_loop_takes_no_connections_from_one_that_runs(url):
    with RewardClient(url) as client:
        client.info()
        (kept,) = client._asker.transport._clients.values()
        asyncio.run(client.ainfo())
        assert kept in client._asker.transport._clients.values()


def test_a_loop_that_was_stopped_takes_no_more_work():
    thread, done = EventLoopThread(), []

    async def last():
        done.append("last")

    thread.stop(last())
    with pytest.raises(RewardError, match="was closed"):
        thread.run(last())
    assert done == ["last"]


def test_what_a_service_says_of_itself_has_a_deadline_of_its_own():
    with RewardClient("http://127.0.0.1:9", timeout_s=60) as client, pytest.raises(RewardError, match=r"within 0.3 s"):
        client.info(timeout_s=0.3)


def test_the_addresses_are_named_in_the_repr():
    assert repr(RewardClient(["http://a/", "http://b"])) == "RewardClient(http://a, http://b)"


def another(reward):
    reward["revision"] = "of-the-other"


def test_a_call_that_two_revisions_answered_is_made_again_as_a_whole(url):
    with faults.spoiling(url, faults.rewritten(another)) as (spoilt, proxy), RewardClient(spoilt) as client:
        found = client.score(TEXTS, rewards=["echo"]).rewards["echo"]
    assert (found.scores, found.revision) == ([1.0, 2.0, 3.0], "1")
    assert proxy.scored >= 4


def renamed(answer):
    content = json.loads(answer.partition(b"\r\n\r\n")[2])
    content["rewards"] = {"of-yesterday": content["rewards"]["echo"]}
    return faults.body(json.dumps(content))(answer)


def test_a_call_whose_parts_different_rewards_scored_is_made_again_as_a_whole(url):
    with faults.spoiling(url, renamed) as (spoilt, proxy), RewardClient(spoilt) as client:
        found = client.score(TEXTS).rewards
    assert (list(found), found["echo"].scores, proxy.scored) == (["echo"], [1.0, 2.0, 3.0], 4)


class Newer(Echo):
    info = RewardInfo(name="echo", kind="function", description="", revision="2")


def test_a_call_in_chunks_is_scored_whole_by_one_of_replicas_with_several_revisions(url):
    settings = Settings(config=RULES, max_request_texts=2)
    with running_service(settings, {"echo": Newer()}) as newer, RewardClient([url, newer]) as client:
        found = [client.score(["a"] * 7, rewards=["echo"]).rewards["echo"] for _ in range(5)]
    assert {len(reward.scores) for reward in found} == {7}
    assert {reward.revision for reward in found} <= {"1", "2"}


@pytest.mark.parametrize("order", [1, -1])
def test_replicas_may_take_different_numbers_of_texts(url, order):
    with running_service(rewards={"echo": Echo()}) as many, RewardClient([url, many][::order]) as client:
        for _ in range(4):
            assert client.score(["a", "bb", "ccc"] * 3, rewards=["echo"]).rewards["echo"].scores == [1.0, 2.0, 3.0] * 3
        assert client._limits.max_request_texts <= 2, "later calls are of a size that all take"


@pytest.mark.parametrize("completions", [["a" * 300_000, "b", "c", "d"], ["a" * 300_000]])
def test_what_no_replica_takes_is_told_and_makes_later_calls_no_smaller(completions):
    settings = Settings(config=RULES, max_body_bytes=100_000)
    with running_service(settings, {"echo": Echo()}) as narrow, RewardClient(narrow) as client:
        with pytest.raises(BadRequest, match="may have 100000 bytes"):
            client.score(completions)
        assert client._limits == client.info().limits


def test_a_request_that_is_wrong_is_not_made_smaller(url):
    with RewardClient(url) as client, pytest.raises(BadRequest, match="columns"):
        client.score(TEXTS, columns={"answer": [1]})
    assert client._limits.max_request_texts == 2


def test_smaller_limits_are_half_of_what_was_sent_and_never_none():
    limits = Limits(max_request_texts=1024, max_body_bytes=1001, max_queue_texts=9)
    assert halved(limits, texts=9) == Limits(max_request_texts=4, max_body_bytes=500, max_queue_texts=9)
    least = Limits(max_request_texts=1, max_body_bytes=1, max_queue_texts=9)
    assert halved(least, texts=1) == least


def test_limits_that_keep_to_two_are_no_larger_than_either():
    flat = Limits(max_request_texts=8, max_body_bytes=100, max_queue_texts=9)
    slim = Limits(max_request_texts=2, max_body_bytes=900, max_queue_texts=9)
    assert (
        smaller(flat, slim) == smaller(slim, flat) == Limits(max_request_texts=2, max_body_bytes=100, max_queue_texts=9)
    )


async def test_what_a_call_learns_stays_though_one_that_began_before_ends_after_it():
    large = Limits(max_request_texts=64, max_body_bytes=10_000, max_queue_texts=64)
    client, ends = RewardClient("http://a"), asyncio.Event()
    client._limits = large

    async def whole(bodies, *_):
        if bodies[0][1] == 1:
            await ends.wait()
        elif bodies[0][1] > 2:
            raise BadRequest("too large", status=413, code="too_large")
        return "scored"

    client._whole = whole
    before = asyncio.create_task(client.ascore(["a"]))
    await asyncio.sleep(0)
    assert await client.ascore(["a"] * 8) == "scored"
    learned = client._limits
    assert learned.max_request_texts == 2
    ends.set()
    assert await before == "scored"
    assert client._limits == learned


def test_one_that_always_gets_two_revisions_is_given_up(url):
    every = [faults.rewritten(another), None] * TRIES
    with (
        faults.spoiling(url, every=iter(every)) as (spoilt, proxy),
        RewardClient(spoilt) as client,
        pytest.raises(RevisionChanged, match="several revisions: 1, of-the-other"),
    ):
        client.score(TEXTS, rewards=["echo"])
    assert 2 * TRIES - 1 <= proxy.scored <= 2 * TRIES


def test_however_often_a_call_is_made_again_only_the_revision_asked_for_counts(url):
    every = [renamed, None] * (TRIES - 1) + [faults.rewritten(another)] * 2
    with (
        faults.spoiling(url, every=iter(every)) as (spoilt, proxy),
        RewardClient(spoilt) as client,
        pytest.raises(RevisionChanged, match="'echo' changed"),
    ):
        client.score(TEXTS, revisions={"echo": "1"})
    assert proxy.scored >= 2 * (TRIES - 1) + 1


async def test_a_call_that_waits_for_its_turn_says_what_time_is_left_when_it_is_sent(url, monkeypatch):
    monkeypatch.setattr("remote_rewards.aimd_limit.AT_ONCE", 1)
    told_ms = []

    class Slow(Echo):
        async def score(self, items):
            told_ms.append(1000 * (items.deadline_s - time.monotonic()))
            await asyncio.sleep(0.5)
            return await super().score(items)

    with running_service(rewards={"echo": Slow()}) as slow:
        client = RewardClient(slow, timeout_s=10)
        await client.ainfo()
        await asyncio.gather(*(client.ascore(["a"]) for _ in range(3)))
        await client.aclose()
    first, second, third = told_ms
    assert 10_000 >= first >= second + 400 >= third + 800


async def test_a_call_whose_turn_never_comes_is_no_fault_of_the_service(monkeypatch):
    monkeypatch.setattr("remote_rewards.aimd_limit.AT_ONCE", 1)
    began, ends = threading.Event(), threading.Event()

    class Slow(Echo):
        async def score(self, items):
            began.set()
            await asyncio.to_thread(ends.wait, 30)
            return await super().score(items)

    with running_service(rewards={"echo": Slow()}) as slow:
        patient, hasty = RewardClient(slow), RewardClient(slow, timeout_s=0.5)
        hasty._asker = patient._asker
        await patient.ainfo()
        hasty._limits = patient._limits
        under_way = asyncio.create_task(patient.ascore(["a"]))
        assert await asyncio.to_thread(began.wait, 10)
        with pytest.raises(ServiceUnreachable, match="under way all the time"):
            await hasty.ascore(["a"])
        ends.set()
        assert (await under_way).rewards["echo"].scores == [1.0]
        await patient.aclose()
