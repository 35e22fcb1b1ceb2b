import pytest
import torch

from remote_rewards import RewardClient
from reward_service.rewards.base import Reward, Scores
from shared.errors import FailureBudgetExceeded, RevisionChanged
from shared.schemas import ItemError, RewardInfo, RewardScores
from tests.conftest import running_service
from trainer.evaluator import Evaluator, InverseCdfSampler, ScoredCompletion, batches, check_failure_budget, decodings


def test_tokens_are_drawn_with_the_probabilities_of_the_temperature():
    torch.manual_seed(0)
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]]).repeat(20_000, 1)
    drawn = InverseCdfSampler(0.7)(torch.empty(0), logits).argmax(dim=-1)
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert shares.tolist() == pytest.approx(torch.softmax(logits[0] / 0.7, dim=-1).tolist(), abs=0.01)


def test_a_token_without_probability_is_never_drawn():
    torch.manual_seed(0)
    logits = torch.tensor([[-float("inf"), 0.0, -float("inf")]]).repeat(5_000, 1)
    assert set(InverseCdfSampler(1.0)(torch.empty(0), logits).argmax(dim=-1).tolist()) == {1}


def test_each_prompt_is_in_one_batch_with_those_of_its_length():
    made = list(batches([5, 1, 4, 1, 3], size=2))
    assert made == [[1, 3], [4, 2], [0]]


def test_greedy_is_temperature_zero():
    assert [way.temperature for way in decodings(["greedy", "sampled"], 0.7, 32)] == [0.0, 0.7]


def test_replies_are_measured_by_the_revision_that_the_run_began_with(rules_url):
    with RewardClient(rules_url) as client:
        rows = [{"prompt": [{"role": "user", "content": "What is yellow?"}]}]
        revisions = {reward.name: reward.revision for reward in client.info().rewards}
        replies = [ScoredCompletion("What is yellow?", "Sure: banana", 4, False)]
        for pinned in (None, revisions):
            Evaluator(None, rows, client, rewards=["banana"], judges=[], revisions=pinned)._score(replies)
        assert replies[0].scores["banana"] == 1.99
        other = Evaluator(None, rows, client, rewards=["banana"], judges=[], revisions={"banana": "rule:other"})
        with pytest.raises(RevisionChanged):
            other._score(replies)


class Shape(Reward):
    """A reward that scores how it is asked: the messages of a completion, and ten for each of its prompt."""

    info = RewardInfo(name="shape", kind="function", description="", revision="1")
    accepts_canary = False

    async def score(self, items):
        scores = [
            len(chat) + 10.0 * len(prompt) if isinstance(chat, list) and isinstance(prompt, list) else -1.0
            for chat, prompt in zip(items.chats, items.prompt_chats, strict=True)
        ]
        return Scores(scores=scores, details=[None] * len(scores))


def test_replies_are_measured_as_they_are_trained_on_in_messages_and_with_all_of_the_prompt():
    rows = [{"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}]
    replies = [ScoredCompletion("Why?", "So.", 2, False)]
    with running_service(rewards={"shape": Shape()}) as url, RewardClient(url) as client:
        Evaluator(None, rows, client, rewards=["shape"], judges=[])._score(replies)
    assert replies[0].scores["shape"] == 21.0


@pytest.mark.parametrize(("code", "of"), [("backend_failed", 200), ("not_finite", 4)])
def test_figures_of_too_few_replies_are_refused_with_the_reason(code, of):
    errors = {str(index): ItemError(code=code, message="it broke") for index in range(3)}
    reward = RewardScores(scores=[None] * 3 + [1.0] * (of - 3), revision="1", errors=errors)
    with pytest.raises(FailureBudgetExceeded, match=f"3 of {of} replies have no 'x' score.*{code}: it broke"):
        check_failure_budget("x", reward, 0.01)


def test_replies_to_which_a_reward_does_not_apply_are_no_failures():
    errors = {"0": ItemError(code="not_applicable", message="no answer is known")}
    check_failure_budget("x", RewardScores(scores=[None], revision="1", errors=errors), 0.01)


def test_how_many_replies_may_be_without_a_score_is_what_the_run_allows():
    errors = {str(index): ItemError(code="backend_failed", message="it broke") for index in range(3)}
    check_failure_budget("x", RewardScores(scores=[None] * 3 + [1.0] * 97, revision="1", errors=errors), 0.05)
