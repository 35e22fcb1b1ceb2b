import pytest
from pydantic import ValidationError

from shared.schemas import RewardScores, ScoreRequest, format_pins, parse_pins


@pytest.mark.parametrize("extra", [{"prompts": ["a"]}, {"columns": {"answer": ["x", "y", "z"]}}])
def test_columns_must_have_one_length(extra):
    """Prompts and columns must be as long as the completions."""
    with pytest.raises(ValidationError, match="completions has 2"):
        ScoreRequest.model_validate({"completions": ["a", "b"], **extra})


def test_a_null_score_needs_an_error():
    """A score may be null only if `errors` names its index."""
    with pytest.raises(ValidationError, match="exactly the items without a score"):
        RewardScores(scores=[None], revision="r")


@pytest.mark.parametrize("score", ["NaN", "Infinity", '"1.0e400"', "1e400"])
def test_scores_must_be_finite_numbers(score):
    """A score must be a finite JSON number."""
    with pytest.raises(ValidationError):
        RewardScores.model_validate_json(f'{{"scores": [{score}], "revision": "r"}}')


@pytest.mark.parametrize("values", [None, 1, {}])
def test_a_column_must_be_a_list(values):
    """The error names the column that is not a list."""
    with pytest.raises(ValidationError, match=r"columns\.x is not a list"):
        ScoreRequest.model_validate({"completions": ["a"], "columns": {"x": values}})


def test_pins_survive_the_header():
    """A header carries the pinned revisions; one that it cannot carry is left out."""
    pins = {"banana": "rule:3f2a", "sentiment": "sha256:9b=1c"}
    assert parse_pins(format_pins({**pins, "odd": "a, b", "foreign": "révision"})) == pins
    assert parse_pins("") == {}


@pytest.mark.parametrize("header", ["banana", "banana=", "=rule:1", "banana=rule:1, sentiment"])
def test_malformed_pins(header):
    """A pin without a name or a revision is an error, not ignored."""
    with pytest.raises(ValueError, match="is no pin"):
        parse_pins(header)
