"""`reward-service check` says what a model is and reads before it is trained on, or why it cannot be served."""

import json

import pytest
import yaml
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from reward_service.check import read_pairs
from reward_service.cli import main
from tests.small_models import logits_alone, save_folder

PROMPT, REPLIES = "What is it?", ["A stapler.", "A noise.", "I do not know.", "Paper, mostly."]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A small chat reward model: (folder, model, tokenizer)."""
    folder = tmp_path_factory.mktemp("judge")
    return (folder, *save_folder(folder, LlamaForSequenceClassification, LlamaConfig, template="llama3", num_labels=1))


def run(tmp_path, spec, *arguments):
    config = tmp_path / "rewards.yaml"
    config.write_text(yaml.safe_dump({"rewards": {"judge": spec}}))
    return main(["check", "--config", str(config), "--backend", "torch", "--dtype", "float32", *map(str, arguments)])


def test_report(judge, tmp_path, capsys):
    """The report names class and outputs, shows the text that is read, and compares with transformers alone."""
    assert run(tmp_path, {"kind": "regressor", "model": str(judge[0]), "input": "chat"}) == 0
    printed = capsys.readouterr().out
    assert "LlamaForSequenceClassification, outputs: LABEL_0" in printed
    assert "<|start_header_id|>assistant<|end_header_id|>" in printed
    parity = float(printed.partition("scores are within ")[2].split()[0])
    assert parity < 1e-4


@pytest.mark.parametrize("chats", [True, False])
def test_pairs(judge, tmp_path, capsys, chats):
    """With pairs, the report gives the share that transformers alone orders right."""
    folder, model, tokenizer = judge
    question = [{"role": "user", "content": PROMPT}]
    turns = [[{"role": "assistant", "content": reply}] for reply in REPLIES]
    texts = [tokenizer.apply_chat_template([*question, *turn], tokenize=False) for turn in turns]
    scores = [logits_alone(model, tokenizer(text, return_tensors="pt", add_special_tokens=False))[0] for text in texts]
    rows = [(0, 1), (1, 2), (2, 3), (3, 0)]
    lines = [
        {"chosen": [*question, *turns[a]], "rejected": [*question, *turns[b]]}
        if chats
        else {"prompt": PROMPT, "chosen": REPLIES[a], "rejected": REPLIES[b]}
        for a, b in rows
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n\n".join(map(json.dumps, lines)))
    right = sum(scores[a] > scores[b] for a, b in rows)
    assert run(tmp_path, {"kind": "regressor", "model": str(folder), "input": "chat"}, "--pairs", pairs) == 0
    assert f"{right} of 4 ordered right" in capsys.readouterr().out


def test_forms_of_pairs(tmp_path):
    """The turns that both conversations begin with are the prompt; a line separator within a string ends no line."""
    said = [{"role": role, "content": text} for role, text in (("user", "Hi"), ("assistant", "a\u2028b"))]
    other = [said[0], {"role": "user", "content": "Well?"}, {"role": "assistant", "content": "No."}]
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"chosen": said, "rejected": other}, ensure_ascii=False) + "\n")
    (pair,) = read_pairs(path)
    turns = [[message.content for message in text] for text in (pair.prompt, pair.chosen, pair.rejected)]
    assert turns == [["Hi"], ["a\u2028b"], ["Well?", "No."]]


@pytest.mark.parametrize(
    "line", ['{"chosen": "a"}', "[]", "not json", '{"chosen": 1, "rejected": 2}', '{"chosen": null}']
)
def test_bad_pairs(judge, tmp_path, capsys, line):
    """A line that is no pair is named by its number."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(f'{{"chosen": "a", "rejected": "b"}}\n{line}\n')
    assert run(tmp_path, {"kind": "regressor", "model": str(judge[0])}, "--pairs", pairs) == 2
    assert "line 2" in capsys.readouterr().err


def test_wrong_checks(tmp_path, capsys):
    """A mistake in a rule ends the check with one sentence that names it."""
    assert run(tmp_path, {"kind": "rule", "checks": [{"check": "regex", "pattern": "(?=a)b", "points": 1}]}) == 2
    assert "rewards.judge.checks.0.pattern: RE2, which never backtracks, cannot match" in capsys.readouterr().err


def test_refused(tmp_path, capsys):
    """A model that cannot be served ends the check with the reason and the reward's name."""
    save_folder(tmp_path / "m", BertForSequenceClassification, BertConfig, embedded="embedded:minilm", num_labels=3)
    assert run(tmp_path, {"kind": "regressor", "model": str(tmp_path / "m")}) == 2
    error = capsys.readouterr().err
    assert "rewards.judge: " in error
    assert "has 3 outputs" in error
