import pytest
from pydantic import ValidationError

from shared.schemas import Message, RewardScores, ScoreRequest, conversation_of, text_of


def test_the_text_of_a_chat_is_what_the_assistant_says():
    chat = [
        Message(role="assistant", content=None, tool_calls=[{"name": "look"}]),
        Message(role="tool", content="42"),
        Message(role="assistant", content="It is 42."),
        Message(role="assistant", content=[{"type": "text", "text": "Really"}, {"type": "text", "text": "."}]),
    ]
    assert text_of(chat) == "It is 42.\nReally."


def test_a_part_of_a_message_has_text_or_adds_nothing():
    parts = [{"type": "image", "url": "x"}, {"type": "text", "text": None}, {"type": "text", "text": "None"}]
    message = Message.model_validate({"role": "assistant", "content": parts})
    assert text_of([message]) == "None"
    assert message.model_dump(exclude_unset=True)["content"] == parts
    with pytest.raises(ValidationError):
        Message.model_validate({"role": "assistant", "content": [{"type": "text", "text": {"a": 1}}]})


def test_a_prompt_is_all_that_was_said():
    chat = [Message(role="system", content="Be brief."), Message(role="user", content="Hi")]
    assert conversation_of(chat) == "Be brief.\nHi"


def test_a_tool_call_alone_is_an_empty_text():
    assert text_of([Message(role="assistant")]) == ""


@pytest.mark.parametrize("extra", [{"prompts": ["a"]}, {"columns": {"answer": ["x", "y", "z"]}}])
def test_columns_of_another_length_are_refused(extra):
    with pytest.raises(ValidationError, match="completions has 2"):
        ScoreRequest.model_validate({"completions": ["a", "b"], **extra})


def test_a_null_without_a_reason_is_refused():
    with pytest.raises(ValidationError, match="exactly the items without a score"):
        RewardScores(scores=[None], revision="r")


@pytest.mark.parametrize("score", ["NaN", "Infinity", '"1.0e400"', "1e400"])
def test_a_score_that_is_no_number_is_refused(score):
    with pytest.raises(ValidationError):
        RewardScores.model_validate_json(f'{{"scores": [{score}], "revision": "r"}}')


@pytest.mark.parametrize("values", [None, 1, {}])
def test_a_column_that_is_no_list_is_refused(values):
    with pytest.raises(ValidationError, match=r"columns\.x is not a list"):
        ScoreRequest.model_validate({"completions": ["a"], "columns": {"x": values}})
