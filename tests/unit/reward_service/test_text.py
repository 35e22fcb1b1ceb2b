import time

import pytest
from pydantic import ValidationError

from reward_service.text import completion_text, prompt_text, without_end_of_turn
from shared.schemas import Message


def test_completion_text_is_the_assistants():
    """The text of a chat completion is what the assistant says; tool calls and tool results add nothing."""
    chat = [
        Message(role="assistant", content=None, tool_calls=[{"name": "look"}]),
        Message(role="tool", content="42"),
        Message(role="assistant", content="It is 42."),
        Message(role="assistant", content=[{"type": "text", "text": "Really"}, {"type": "text", "text": "."}]),
    ]
    assert completion_text(chat) == "It is 42.\nReally."


def test_parts_without_text_are_skipped():
    """A content part that is not text, such as an image, is accepted and adds nothing; text must be a string."""
    parts = [{"type": "image", "url": "x"}, {"type": "text", "text": None}, {"type": "text", "text": "None"}]
    message = Message.model_validate({"role": "assistant", "content": parts})
    assert completion_text([message]) == "None"
    assert message.model_dump(exclude_unset=True)["content"] == parts
    with pytest.raises(ValidationError):
        Message.model_validate({"role": "assistant", "content": [{"type": "text", "text": {"a": 1}}]})


def test_prompt_text_is_every_message():
    """The text of a chat prompt is every message, whatever its role."""
    chat = [Message(role="system", content="Be brief."), Message(role="user", content="Hi")]
    assert prompt_text(chat) == "Be brief.\nHi"


def test_a_lone_tool_call_is_empty_text():
    """A completion that holds nothing but a tool call has the empty text."""
    assert completion_text([Message(role="assistant")]) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a banana", "a banana"),
        ("a banana<|im_end|>", "a banana"),
        ("a banana \n<|im_end|>\n</s></s>\n", "a banana \n"),
        ("a </s> b", "a </s> b"),
        ("a </s> b \n", "a </s> b \n"),
        ("</s>", ""),
        ("", ""),
        ("a.*", "a.*"),
    ],
)
def test_without_end_of_turn(text, expected):
    """Markers at the end are removed with the whitespace after them; a text without a marker is unchanged."""
    assert without_end_of_turn(text, ["<|im_end|>", "</s>", ".."]) == expected


def test_without_any_marker():
    """Without markers a text is unchanged."""
    assert without_end_of_turn("a </s>", []) == "a </s>"


def test_many_end_of_turn_markers():
    """A long text of markers takes no quadratic time."""
    started_s = time.process_time()
    assert without_end_of_turn("</s> " * 400_000 + "a", ["</s>"])[-1] == "a"
    assert without_end_of_turn("</s> " * 400_000, ["</s>"]) == ""
    assert without_end_of_turn(" " * 2_000_000, ["</s>"])[-1] == " "
    assert time.process_time() - started_s < 5
