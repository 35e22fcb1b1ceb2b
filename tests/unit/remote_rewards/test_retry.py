"""The loop in which calls are repeated, with replicas that do as they are told, in virtual time."""

import asyncio
import itertools
import selectors
from dataclasses import dataclass, field
from functools import partial
from random import Random
from types import SimpleNamespace

import pytest

from remote_rewards import discovery, retry
from remote_rewards.aimd_limit import AT_ONCE
from remote_rewards.keys import ApiKey
from remote_rewards.limiter import NoTurn
from remote_rewards.retry import Asker, Patience
from remote_rewards.transport import Call, told_s
from shared.errors import (
    BadRequest,
    InternalServerError,
    InvalidResponse,
    NotReady,
    Overloaded,
    RevisionChanged,
    ServiceUnreachable,
    Unauthorized,
)

A, B, C = "http://a", "http://b", "http://c"
CALL = Call("POST", "/v1/score", b"{}")
BROKEN = partial(InternalServerError, "it answered 500", status=500, code="failed")
DOWN = partial(ServiceUnreachable, "nobody there")
FULL = partial(Overloaded, "full", status=429, code="overloaded", retry_after_s=2.0)
LOADING = partial(NotReady, "loading", status=503, code="loading")
NEVER = 1e9


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to whatever comes next instead of waiting for it."""

    def __init__(self):
        super().__init__(selectors.DefaultSelector())
        self.now_s = 1000.0

    def time(self):
        return self.now_s

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now_s = max(self.now_s, self._scheduled[0].when())
        super()._run_once()


@dataclass
class Replicas:
    """Stands for the network: answers after so many seconds, or with an error, as each address was told."""

    loop: VirtualLoop
    answers: dict[str, list]
    sent: list[tuple[float, str, float]] = field(default_factory=list)
    """When, where to, and within which time."""

    async def send(self, url, call, until_s):
        assert call is CALL
        allowed_s = until_s - self.loop.now_s
        self.sent.append((round(self.loop.now_s - 1000.0, 6), url, round(allowed_s, 6)))
        told = self.answers[url]
        answer = told.pop(0) if len(told) > 1 else told[0]
        if callable(answer):
            raise answer()
        await asyncio.sleep(min(answer, allowed_s))
        if answer > allowed_s:
            raise DOWN()
        return f"{url} answers"


@pytest.fixture
def loop(monkeypatch):
    loop = VirtualLoop()
    for module in (retry, discovery):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=loop.time))
    monkeypatch.setattr(retry, "random", SimpleNamespace(random=lambda: 0.5))
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.fixture
def ask(loop):
    """Ask replicas that answer as told; give the answer, or the error, and what was sent."""

    def run(answers, *, urls=None, key=None, parse=lambda response: response, timeout_s=None, times=1, **patience):
        asker = Asker(urls or list(answers), ApiKey(key), Patience(**{"timeout_s": 20.0, **patience}))
        asker.transport, asker.took_s = Replicas(loop, answers), []
        for _ in range(times):
            began_s = loop.now_s
            try:
                result = loop.run_until_complete(asker.ask(CALL, parse, timeout_s=timeout_s))
            except Exception as error:
                result = error
            asker.took_s.append(loop.now_s - began_s)
        return result, asker

    return run


def test_the_first_answer_is_given_and_nothing_is_asked_again(ask):
    result, asker = ask({A: [0.1]})
    assert (result, asker.retries, len(asker.transport.sent)) == ("http://a answers", 0, 1)


def test_each_attempt_may_take_twice_as_long_as_the_one_before_and_none_longer_than_is_left(ask):
    error, asker = ask({A: [NEVER]}, attempt_timeout_s=1.0)
    allowed_s = [allowed for *_, allowed in asker.transport.sent]
    assert allowed_s[:4] == [1.0, 2.0, 4.0, 8.0]
    when, _, last = asker.transport.sent[-1]
    assert when + last == pytest.approx(20.0)
    assert isinstance(error.__cause__, ServiceUnreachable)
    assert str(error) == "gave up after 5 attempts within 20 s; the last: nobody there"


def test_an_attempt_that_the_deadline_cuts_short_does_not_hide_what_was_wrong(ask):
    error, asker = ask({A: [BROKEN, NEVER]}, timeout_s=3.0)
    assert len(asker.transport.sent) == 2
    assert str(error) == "gave up after 2 attempts within 3 s; the last: it answered 500"
    error, _ = ask({A: [BROKEN, NEVER, DOWN, NEVER]}, timeout_s=5.0, attempt_timeout_s=1.0)
    assert str(error).endswith("the last: nobody there")


def test_a_call_has_its_own_deadline_where_it_says_so(ask):
    error, asker = ask({A: [NEVER]}, timeout_s=3.0)
    assert asker.transport.sent == [(0.0, A, 3.0)]
    assert str(error) == "gave up after 1 attempts within 3 s; the last: nobody there"


def test_what_asking_again_would_not_help_is_raised_at_once(ask):
    error, asker = ask({A: [partial(BadRequest, "wrong", status=422, code="bad_request")]})
    assert isinstance(error, BadRequest)
    assert (asker.retries, len(asker.transport.sent)) == (0, 1)


def test_attempts_that_are_made_again_are_counted_and_come_further_and_further_apart(ask):
    result, asker = ask({A: [DOWN, DOWN, DOWN, 0.0]})
    assert (result, asker.retries) == ("http://a answers", 3)
    assert [when for when, *_ in asker.transport.sent] == pytest.approx([0.0, 0.1, 0.3, 0.7])


def test_a_wait_that_would_outlast_the_deadline_is_not_begun(ask):
    error, asker = ask({A: [FULL]}, timeout_s=1.9)
    assert len(asker.transport.sent) == 1
    assert error.__cause__.retry_after_s == 2.0


def test_a_service_that_is_full_is_asked_again_when_it_said(ask):
    _, asker = ask({A: [FULL, 0.0]})
    assert [when for when, *_ in asker.transport.sent] == [0.0, 2.0]


def test_where_one_is_full_or_down_another_is_asked_at_once(ask):
    for fault in (FULL, DOWN):
        result, asker = ask({A: [fault], B: [0.0]})
        assert result == "http://b answers"
        assert [(when, url) for when, url, _ in asker.transport.sent] == [(0.0, A), (0.0, B)]


def test_with_no_retries_left_in_the_budget_they_come_slowly(ask):
    _, asker = ask({A: [LOADING]}, timeout_s=60.0)
    times = [when for when, *_ in asker.transport.sent]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps[:2]) < 0.75 <= min(gaps[10:])


def test_with_no_retries_left_another_replica_is_not_stormed_either(ask):
    _, asker = ask({A: [DOWN], B: [DOWN]}, timeout_s=30.0)
    times = [when for when, *_ in asker.transport.sent]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] == 0.0
    assert min(gaps[10:]) >= 0.75


def test_a_replica_that_serves_another_revision_is_passed_over_for_the_rest_of_the_call(ask):
    def parse(response):
        if response.startswith(A):
            raise RevisionChanged("of yesterday")
        return response

    result, asker = ask({A: [0.0], B: [DOWN, DOWN, 0.0]}, parse=parse)
    assert result == "http://b answers"
    assert [url for _, url, _ in asker.transport.sent] == [A, B, B, B]


def test_that_a_replica_serves_another_revision_is_told_though_the_others_are_down(ask):
    def parse(response):
        raise RevisionChanged("of yesterday")

    error, _ = ask({A: [0.0], B: [DOWN]}, parse=parse)
    assert isinstance(error, RevisionChanged)


def test_that_is_told_too_where_the_others_are_left_alone_until_the_deadline(ask):
    def parse(response):
        raise RevisionChanged("of yesterday")

    error, asker = ask({A: [0.0], B: [DOWN]}, parse=parse, timeout_s=0.05, times=2)
    assert [url for _, url, _ in asker.transport.sent] == [A, B, A]
    assert isinstance(error, RevisionChanged)


def test_a_replica_to_which_no_turn_came_is_not_taken_for_one_that_is_down(ask):
    busy = partial(NoTurn, "16 calls were under way all the time")
    _, asker = ask({A: [busy, 0.0]}, timeout_s=5.0)
    assert asker.replicas.endpoints[0].failures == 0
    error, asker = ask({A: [busy]}, timeout_s=5.0)
    assert "the last: 16 calls were under way" in str(error)


def test_where_all_serve_another_revision_the_call_ends(ask):
    def parse(response):
        raise RevisionChanged("of yesterday")

    error, asker = ask({A: [0.0], B: [0.0]}, parse=parse)
    assert isinstance(error, RevisionChanged)
    assert len(asker.transport.sent) == 2


def test_a_refused_key_is_tried_again_only_if_its_file_holds_another(ask, tmp_path):
    refused = partial(Unauthorized, "no", status=401, code="unauthorized")
    file = tmp_path / "key"
    file.write_text("the-key-of-yesterday")

    def changed():
        file.write_text("the-key-of-today")
        return refused()

    result, asker = ask({A: [changed, 0.0]}, key=file)
    assert (result, asker.retries) == ("http://a answers", 0)
    error, asker = ask({A: [refused, 0.0]}, key=file)
    assert isinstance(error, Unauthorized)

    def vanished():
        file.unlink()
        return refused()

    error, asker = ask({A: [vanished, 0.0]}, key=file)
    assert isinstance(error, Unauthorized)


def test_a_slow_attempt_is_made_at_another_replica_too(ask):
    result, asker = ask({A: [9.0], B: [0.5]}, hedge_after_s=1.0)
    assert result == "http://b answers"
    assert [(when, url) for when, url, _ in asker.transport.sent] == [(0.0, A), (1.0, B)]
    assert [each.outstanding for each in asker.replicas.endpoints] == [0, 0]


def test_neither_of_the_two_outlasts_the_call(ask):
    _, asker = ask({A: [NEVER], B: [NEVER]}, hedge_after_s=1.0, timeout_s=5.0)
    assert max(when + allowed_s for when, _, allowed_s in asker.transport.sent) <= 5.0


def test_a_quick_attempt_is_not(ask):
    result, asker = ask({A: [0.9], B: [0.5]}, hedge_after_s=1.0)
    assert (result, len(asker.transport.sent)) == ("http://a answers", 1)


def test_with_nobody_else_there_is_no_second_attempt(ask):
    result, asker = ask({A: [9.0]}, hedge_after_s=1.0)
    assert (result, len(asker.transport.sent)) == ("http://a answers", 1)


def test_second_attempts_are_taken_from_the_budget_of_retries(ask):
    _, asker = ask({A: [3.0], B: [3.0]}, hedge_after_s=1.0, times=40)
    assert 40 + 10 <= len(asker.transport.sent) <= 40 + 10 + 0.31 * 40


def test_a_replica_that_fails_is_left_alone_while_others_answer(ask):
    _, asker = ask({A: [DOWN], B: [0.01]}, times=20)
    assert [url for _, url, _ in asker.transport.sent].count(A) <= 3


NAME = "dns+http://rewards:8088"


@dataclass
class Names:
    """Stands for a name server: what it says of a name in turn, the last for ever, each after so many seconds."""

    says: list[list[str]]
    takes_s: list[float] = field(default_factory=lambda: [0.0])
    asked_s: list[float] = field(default_factory=list)

    async def addresses_of(self, url):
        if url != NAME:
            return [url]
        self.asked_s.append(asyncio.get_running_loop().time() - 1000.0)
        takes_s, found = (told.pop(0) if len(told) > 1 else told[0] for told in (self.takes_s, self.says))
        await asyncio.sleep(takes_s)
        return found


@pytest.fixture
def ask_by_name(ask, monkeypatch):
    """Ask a name, and the other URLs that are given; give the last answer, or the error, and what was sent."""

    def run(names, answers, *others, calls=1, **how):
        monkeypatch.setattr("remote_rewards.discovery.addresses_of", names.addresses_of)
        return ask(answers, urls=[*others, NAME], times=calls, **how)

    return run


def test_a_name_that_has_no_address_is_looked_up_until_the_time_is_over(ask_by_name):
    names = Names([[]])
    error, _ = ask_by_name(names, {}, timeout_s=5.0)
    assert str(error) == (
        f"gave up after 0 attempts within 5 s; the last: no address is known for {NAME}; check the name"
    )
    assert 4 <= len(names.asked_s) <= 6


def test_a_name_server_that_never_answers_does_not_outlast_the_call(ask_by_name):
    error, asker = ask_by_name(Names([[A]], [NEVER]), {A: [0.0]}, timeout_s=5.0)
    assert isinstance(error, ServiceUnreachable)
    assert asker.transport.loop.now_s <= 1005.1


def test_names_are_looked_up_again_while_a_replica_fails_and_once_a_second_at_most(ask_by_name):
    names = Names([[A]])
    ask_by_name(names, {A: [0.0]}, calls=5)
    assert len(names.asked_s) == 1
    names = Names([[A]])
    ask_by_name(names, {A: [DOWN]}, timeout_s=10.0)
    gaps = [later - earlier for earlier, later in itertools.pairwise(names.asked_s)]
    assert len(gaps) == 3
    assert min(gaps) >= 1.0


def test_no_call_waits_for_a_slow_name_server_while_a_replica_is_known(ask_by_name):
    names = Names([[A, B]], [0.0, 8.0])
    result, asker = ask_by_name(names, {A: [0.1], B: [DOWN]}, calls=100)
    assert result == "http://a answers"
    assert max(asker.took_s) < 1.0
    assert len(names.asked_s) == 1 + 2, "one at a time, while a replica fails"


def test_an_address_that_is_given_is_asked_before_the_name_beside_it_is_known(ask_by_name):
    result, asker = ask_by_name(Names([[B]], [8.0]), {A: [0.1]}, A)
    assert (result, asker.took_s) == ("http://a answers", [pytest.approx(0.1)])


def test_a_name_that_is_unknown_for_a_moment_keeps_its_replicas(ask_by_name):
    result, _ = ask_by_name(Names([[B], []]), {A: [DOWN], B: [DOWN, DOWN, DOWN, DOWN, 0.0]}, A)
    assert result == "http://b answers"


def test_a_name_that_is_unknown_at_first_is_looked_up_again_though_another_replica_answers(ask_by_name):
    names = Names([[], [], [B]])
    _, asker = ask_by_name(names, {A: [0.5], B: [0.5]}, A, calls=20)
    assert {url for _, url, _ in asker.transport.sent} == {A, B}
    assert len(names.asked_s) == 3


def test_an_address_that_two_urls_lead_to_is_one_replica(ask_by_name):
    _, asker = ask_by_name(Names([[], [A]]), {A: [DOWN, DOWN, DOWN, DOWN, 0.0]}, A)
    assert [each.url for each in asker.replicas.endpoints] == [A]


def of_yesterday(*urls):
    def parse(response):
        if response.startswith(urls):
            raise RevisionChanged("of yesterday")
        return response

    return parse


def test_a_replica_that_is_wanted_and_new_to_the_name_is_found_where_all_known_are_passed_over(ask_by_name):
    names = Names([[A], [A, B]])
    result, asker = ask_by_name(names, {A: [1.5], B: [0.5]}, parse=of_yesterday(A))
    assert result == "http://b answers"
    assert asker.took_s == [pytest.approx(2.0)]


def test_what_all_were_passed_over_for_is_told_once_the_only_other_replica_has_left_the_name(ask_by_name):
    error, asker = ask_by_name(Names([[A, B], [A]]), {A: [0.0], B: [DOWN]}, parse=of_yesterday(A))
    assert isinstance(error, RevisionChanged)
    assert asker.took_s[0] < 5.0  # of twenty


def test_where_the_time_of_a_call_is_over_nobody_is_asked_and_nobody_blamed(ask):
    for timeout_s in (0.0, -0.5):
        error, asker = ask({A: [0.0]}, timeout_s=timeout_s)
        assert str(error) == "gave up after 0 attempts within 0 s; the last: no time was left to ask"
        assert (asker.transport.sent, asker.replicas.endpoints[0].failures) == ([], 0)


@pytest.mark.parametrize("refusal", [FULL, partial(NotReady, "loading", status=503, code="loading", retry_after_s=2.0)])
def test_a_replica_that_named_a_time_is_not_asked_by_the_same_call_before_though_the_other_fails(
    ask, monkeypatch, refusal
):
    monkeypatch.setattr(retry, "random", SimpleNamespace(random=lambda: 0.0))  # whoever waits does so briefly
    result, asker = ask({B: [refusal, 0.0], A: [DOWN]})
    assert result == "http://b answers"
    first_s, second_s = [when for when, url, _ in asker.transport.sent if url == B]
    assert second_s >= first_s + 2.0
    assert {url for when, url, _ in asker.transport.sent if first_s < when < second_s} == {A}, "the other is tried"


def test_what_answers_500_for_ever_is_given_up_long_before_the_deadline(ask):
    error, asker = ask({A: [BROKEN]}, timeout_s=300.0)
    assert 10.0 < asker.transport.loop.now_s - 1000.0 <= 20.0
    attempts = len(asker.transport.sent)
    assert attempts >= 6
    assert str(error) == f"gave up after {attempts} attempts within 20 s; the last: it answered 500"


def test_nor_do_several_replicas_that_all_do_so_take_longer(ask):
    _, asker = ask({A: [BROKEN], B: [BROKEN]}, timeout_s=300.0)
    assert asker.transport.loop.now_s - 1000.0 <= 20.0
    assert {url for _, url, _ in asker.transport.sent} == {A, B}


def test_a_deadline_that_comes_sooner_counts(ask):
    error, _ = ask({A: [BROKEN]}, timeout_s=3.0)
    assert "within 3 s; the last: it answered 500" in str(error)


@pytest.mark.parametrize("other", [DOWN, FULL, LOADING, partial(InvalidResponse, "garbage")])
def test_what_says_something_else_now_and_then_is_asked_until_the_deadline(ask, other):
    error, asker = ask({A: [BROKEN, BROKEN, other] * 99}, timeout_s=300.0)
    assert asker.transport.loop.now_s - 1000.0 > 280.0
    assert "within 300 s" in str(error)


def test_while_another_replica_may_come_back_it_is_waited_for(ask):
    result, asker = ask({A: [BROKEN], B: [DOWN] * 12 + [0.0]}, timeout_s=300.0)
    assert result == "http://b answers"
    assert asker.transport.loop.now_s - 1000.0 > 40.0


def test_who_asks_what_is_known_to_be_broken_asks_for_a_while_too(ask):
    _, asker = ask({A: [BROKEN]}, timeout_s=300.0, times=2)
    ended_s = asker.transport.loop.now_s - 1000.0
    assert 20.0 < ended_s <= 40.0
    assert len([when for when, *_ in asker.transport.sent if when > ended_s - 15.0]) > 2


def test_all_who_wait_for_what_is_broken_end_together(loop):
    async def crowd():
        calls = (asker.ask(CALL, lambda response: response) for _ in range(64))
        return await asyncio.gather(*calls, return_exceptions=True)

    asker = Asker([A], ApiKey(None), Patience())
    asker.transport = Replicas(loop, {A: [BROKEN]})
    errors = loop.run_until_complete(crowd())
    assert all("the last: it answered 500" in str(error) for error in errors)
    assert loop.now_s - 1000.0 <= 20.0


@pytest.fixture
def begun(loop):
    """Begin calls at one asker, one after the other; give them, and the asker."""

    def begin(answers, calls, **patience):
        asker = Asker(list(answers), ApiKey(None), Patience(timeout_s=20.0, **patience))
        asker.transport = Replicas(loop, answers)
        return [loop.create_task(asker.ask(CALL, lambda response: response)) for _ in range(calls)], asker

    return begin


def test_a_slow_call_from_before_a_failure_does_not_hold_up_the_others(begun, loop):
    (slow, failing), asker = begun({A: [9.0, DOWN, 0.0]}, 2)
    assert loop.run_until_complete(failing) == "http://a answers"
    assert [when for when, *_ in asker.transport.sent] == pytest.approx([0.0, 0.0, 0.1])
    assert loop.run_until_complete(slow) == "http://a answers"


@pytest.mark.parametrize("hedge_after_s", [None, 5.0])
def test_while_one_tries_a_replica_that_failed_all_others_wait(begun, loop, hedge_after_s):
    calls, asker = begun({A: [DOWN] * 8 + [3.0, 0.0]}, 8, hedge_after_s=hedge_after_s)
    assert loop.run_until_complete(asyncio.gather(*calls)) == ["http://a answers"] * 8
    tried_s, *later_s = [when for when, *_ in asker.transport.sent][8:]
    assert min(later_s) >= tried_s + 3.0


def test_second_attempts_that_are_made_at_once_are_shared_out_over_the_others(begun, loop):
    calls, asker = begun({A: [9.0], B: [0.5], C: [0.5]}, 6, hedge_after_s=1.0)
    loop.run_until_complete(asyncio.wait(calls))
    assert sorted(url for when, url, _ in asker.transport.sent if when == 1.0) == [B, C]
    assert [each.outstanding for each in asker.replicas.endpoints] == [0, 0, 0]


def test_a_replica_that_is_full_is_left_alone_for_as_long_as_it_says(begun, loop):
    (call,), asker = begun({A: [FULL, 0.0]}, 1)
    loop.run_until_complete(asyncio.sleep(0.5))
    assert asker.replicas.endpoints[0].full_until_s == pytest.approx(1002.0)
    loop.run_until_complete(call)


def test_after_one_failure_already_one_tries_for_all(begun, loop):
    calls, asker = begun({A: [9.0, DOWN, NEVER]}, 2)
    loop.run_until_complete(asyncio.sleep(1.0))
    (endpoint,) = asker.replicas.endpoints
    assert (endpoint.failures, endpoint.outstanding, endpoint.probing) == (1, 2, True)
    for call in calls:
        call.cancel()
    loop.run_until_complete(asyncio.wait(calls))
    assert (endpoint.outstanding, endpoint.probing) == (0, False)


def test_a_trial_that_is_cancelled_leaves_the_next_one_free_to_try(begun, loop):
    (given_up, patient), asker = begun({A: [DOWN, DOWN, NEVER, 0.0]}, 2)
    loop.run_until_complete(asyncio.sleep(1.0))
    assert (len(asker.transport.sent), asker.replicas.endpoints[0].probing) == (3, True)
    for call in (given_up, patient):
        call.cancel()
    loop.run_until_complete(asyncio.wait([given_up, patient]))
    assert loop.run_until_complete(asker.ask(CALL, lambda response: response)) == "http://a answers"


def test_what_a_parent_had_under_way_does_not_hold_up_a_forked_child(begun, loop, monkeypatch):
    (of_the_parent,), asker = begun({A: [DOWN, NEVER, 0.0]}, 1)
    loop.run_until_complete(asyncio.sleep(1.0))
    monkeypatch.setattr(retry, "os", SimpleNamespace(getpid=lambda: 0))
    assert loop.run_until_complete(asker.ask(CALL, lambda response: response)) == "http://a answers"
    assert loop.now_s == pytest.approx(1001.0, abs=0.1)
    of_the_parent.cancel()
    loop.run_until_complete(asyncio.wait([of_the_parent]))


def test_what_is_wrong_with_a_call_is_no_fault_of_its_replica(ask):
    def parse(response):
        raise RevisionChanged("of yesterday")

    for result in (partial(BadRequest, "wrong", status=422, code="bad_request"), 0.0):
        _, asker = ask({A: [result]}, parse=parse)
        assert (asker.replicas.endpoints[0].failures, asker.replicas.endpoints[0].closed_until_s) == (0, 0.0)


def test_each_replica_has_a_line_of_its_own(begun, loop):
    calls, asker = begun({A: [1.0], B: [1.0]}, 2 * AT_ONCE)
    loop.run_until_complete(asyncio.wait(calls))
    assert {when for when, *_ in asker.transport.sent} == {0.0}


@dataclass
class Small:
    """A service that computes one call at a time while three wait; more are refused."""

    loop: VirtualLoop
    inside: int = 0
    free_s: float = 0.0
    sent: int = 0

    async def send(self, url, call, until_s):
        self.sent += 1
        await asyncio.sleep(0.002)
        if self.inside == 4:
            raise Overloaded("full", status=429, code="overloaded", retry_after_s=1.0)
        self.inside += 1
        self.free_s = max(self.free_s, self.loop.now_s) + 0.05
        await asyncio.sleep(self.free_s - self.loop.now_s)
        self.inside -= 1
        return "answered"


def test_a_crowd_learns_what_a_service_takes_instead_of_being_refused_one_by_one(loop, monkeypatch):
    monkeypatch.setattr(retry, "random", Random(1))

    async def crowd():
        return await asyncio.gather(*(asker.ask(CALL, lambda response: response) for _ in range(100)))

    asker = Asker([A], ApiKey(None), Patience())
    asker.transport = Small(loop)
    assert loop.run_until_complete(crowd()) == ["answered"] * 100
    assert asker.transport.sent <= 150  # where sixteen go at a time whatever it answers: 427
    assert loop.now_s - 1000.0 < 6.0  # a hundred calls take five seconds


@dataclass
class Late:
    """A service that says at the time it was told that it is not in time."""

    loop: VirtualLoop
    sent: int = 0

    async def send(self, url, call, until_s):
        self.sent += 1
        await asyncio.sleep(told_s(until_s - self.loop.now_s))
        raise NotReady("the time allowed ran out", status=503, code="deadline_exceeded")


@pytest.mark.parametrize("timeout_s", [0.1, 1.0, 20.0])
def test_what_a_service_says_at_the_deadline_is_told_and_nothing_asked_in_the_moment_that_is_left(loop, timeout_s):
    asker = Asker([A], ApiKey(None), Patience(timeout_s=timeout_s))
    asker.transport = Late(loop)
    with pytest.raises(ServiceUnreachable, match=f"within {timeout_s:g} s; the last: the time allowed ran out$"):
        loop.run_until_complete(asker.ask(CALL, lambda response: response))
    assert asker.transport.sent == 1
