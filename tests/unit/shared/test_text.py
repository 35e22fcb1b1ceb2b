import pytest

from remote_rewards import text_of

PARTS = [{"type": "text", "text": "two "}, {"type": "image"}, {"type": "text", "text": "parts"}]
CALL = {"role": "assistant", "content": None}


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("plain", "plain"),
        ([{"role": "assistant", "content": "a chat"}], "a chat"),
        ([{"role": "assistant", "content": PARTS}], "two parts"),
        ([CALL, {"role": "tool", "content": "4"}, {"role": "assistant", "content": "It is 4"}], "It is 4"),
        ([{"role": "assistant"}], ""),
        ([], ""),
    ],
)
def test_text_of(completion, text):
    """The text of a completion is what the assistant says, however the messages write it."""
    assert text_of(completion) == text
