import json

import pytest

from trainer.errors import TrainerError
from trainer.reward_model.pairs import Pair
from trainer.reward_model.sampled_pairs import best_and_worst, is_sampled, read_sampled_pairs

PROMPT, OTHER = [{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Ho"}]


def record(completion, score, prompt=PROMPT, **others):
    return {"prompt": prompt, "completion": completion, "scores": {"joy": score, **others}}


def turn(text):
    return [{"role": "assistant", "content": text}]


def test_best_and_worst():
    """Each prompt gives one pair: its best completion, and its worst."""
    records = [record("a", 1.0), record("b", 3.0), record("c", 2.0), record("d", 0.0, OTHER), record("e", -1.0, OTHER)]
    assert best_and_worst(records, "joy", 0.0) == [
        Pair(turn("b"), turn("a"), PROMPT),
        Pair(turn("d"), turn("e"), OTHER),
    ]


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
    assert best_and_worst(records, "joy", 0.5) == []


def test_reward_to_choose_by(tmp_path):
    """Pairs are chosen by the named reward, by default the first one of the file; another name is an error."""
    path = tmp_path / "completions.jsonl"
    records = [record("a", 1.0, calm=0.0), record("b", 0.0, calm=1.0)]
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    assert is_sampled(path)
    assert read_sampled_pairs(path, reward=None, margin=0.0)[0].chosen == turn("a")
    assert read_sampled_pairs(path, reward="calm", margin=0.0)[0].chosen == turn("b")
    with pytest.raises(TrainerError, match=r"no scores of 'clam'; did you mean 'calm'\?; it has joy, calm"):
        read_sampled_pairs(path, reward="clam", margin=0.0)
    with pytest.raises(TrainerError, match="gives no pair"):
        read_sampled_pairs(path, reward=None, margin=1.0)


@pytest.mark.parametrize("line", ['{"prompt": "Hi", "compl', "[1]", '{"prompt": 1, "completion": null, "scores": {}}'])
def test_broken_line(tmp_path, line):
    """A line that is cut short, or is no sampled completion, is named."""
    path = tmp_path / "completions.jsonl"
    path.write_text(json.dumps(record("a", 1.0)) + "\n" + line, encoding="utf-8")
    with pytest.raises(TrainerError, match="line 2 is no completion with prompt and scores"):
        read_sampled_pairs(path, reward=None, margin=0.0)


def test_pairs_are_not_samples(tmp_path):
    """A file of pairs, a broken or a missing one is not a file of completions."""
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"chosen": "a", "rejected": "b"}\n', encoding="utf-8")
    assert not is_sampled(path)
    path.write_text("{\n", encoding="utf-8")
    assert not is_sampled(path)
    assert not is_sampled(tmp_path / "none")
