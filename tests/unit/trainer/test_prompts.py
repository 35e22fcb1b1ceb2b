import inspect
import json

import pytest

from remote_rewards.trl import RemoteReward
from trainer.errors import TrainerError
from trainer.prompts import (
    RESERVED_ARGUMENTS,
    check_disjoint,
    columns_of,
    prompt_id_of,
    read_prompts,
    to_dataset,
    user_text,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "prompts.jsonl"


def user_texts(path):
    return [user_text(row["prompt"]) for row in read_prompts(str(path))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no prompts"),
        ("{oops", "line 1"),
        ('{"prompt": ""}', "line 1"),
        ('{"x": 1}', 'key "prompt"'),
        ('{"prompt": "a"}\n\n \n{oops', "line 4 is not"),
        ('{"prompt": "half of \\ud83d"}', "line 1 contains a lone surrogate"),
        ('{"prompt": ["hi"]}', "line 1: a prompt is a non-empty string or list of chat messages"),
        ('{"prompt": [{"role": "user"}]}', "line 1: a prompt is"),
        ('{"prompt": [{"content": "hi"}]}', "line 1: a prompt is"),
        ('{"prompt": [{"role": "user", "content": 1}]}', "line 1: a prompt is"),
        ('{"prompt": [{"role": "user", "content": [{"type": "image"}]}]}', "line 1: a prompt is"),
        ('{"prompt": "a", "x": NaN}', "line 1: the column 'x' holds NaN"),
        ('{"prompt": "a", "x": [{"y": -1e999}]}', "line 1: the column 'x' holds NaN or an infinite number"),
        ('{"prompt": "a", "x": ' + "[" * 52 + "]" * 52 + "}", "line 1: the column 'x' nests deeper than 50"),
        ('{"prompt": "a", "x": ' + '{"y":' * 900 + "1" + "}" * 901, "line 1: the column 'x' nests deeper than 50"),
        ('{"prompt": "a", "x": ' + "[" * 5000 + "]" * 5000 + "}", "line 1.* nests deeper than 50 levels"),
        ('{"prompt": "a", "images": []}', "line 1: a column cannot be called 'images'"),
    ],
)
def test_wrong_line(path, content, message):
    """A line that cannot be used is an error with its number and the reason."""
    path.write_text(content)
    with pytest.raises(TrainerError, match=message):
        read_prompts(str(path))


def test_not_utf_8(path):
    """A file that is not UTF-8 is an error."""
    path.write_text('{"prompt": "Où ?"}', encoding="latin-1")
    with pytest.raises(TrainerError, match="is not UTF-8"):
        read_prompts(str(path))


def test_byte_order_mark(path):
    """A file may begin with a byte order mark."""
    path.write_text('{"prompt": "Où ?"}', encoding="utf-8-sig")
    assert user_texts(path) == ["Où ?"]


def test_unusual_characters(path):
    """A prompt may hold Unicode line separators and escaped surrogate pairs."""
    path.write_text('{"prompt": "a\u2028b"}\n{"prompt": "\\ud83d\\ude00"}\n', encoding="utf-8")
    assert user_texts(path) == ["a\u2028b", "😀"]


def test_reserved_column_names(path):
    """A column may not have the name of a parameter of the reward function."""
    parameters = inspect.signature(RemoteReward.__call__).parameters.values()
    names = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    assert names == RESERVED_ARGUMENTS
    for name in RESERVED_ARGUMENTS:
        path.write_text(json.dumps({"prompt": "a", name: "b"}))
        with pytest.raises(TrainerError, match=f"a column cannot be called '{name}'"):
            read_prompts(str(path))


def test_columns_and_system_prompt(path):
    """Other keys of a line are columns, None where a line lacks them; the system prompt comes first."""
    path.write_text('{"prompt": "a", "answer": 1}\n{"prompt": [{"role": "user", "content": "b"}]}')
    rows = read_prompts(str(path), system_prompt="s")
    assert [user_text(row["prompt"]) for row in rows] == ["a", "b"]
    assert all(row["prompt"][0] == {"role": "system", "content": "s"} for row in rows)
    assert columns_of(rows) == {"answer": [1, None]}


def test_few_shot_examples(path, tmp_path):
    """Examples are turns between the system prompt and every prompt, whose text remains the last user message."""
    path.write_text('{"prompt": "a"}\n{"prompt": "b"}')
    examples = tmp_path / "examples.jsonl"
    examples.write_text('{"prompt": "c", "completion": "d"}\n{"prompt": "e", "completion": "f"}')
    rows = read_prompts(str(path), system_prompt="s", few_shot=str(examples))
    assert [message["content"] for message in rows[1]["prompt"]] == ["s", "c", "d", "e", "f", "b"]
    assert [message["role"] for message in rows[1]["prompt"]] == ["system", *["user", "assistant"] * 2, "user"]
    assert [user_text(row["prompt"]) for row in rows] == ["a", "b"]
    with pytest.raises(TrainerError, match="1 held-out prompts are also trained on, such as 'b'"):
        check_disjoint(rows, rows[1:])
    examples.write_text('{"prompt": "c", "completion": " "}')
    with pytest.raises(TrainerError, match='example 1: "completion" is not a text; write the answer to imitate'):
        read_prompts(str(path), few_shot=str(examples))


def test_columns_of_later_rows():
    """A column that only a later row has is None in the rows before."""
    prompts = [[{"role": "user", "content": text}] for text in "ab"]
    dataset = to_dataset([{"prompt": prompts[0]}, {"prompt": prompts[1], "answer": "x"}])
    assert (dataset["answer"][:], dataset["prompt"][:]) == ([None, "x"], prompts)


@pytest.mark.parametrize(
    "values",
    [
        [1, 2],
        [0.5, None],
        [1, 2.5, -0.0],
        [True, 2, 0.5],
        [2**53 + 1, 0.5, 2**64],
        [1, "one", "1", "null", None],
        [[], [1], [2.5], [[None]]],
        [{}, {"x": 1}, {"x": 2.5, "y": {"z": []}}, {"y": "é\x00"}],
    ],
)
def test_column_values_are_unchanged(values):
    """The dataset gives each value as it is in the file, whatever the column's other values are."""
    rows = [{"prompt": [{"role": "user", "content": "a"}], "answer": value} for value in values]
    assert repr(list(to_dataset(rows))) == repr(rows)  # compared as text, because 1 == 1.0 == True


def test_message_keys_are_unchanged():
    """A message keeps its own keys, whatever keys others have."""
    messages = [{"role": "user", "content": "a", "name": "b"}, {"role": "user", "content": "c"}]
    dataset = to_dataset([{"prompt": [message]} for message in messages])
    assert dataset["prompt"][:] == [[message] for message in messages]


def test_same_columns_as_in_evaluation(path):
    """Rewards get the same columns in training as in evaluation."""
    path.write_text('{"prompt": "a", "answer": 1}\n{"prompt": "b", "answer": {"x": 0.5}, "hint": []}\n{"prompt": "c"}')
    rows = read_prompts(str(path))
    assert columns_of(list(to_dataset(rows))) == columns_of(rows)


def test_check_disjoint():
    """A held-out prompt that is also trained on is an error, whatever its case and outer whitespace."""
    rows, heldout = (
        [{"prompt": [{"role": "user", "content": text}]}] for text in ("What is a cloud?", " what is a cloud?\n")
    )
    check_disjoint(rows, [])
    with pytest.raises(TrainerError, match="1 held-out prompts are also trained on"):
        check_disjoint(rows, heldout)


def test_prompt_ids():
    """Equal conversations have the same id, and others another one, even if they end in the same message."""
    last = {"role": "user", "content": "Continue."}
    chats = [[{"role": "user", "content": text}, last] for text in ("a", "b", "a")]
    first, other, same = map(prompt_id_of, chats)
    assert first == same != other
