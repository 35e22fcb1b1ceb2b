import json

import pytest

from trainer.errors import TrainerError
from trainer.jsonl_lines import MAX_LINE_BYTES
from trainer.reward_model.pairs import Pair
from trainer.sampled_completions import SampledCompletions, is_sampled, read_sampled, read_sampled_pairs

PROMPT, OTHER = [{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Ho"}]


def record(completion, score, prompt=PROMPT, **others):
    return {"prompt": prompt, "completion": completion, "scores": {"joy": score, **others}}


def turn(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture
def path(tmp_path):
    """The path of a file of completions."""
    return tmp_path / "completions.jsonl"


def write(path, *records):
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")


def test_best_and_worst(path):
    """Each prompt gives one pair: its best completion, and its worst."""
    write(
        path,
        *(record(text, score) for text, score in (("a", 1.0), ("b", 3.0), ("c", 2.0))),
        *(record(text, score, OTHER) for text, score in (("d", 0.0), ("e", -1.0))),
    )
    expected = [Pair(turn("b"), turn("a"), PROMPT), Pair(turn("d"), turn("e"), OTHER)]
    assert read_sampled_pairs(path, reward=None, margin=0.0) == expected


@pytest.mark.parametrize(
    "records",
    [
        [record("a", 1.0), record("b", None)],
        [record("a", 1.0), record(" ", -1.0)],
        [record("a", 1.0), record("b", 1.0)],
        [record("a", 1.0), record("b", 0.5)],
        [record("a", 1.0), record("b", 0.0, OTHER)],
    ],
    ids=["no score", "no text", "equal scores", "within the margin", "other prompt"],
)
def test_no_pair(records):
    """Without two scored texts of one prompt that are more than the margin apart, there is no pair."""
    assert SampledCompletions(records, "joy", None).best_and_worst(0.5) == []


def test_best():
    """Each prompt gives its best completion, if that reaches the bound."""
    records = [record("a", 1.0), record("b", 3.0), record(" ", 9.0), record("c", 0.0, OTHER), record("d", None, OTHER)]
    sampled = SampledCompletions(records, "joy", None)
    assert [best["completion"] for best in sampled.best(0.0)] == ["b", "c"]
    assert [best["completion"] for best in sampled.best(3.0)] == ["b"]
    assert sampled.best(3.5) == []


def test_reward_to_choose_by(path):
    """Pairs are chosen by the named reward, by default the first one of the file; another name is an error."""
    write(path, record("a", 1.0, calm=0.0), record("b", 0.0, calm=1.0))
    assert is_sampled(path)
    assert read_sampled_pairs(path, reward=None, margin=0.0)[0].chosen == turn("a")
    assert read_sampled_pairs(path, reward="calm", margin=0.0)[0].chosen == turn("b")
    with pytest.raises(TrainerError, match=r"no scores of 'clam'; did you mean 'calm'\?; it has joy, calm"):
        read_sampled_pairs(path, reward="clam", margin=0.0)
    with pytest.raises(TrainerError, match="gives no pair"):
        read_sampled_pairs(path, reward=None, margin=1.0)


def test_one_revision(path):
    """Completions that two revisions of the reward have scored are refused; the others' revisions do not matter."""
    first = {**record("a", 1.0), "revisions": {"joy": "1", "calm": "1"}}
    write(path, first, {**first, "revisions": {"joy": "1", "calm": "2"}})
    assert read_sampled(path, "joy").revision == "1"
    write(path, first, first, {**first, "revisions": {"joy": "2"}})
    with pytest.raises(TrainerError, match="line 3 was scored by revision 2 of 'joy', the lines before it by 1: "):
        read_sampled(path, "joy")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "Hi", "compl', "is not a JSON object: a sampled completion is an object with"),
        ("[1]", "is not a JSON object"),
        ('{"prompt": "Hi", "completion": null, "scores": {"joy": 1}}', "has no prompt or no completion"),
        ('{"prompt": 1, "completion": "a", "scores": {"joy": 1}}', "'prompt' is neither a string nor a list"),
        ('{"prompt": " ", "completion": "a", "scores": {"joy": 1}}', "'prompt' is empty"),
        ('{"prompt": "Hi", "completion": "a", "scores": {}}', "has no scores"),
        ('{"prompt": "Hi", "completion": "a", "scores": {"calm": 1}}', "has no score of 'joy', a number or null"),
        ('{"prompt": "Hi", "completion": "a", "scores": {"joy": NaN}}', "has no score of 'joy', a number or null"),
        (json.dumps(record("a" * 10_000_000, 1.0)), f"is longer than {MAX_LINE_BYTES:,} bytes"),
    ],
    ids=lambda value: value[:60],
)
def test_broken_line(path, line, message):
    """A line that is cut short, or is no sampled completion, is named in one sentence."""
    path.write_text(json.dumps(record("a", 1.0)) + "\n" + line, encoding="utf-8")
    with pytest.raises(TrainerError, match=f"line 2.*{message}") as caught:
        read_sampled(path)
    assert len(str(caught.value)) < 400


def test_joined_files():
    """Completions of a prompt from several files are one group: it gives one pair, and one best completion."""
    records = [record("a", 1.0), record("b", 0.0, OTHER), record("c", 3.0), record("d", 2.0, OTHER)]
    sampled = SampledCompletions(records, "joy", None)
    ends = [(best["completion"], worst["completion"]) for best, worst in sampled.best_and_worst(0.0)]
    assert ends == [("c", "a"), ("d", "b")]
    assert [best["completion"] for best in sampled.best(0.0)] == ["c", "d"]


def test_same_prompt_other_columns():
    """Completions that were scored by other columns, such as another answer, are not compared."""
    records = [{**record(str(score), score), "columns": {"answer": answer}} for answer, score in ((1, 0.0), (2, 1.0))]
    assert SampledCompletions(records, "joy", None).best_and_worst(0.0) == []


@pytest.mark.parametrize("start", ["\n", " \n\n", "\ufeff", "\ufeff\n"])
def test_first_line_is_empty(path, start):
    """Empty lines and a byte order mark before the first completion do not turn a file into one of pairs."""
    path.write_text(start + json.dumps(record("a", 1.0)) + "\n", encoding="utf-8")
    assert is_sampled(path)
    assert len(read_sampled(path).records) == 1


def test_pairs_are_not_samples(path):
    """A file of pairs, a broken or a missing one is not a file of completions."""
    path.write_text('{"chosen": "a", "rejected": "b"}\n', encoding="utf-8")
    assert not is_sampled(path)
    for content in ("{\n", "", "\n"):
        path.write_text(content, encoding="utf-8")
        assert not is_sampled(path)
    assert not is_sampled(path.with_name("none"))
