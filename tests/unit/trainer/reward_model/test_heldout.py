import pytest
from transformers import AutoTokenizer

from shared.model_store import resolve
from shared.model_store.embedded.ratings import Rating
from trainer.reward_model.heldout import of_pairs, of_ratings
from trainer.reward_model.pairs import Pair
from trainer.reward_model.reading import Reader


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(resolve("embedded:minilm"))


def test_pairs_share_texts(tokenizer):
    """A text that is in several pairs of a prompt is one text; that of another prompt or source is another."""
    pairs = [
        Pair("Good.", "Bad.", "p"),
        Pair("Good.", "So-so!", "p"),
        Pair("Bad.", "So-so!", "q"),
        Pair("Good.", "Bad.", "p", "s"),
    ]
    heldout = of_pairs(Reader(tokenizer, "pair", 64).encode_pairs(pairs))
    assert (heldout.chosen.tolist(), heldout.rejected.tolist()) == ([0, 0, 1, 2], [3, 4, 5, 6])
    for positions, side in ((heldout.chosen, "chosen"), (heldout.rejected, "rejected")):
        texts = [getattr(pair, side) for pair in pairs]
        assert [heldout.lengths[position] for position in positions] == [len(text) for text in texts]
        assert [heldout.sources[position] for position in positions] == [pair.source for pair in pairs]


def test_ratings_that_do_not_fit(tokenizer):
    """A sentence that is too long for the model is in no pair, and the others keep their ratings."""
    ratings = [Rating("a", -2.0, "Bad. " * 9), Rating("a", 1.0, "Good."), Rating("a", -1.0, "Bad.")]
    heldout = of_ratings(ratings, Reader(tokenizer, "text", 8))
    assert (heldout.ratings, heldout.chosen.tolist(), heldout.rejected.tolist()) == ([1.0, -1.0], [0], [1])
    assert len(of_ratings(ratings, Reader(tokenizer, "completion", 8)).chosen) == 3


def test_no_pairs():
    """Where nothing is held out there is nothing to score."""
    heldout = of_pairs([])
    assert (len(heldout.texts), len(heldout.chosen)) == (0, 0)
