"""A reward model that reads the whole conversation in its chat template, as TRL's RewardTrainer trains it."""

from datetime import UTC, datetime

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from remote_rewards import RewardClient
from reward_service.backends import chat_template
from reward_service.backends.model_folder import ModelFolder
from reward_service.settings import Settings
from shared.model_store import resolve
from tests.conftest import running_service

pytestmark = pytest.mark.slow
PROMPTS = ["What is a stapler?", [{"role": "user", "content": "Do snakes have bones?"}], "Hello"]
COMPLETIONS = ["It joins sheets of paper.", [{"role": "assistant", "content": "Yes, hundreds of them."}], "Hi! " * 30]
REFUSAL = "{% if messages[0].content == 'Hello' %}{{ raise_exception('no greetings') }}{% endif %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small decoder with random weights and one output, with the policy's tokenizer and template."""
    path = tmp_path_factory.mktemp("reward-model")
    tokenizer = AutoTokenizer.from_pretrained(resolve("embedded:smollm2"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def right(folder):
    """Transformers' own output for each conversation alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    chats = [
        [{"role": "user", "content": "What is a stapler?"}, {"role": "assistant", "content": COMPLETIONS[0]}],
        [*PROMPTS[1], *COMPLETIONS[1]],
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": COMPLETIONS[2]}],
    ]
    with torch.inference_mode():
        rows = [
            tokenizer.apply_chat_template(chat, tokenize=True, return_tensors="pt", return_dict=True) for chat in chats
        ]
        return [model(**row).logits.item() for row in rows]


def serving(folder, backend="torch", dtype="float32"):
    config = folder.parent / "rewards.yaml"
    config.write_text(f"rewards: {{judge: {{kind: regressor, model: '{folder}', input: chat}}}}")
    return running_service(Settings(config=config, backend=backend, dtype=dtype))


@pytest.mark.parametrize(("backend", "dtype"), [("torch", "float32"), (None, "float32")], ids=["torch", "auto"])
def test_conversation(folder, right, backend, dtype):
    """Prompt and completion are scored as one conversation in the chat template."""
    with serving(folder, backend, dtype) as url, RewardClient(url) as client:
        scores = client.score(COMPLETIONS, prompts=PROMPTS, rewards=["judge"]).rewards["judge"].scores
    assert scores == pytest.approx(right, abs=1e-4)


def test_prompt_needed(folder):
    """Without prompts each item has an error instead of a score."""
    with serving(folder) as url, RewardClient(url) as client:
        reward = client.score(COMPLETIONS, rewards=["judge"]).rewards["judge"]
    assert reward.scores == [None] * 3
    assert {error.code for error in reward.errors.values()} == {"prompt_needed"}


def test_template_error(folder, right, tmp_path):
    """A conversation that the template rejects has no effect on the others."""
    strict = tmp_path / "strict"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = REFUSAL + tokenizer.chat_template
    LlamaForSequenceClassification.from_pretrained(folder).save_pretrained(strict)
    tokenizer.save_pretrained(strict)
    with serving(strict) as url, RewardClient(url) as client:
        reward = client.score(COMPLETIONS, prompts=PROMPTS, rewards=["judge"]).rewards["judge"]
    assert reward.scores == pytest.approx([*right[:2], None], abs=1e-4)
    assert "no greetings" in reward.errors["2"].message


def test_fixed_date(folder, tmp_path, monkeypatch):
    """A template that prints the date prints a fixed one, which the revision covers."""
    dated = tmp_path / "dated"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = tokenizer.chat_template
    tokenizer.chat_template = "{%- set day = strftime_now('%d %b %Y') -%}{{ day }}" + plain
    LlamaForSequenceClassification.from_pretrained(folder).save_pretrained(dated)
    tokenizer.save_pretrained(dated)
    model = ModelFolder(dated)
    turns = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}]
    text = model.template.render(turns)
    assert text.startswith("26 Jul 2024")
    assert text.removeprefix("26 Jul 2024") == ModelFolder(folder).template.render(turns)
    before = model.fingerprint
    monkeypatch.setattr(chat_template, "FIXED_DATE", datetime(2026, 1, 1, tzinfo=UTC))
    assert ModelFolder(dated).fingerprint != before  # the revision tells that day
