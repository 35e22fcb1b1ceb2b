import pytest

from reward_service.rewards.rules import banana, content_words
from reward_service.text import completion_text
from shared.schemas import ScoreRequest
from tests.conftest import cases, spelled_out


@pytest.mark.parametrize("case", cases("banana_cases.jsonl"))
def test_banana_table(case):
    """The banana rule gives the scores and details of the table."""
    request = ScoreRequest.model_validate({"completions": [spelled_out(case, "completion")]})
    parts = banana(completion_text(request.completions[0]))
    assert parts == pytest.approx(case["details"], abs=1e-9)
    assert sum(parts.values()) == pytest.approx(case["score"], abs=1e-9)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("Sure: banana", 0.0),
        ("", 0.0),
        ("Sure: bread, bread, bread banana", 0.2),
        ("Rain falls from grey clouds.", 0.8),
    ],
)
def test_content_words(text, share):
    """Content words are distinct, and neither stop words nor the format's own."""
    assert content_words(text)["content_words"] == pytest.approx(share)


def test_content_words_maximum():
    """Five content words give the full score."""
    assert content_words("Rain falls slowly from heavy grey clouds over mountains")["content_words"] == 1.0
