"""Reward models that `reward-trainer reward-model` trains: served as trained, resumable, the same again by a seed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from remote_rewards import RewardClient
from reward_service.cli import main as service_main
from reward_service.settings import Settings
from tests.conftest import running_service, wait_for
from tests.small_models import save_folder
from tests.stand_in_hub import TOKEN
from trainer.checkpoints import is_complete
from trainer.cli import main
from trainer.reward_model.model_card import EXAMPLE

pytestmark = pytest.mark.slow
QUESTION, ANSWER = EXAMPLE
COMPLETIONS = [ANSWER, "It is dreadful, and far too long for what it is.", "Perhaps."]
QUICK = {"max_steps": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "heldout_share": 0.3}


def pair(number, form):
    better, worse = f"It is a lovely thing, number {number}.", f"A dreadful thing {number * number}."
    if form == "chats":
        question = {"role": "user", "content": f"{QUESTION} {number}"}
        turns = ([question, {"role": "assistant", "content": text}] for text in (better, worse))
        return dict(zip(("chosen", "rejected"), turns, strict=True))
    return {"chosen": better, "rejected": worse, **({"prompt": f"{QUESTION} {number}"} if form == "prompts" else {})}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small models of random weights: encoders of two and of one output, decoders with and without a chat template."""
    folder = tmp_path_factory.mktemp("models")
    save_folder(folder / "encoder", BertForSequenceClassification, BertConfig, embedded="embedded:minilm")
    save_folder(folder / "scalar", BertForSequenceClassification, BertConfig, embedded="embedded:minilm", num_labels=1)
    save_folder(folder / "decoder", LlamaForCausalLM, LlamaConfig)
    tokenizer = AutoTokenizer.from_pretrained(folder / "decoder")
    tokenizer.chat_template = None
    save_folder(folder / "plain", LlamaForCausalLM, LlamaConfig)
    (folder / "plain" / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder / "plain")
    return folder


def flags(model, out, pairs, **settings):
    everything = {**QUICK, "model_name_or_path": model, "output_dir": out, "pairs": pairs, **settings}
    return [word for name, value in everything.items() for word in (f"--{name}", str(value))]


@pytest.fixture
def train(models, tmp_path):
    """Return a function that trains a model on pairs of a form and returns its folder."""

    def run(model, form, out="out", code=0, **settings):
        pairs = tmp_path / "pairs.jsonl"
        pairs.write_text("".join(json.dumps(pair(number, form)) + "\n" for number in range(40)))
        assert main(["reward-model", *flags(models / model, tmp_path / out, pairs, **settings)]) == code
        return tmp_path / out

    return run


@torch.inference_mode()
def alone(folder, texts, seconds=None, **settings):
    """Return the scores that transformers alone computes."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = zip(texts, seconds or [None] * len(texts), strict=True)
    return [model(**tokenizer(*row, return_tensors="pt", **settings)).logits.item() for row in rows]


@torch.inference_mode()
def in_a_batch(folder, *texts):
    """Return the scores that transformers alone computes of the texts as one batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model(**tokenizer(*texts, padding=True, return_tensors="pt")).logits[:, 0].tolist()


def by_card(folder):
    """Return the score of the example that the Python lines of the model card compute."""
    card, names = (folder / "README.md").read_text(), {}
    with contextlib.chdir(folder.parent):
        exec(card.partition("```python\n")[2].partition("```")[0], names)
    return names["score"]


def served(folder, **fields):
    """Return the scores of a service with the folder's own rewards.yaml."""
    settings = Settings(config=folder / "rewards.yaml", backend="torch", dtype="float32")
    with running_service(settings) as url, RewardClient(url) as client:
        return client.score(COMPLETIONS, **fields).rewards["reward_model"].scores


def test_completions_served_as_trained(train, capsys):
    """An encoder trained on texts is served by its own rewards.yaml, with the scores of the saved model alone."""
    folder = train("encoder", "texts")
    scores = served(folder)
    assert scores == pytest.approx(alone(folder, COMPLETIONS), abs=1e-5)
    assert by_card(folder) == pytest.approx(scores[0], abs=1e-5)
    assert service_main(["check", str(folder), "--backend", "torch", "--dtype", "float32"]) == 0
    assert "parity" in capsys.readouterr().out
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["held_out"]["accuracy"] > 0.9
    assert "| all |" in (folder / "README.md").read_text()


def test_sentence_pairs_served_as_trained(train, models):
    """An encoder reads a prompt and its completion as a sentence pair with token types, in training, too."""
    folder = train("encoder", "prompts")
    scores = served(folder, prompts=[QUESTION] * 3)
    assert scores == pytest.approx(in_a_batch(folder, [QUESTION] * 3, COMPLETIONS), abs=1e-5)
    # With steps as large as these a text alone is rounded to 8e-6 of its score in float64, and in a batch to 2e-5.
    assert by_card(folder) == pytest.approx(scores[0], abs=3e-5)
    types = "bert.embeddings.token_type_embeddings.weight"
    before, after = (load_file(path / "model.safetensors")[types] for path in (models / "encoder", folder))
    assert not torch.equal(before[1], after[1]), "the second sentence's type was not trained"


def test_pushed(train, hub, models, tmp_path):
    """A reward model is pushed with its card and figures, and no file names a path of this machine."""
    train("encoder", "texts", max_steps=1, push_to_hub="true", hub_token=TOKEN)
    files = hub.files["somebody/out"]
    assert {"README.md", "config.json", "metrics.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert not {"config.yaml", "rewards.yaml", "metrics.jsonl", "training_args.bin"} & files.keys()
    assert b"    model: somebody/out\n" in files["README.md"]
    assert not [name for name, content in files.items() for path in (models, tmp_path) if str(path).encode() in content]


@pytest.mark.parametrize("peft", ["false", "true"], ids=["whole", "lora"])
def test_chats_served_as_trained(train, peft):
    """A chat model reads the conversation in its template; a LoRA adapter is merged, and the offset is served, too."""
    folder = train("decoder", "chats", use_peft=peft)
    question = [{"role": "user", "content": QUESTION}]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chats = [[*question, {"role": "assistant", "content": completion}] for completion in COMPLETIONS]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    offset = float((folder / "rewards.yaml").read_text().partition("offset: ")[2])
    right = [score + offset for score in alone(folder, texts, add_special_tokens=False)]
    scores = served(folder, prompts=[question] * 3)
    assert scores == pytest.approx(right, abs=1e-5)
    assert by_card(folder) == pytest.approx(scores[0], abs=1e-5)


@pytest.mark.parametrize(("model", "form"), [("decoder", "prompts"), ("encoder", "texts")])
def test_adapter_served_as_trained(train, model, form, capsys):
    """An adapter that is not merged is served with the scores that its model card computes, and passes the check."""
    folder = train(model, form, use_peft="true", merge_lora="false")
    assert [path.name for path in folder.glob("*.safetensors")] == ["adapter_model.safetensors"]
    prompts = None if form == "texts" else [QUESTION] * 3
    assert by_card(folder) == pytest.approx(served(folder, prompts=prompts)[0], abs=1e-5)
    assert service_main(["check", "--config", str(folder / "rewards.yaml"), "--backend", "torch"]) == 0


def test_texts_served_as_trained(train):
    """A decoder without a chat template reads prompt and completion as one string with an end token."""
    folder = train("plain", "prompts")
    end = AutoTokenizer.from_pretrained(folder).eos_token
    offset = float((folder / "rewards.yaml").read_text().partition("offset: ")[2])
    texts = [f"{QUESTION}{completion}{end}" for completion in COMPLETIONS]
    right = [score + offset for score in alone(folder, texts, add_special_tokens=False)]
    scores = served(folder, prompts=[QUESTION] * 3)
    assert scores == pytest.approx(right, abs=1e-5)
    assert by_card(folder) == pytest.approx(scores[0], abs=1e-5)


def test_interpolation(train, models):
    """The saved model keeps a share of what training changed, and its card says so. Its bias centres the scores."""
    folders = [train("scalar", "texts", out=share, interpolation=share) for share in ("1.0", "0.75")]
    whole, near = (load_file(folder / "model.safetensors") for folder in folders)
    before = load_file(models / "scalar" / "model.safetensors")
    changed = [name for name in before if name != "classifier.bias"]
    for name in changed:
        assert torch.allclose(near[name], before[name].lerp(whole[name], 0.75), atol=1e-6)
    assert any(not torch.allclose(near[name], whole[name], atol=1e-4) for name in changed)
    assert "0.75 of the change in the weights is kept" in (folders[1] / "README.md").read_text()


def test_interpolation_of_a_new_head(train, capsys):
    """Where the head is new, its random weights are no start to keep a share of: the whole change is kept."""
    folders = [train("encoder", "texts", out=share, interpolation=share) for share in ("1.0", "0.75")]
    whole, other = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(other[name], whole[name]) for name in whole)
    assert "interpolation has no effect" in capsys.readouterr().err
    assert "of the change" not in (folders[1] / "README.md").read_text()


def test_resumed_after_kill(train, models, tmp_path):
    """A training that is killed and resumed makes the weights of one that was never interrupted."""
    settings = {"max_steps": 60, "save_steps": 20}
    whole = train("encoder", "texts", "whole", **settings)
    arguments = flags(models / "encoder", tmp_path / "killed", tmp_path / "pairs.jsonl", **settings)
    process = subprocess.Popen([sys.executable, "-m", "trainer", "reward-model", *arguments], env=os.environ)
    wait_for(lambda: is_complete(tmp_path / "killed" / "checkpoint-20") or process.poll() is not None, timeout_s=120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = train("encoder", "texts", "killed", resume_from_checkpoint="true", **settings)
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_dead_before_a_checkpoint(train, monkeypatch, capsys):
    """With `auto`, a training that has died before its first checkpoint begins again; a finished one is kept."""
    settings = {"max_steps": 1, "save_strategy": "no", "resume_from_checkpoint": "auto"}
    with monkeypatch.context() as patch:
        patch.setattr("trainer.reward_model.train.run_training", Mock(side_effect=KeyboardInterrupt))
        folder = train("encoder", "texts", code=130, **settings)
    assert not (folder / "README.md").exists()
    train("encoder", "texts", **settings)
    trained = (folder / "model.safetensors").stat()
    train("encoder", "texts", code=2, **settings)
    assert "holds an earlier run" in capsys.readouterr().err
    assert (folder / "model.safetensors").stat() == trained


def test_truncated_pairs_are_counted(train, capsys):
    """Texts that exceed the limit are cut and counted; pairs with a prompt that exceed it are left out and counted."""
    folder = train("encoder", "texts", max_length=8)
    assert json.loads((folder / "metrics.json").read_text())["trained_on"]["truncated"] > 0
    assert "truncated to 8 tokens" in capsys.readouterr().err
