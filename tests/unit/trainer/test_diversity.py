import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ranks import outcomes_on_two_ranks
from trainer.diversity import diversity, mask_unscored, shared_with_others
from trainer.texts import word_pairs

WORDS = st.lists(st.sampled_from("a b c d".split()), max_size=6).map(" ".join)
COMPLETIONS = st.lists(st.tuples(st.sampled_from("xyz"), WORDS.map(word_pairs)), max_size=8)


def chats(*texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


def asked(*texts):
    return [[{"role": "user", "content": text}] for text in texts]


def test_phrase_of_all_prompts():
    """A phrase that completions of other prompts have costs; one that only the same prompt's have does not."""
    prompts = asked("rust?", "rust?", "glue?", "glue?")
    scores = diversity(prompts, chats("What a joy, rust", "Rust is red", "What a joy, glue", "Rust is red"))
    # "what a" and "a joy" are in one of two others, "joy rust" in none; "rust is" and "is red" in one of two others
    assert scores == pytest.approx([-1 / 3, -1 / 2, -1 / 3, -1 / 2])


def test_bounds():
    """The same text for every prompt is -1; completions of one prompt, and texts without two words, are 0."""
    assert diversity(asked("a", "b", "c"), chats(*["What a joy!"] * 3)) == [-1, -1, -1]
    assert diversity(asked("a", "a"), chats("What a joy!", "What a joy!")) == [0, 0]
    assert diversity(asked("a", "b"), chats("", "Joy!")) == [0, 0]
    assert diversity([], []) == []


def test_all_ranks():
    """A completion is compared with those of other prompts on all ranks."""
    code = """
from trainer.diversity import diversity
prompts = [[{"role": "user", "content": f"of rank {rank}"}]] * (1 + rank)
outcome = diversity(prompts, ["What a joy", "What now"][: 1 + rank])
"""
    assert outcomes_on_two_ranks(code) == [[-0.5], [-1.0, 0.0]]


@given(completions=COMPLETIONS)
def test_share_of_the_others(completions):
    """The share is, over a completion's pairs, the mean share of the other prompts' completions that have the pair."""
    for (prompt, pairs), share in zip(completions, shared_with_others(completions), strict=True):
        others = [have for other, have in completions if other != prompt]
        shares = [sum(pair in have for have in others) / len(others) for pair in pairs if others]
        assert share == pytest.approx(sum(shares) / len(shares) if shares else 0)


def test_no_score_no_reward():
    """A completion that no reward with a weight has scored gets no diversity, which would be its whole reward."""
    nan = float("nan")
    rewards = torch.tensor([[1.0, -0.5, 3.0], [nan, -0.5, 3.0], [2.0, -0.5, nan]])
    masked = mask_unscored(rewards, ["tone", "diversity", "watched"], [1.0, 2.0, 0.0])
    expected = torch.tensor([[1.0, -0.5, 3.0], [nan, nan, 3.0], [2.0, -0.5, nan]])
    assert torch.equal(masked.nan_to_num(9), expected.nan_to_num(9))
    assert mask_unscored(rewards, ["a", "b", "c"], [1.0, 1.0, 1.0]) is rewards
