import json

import pytest

from shared.errors import RevisionChanged
from trainer.errors import TrainerError
from trainer.run_arguments import RunArguments
from trainer.training_data import TrainingData, check_revision_of, load_training_data

USER, SYSTEM = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be kind."}


def turn(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture
def load(tmp_path):
    """Return a function that writes lines to a file and loads it as training data."""

    def load(*rows, algorithm, **settings):
        path = tmp_path / "completions.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return load_training_data(RunArguments(completions=str(path), algorithm=algorithm, rewards=["joy"], **settings))

    return load


def sampled(completion, score, **others):
    return {"prompt": [USER], "completion": completion, "scores": {"joy": score}, "revisions": {"joy": "1"}, **others}


def test_sampled_pairs(load):
    """DPO learns from the best and the worst completion, and knows which were cut off and what scored them."""
    data = load(sampled("a", 0.0, cut_off=True), sampled("b", 1.0), sampled("c", 0.5), algorithm="dpo")
    row = {"prompt": [USER], "chosen": turn("b"), "rejected": turn("a")}
    assert data.rows == [{**row, "chosen_cut_off": False, "rejected_cut_off": True}]
    assert (data.reward, data.revision) == ("joy", "1")
    with pytest.raises(TrainerError, match=r"gives no pair: .* 'joy' more than 1 apart"):
        load(sampled("a", 0.0), sampled("b", 1.0), algorithm="dpo", margin=1.0)


def test_sampled_best(load):
    """SFT learns from the best completion of each prompt above the bound."""
    data = load(sampled("a", 0.0), sampled("b", 1.0), algorithm="sft", min_score=1.0)
    assert data.rows == [{"prompt": [USER], "completion": turn("b"), "completion_cut_off": False}]
    with pytest.raises(TrainerError, match="gives no completion: none has a score of 'joy' of at least 2"):
        load(sampled("a", 0.0), algorithm="sft", min_score=2.0)


@pytest.mark.parametrize("prompt", ["Hi", [USER]])
def test_written_files(load, prompt):
    """Pairs and demonstrations are chats after the system prompt, whether they are written as texts or as chats."""
    texts = {"chosen": "b", "rejected": "a", "completion": "c"}
    row = {key: text if prompt == "Hi" else turn(text) for key, text in texts.items()} | {"prompt": prompt}
    data = load(row, algorithm="dpo", system_prompt="Be kind.")
    assert data.rows == [{"prompt": [SYSTEM, USER], "chosen": turn("b"), "rejected": turn("a")}]
    assert data.reward is None
    row = {**row, "prompt": [SYSTEM, USER]} if prompt != "Hi" else row
    assert load(row, algorithm="sft", system_prompt="Be kind.").rows == [
        {"prompt": [SYSTEM, USER], "completion": turn("c")}
    ]


def test_template_kwargs_column(load):
    """Each row of DPO and SFT holds the arguments of the chat template, if there are any, as TRL reads them."""
    data = load({"prompt": "Hi", "completion": "c"}, algorithm="sft")
    assert data.dataset({"enable_thinking": False})["chat_template_kwargs"] == [{"enable_thinking": False}]
    assert "chat_template_kwargs" not in data.dataset(None).column_names


def test_few_shot_comes_once(load, tmp_path):
    """Examples come before the prompts that someone has written, and are not repeated in sampled ones."""
    examples = tmp_path / "examples.jsonl"
    examples.write_text('{"prompt": "c", "completion": "d"}')
    turns = [USER | {"content": "c"}, *turn("d")]
    for prompt in ("Hi", [*turns, USER]):
        data = load({"prompt": prompt, "completion": "e"}, algorithm="sft", few_shot=str(examples))
        assert data.rows[0]["prompt"] == [*turns, USER]


@pytest.mark.parametrize(
    ("algorithm", "row", "message"),
    [
        ("dpo", {"chosen": "a", "rejected": "b"}, "pairs without a prompt, and dpo learns to complete prompts"),
        ("dpo", {"prompt": "Hi", "chosen": "a", "rejected": "a"}, "line 1: chosen and rejected are equal"),
        ("dpo", {"prompt": "Hi", "chosen": "a"}, "line 1 has no 'rejected'"),
        ("sft", {"prompt": "Hi", "completoin": "a"}, "line 1 has no 'completion'; did you mean 'completoin'"),
        ("sft", {"prompt": "Hi", "completion": " "}, "line 1: 'completion' is empty"),
        ("sft", {"prompt": [], "completion": "a"}, "line 1: 'prompt' is neither a string nor a list of messages"),
        ("sft", {"chosen": "a", "rejected": "b"}, "line 1 has no 'prompt'"),
    ],
)
def test_bad_lines(load, algorithm, row, message):
    """A line that nothing can be learned from is named with the reason."""
    with pytest.raises(TrainerError, match=message):
        load(row, algorithm=algorithm)


def test_other_revision(capsys):
    """A service with another revision than the file's is refused, or logged if the change is allowed."""
    data = TrainingData([], True, None, "joy", "1")
    check_revision_of(data, {"joy": "1"}, allow_change=False)
    check_revision_of(TrainingData([], True), {"joy": "2"}, allow_change=False)
    with pytest.raises(RevisionChanged, match=r"scored by revision 1 of 'joy', and the service has 2: sample again"):
        check_revision_of(data, {"joy": "2"}, allow_change=False)
    check_revision_of(data, {"joy": "2"}, allow_change=True)
    assert "the service has 2, which evaluates the policy" in " ".join(capsys.readouterr().err.split())


def test_manifest(load):
    """The manifest names the file, what chose its completions, and a hash that changes with them."""
    first = load(sampled("a", 0.0), sampled("b", 1.0), algorithm="dpo").manifest["completions"]
    other = load(sampled("a", 0.0), sampled("c", 1.0), algorithm="dpo").manifest["completions"]
    assert (first["rows"], first["chosen_by"], first["revision"]) == (1, "joy", "1")
    assert first["hash"] != other["hash"]
    assert TrainingData([]).manifest == {}
