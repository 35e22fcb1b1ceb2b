"""What a model reward reads: the text that the model was trained on, computed here by transformers and TRL alone."""

import json

import httpx
import pytest
import torch
import yaml
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from reward_service.settings import Settings
from tests.conftest import running_service
from tests.small_models import logits_alone, save_folder, small_tokenizer

TEMPLATES = ["llama3", "gemma", "qwen3", "qwen2_5", "phi3", "gemma3", "smolvlm", "gptoss"]
QUESTION = [{"role": "user", "content": "What is a stapler?"}]
REPLIES = [[{"role": "assistant", "content": text}] for text in ("It joins paper.", "Go away.")]
TORCH = {"backend": "torch", "dtype": "float32"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small models by name: a decoder, a BERT and a DeBERTa, each with (folder, model, tokenizer)."""
    root = tmp_path_factory.mktemp("models")
    llama = save_folder(root / "llama", LlamaForSequenceClassification, LlamaConfig, template="llama3", num_labels=1)
    bert = save_folder(
        root / "bert", BertForSequenceClassification, BertConfig, embedded="embedded:minilm", num_labels=1
    )
    deberta = save_folder(
        root / "deberta", DebertaV2ForSequenceClassification, DebertaV2Config, embedded="embedded:minilm", num_labels=1
    )
    return {"llama": (root / "llama", *llama), "bert": (root / "bert", *bert), "deberta": (root / "deberta", *deberta)}


@pytest.fixture(scope="module")
def url(models, tmp_path_factory):
    """A service with a reward for each way of reading."""
    root = tmp_path_factory.mktemp("service")
    llama = models["llama"][0]
    rewards = {
        "chat": {"model": llama, "input": "chat"},
        "short": {"model": llama, "input": "chat", "max_tokens": 100},
        "right": {"model": llama, "input": "chat", "max_tokens": 100, "truncate": "right"},
        "refuse": {"model": llama, "input": "chat", "max_tokens": 100, "truncate": "refuse"},
        "text": {"model": llama, "input": "text"},
        "ended": {"model": llama, "input": "text", "end": True},
        "last": {"model": llama, "turns": "last"},
        "answer": {"model": llama, "after": "</think>"},
        "chat_answer": {"model": llama, "input": "chat", "after": "</think>"},
        "marked": {"model": llama, "after": "####"},
        "bert_pair": {"model": models["bert"][0], "input": "pair"},
        "deberta_pair": {"model": models["deberta"][0], "input": "pair"},
        "bert_short": {"model": models["bert"][0], "input": "pair", "max_tokens": 32},
        "bert": {"model": models["bert"][0]},
    }
    for template in TEMPLATES:
        tokenizer = small_tokenizer(template)
        folder = root / template
        models["llama"][1].save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        rewards[template] = {"model": folder, "input": "chat"}
    rewards["fold"] = {"model": root / "gemma", "input": "chat", "system": "fold"}
    rewards["drop"] = {"model": root / "gemma", "input": "chat", "system": "drop"}
    rewards["nothink"] = {"model": root / "qwen3", "input": "chat", "template_args": {"enable_thinking": False}}
    config = root / "rewards.yaml"
    content = {
        name: {"kind": "regressor", **spec, **TORCH, "model": str(spec["model"])} for name, spec in rewards.items()
    }
    config.write_text(yaml.safe_dump({"rewards": content}))
    with running_service(Settings(config=config, cache_size=0)) as url:
        yield url


@pytest.fixture(scope="module")
def score(url):
    """Score with one reward; return its part of the response."""

    def call(reward, completions, prompts=None, **columns):
        body = {"completions": completions, "rewards": [reward], "prompts": prompts, "columns": columns}
        content = json.dumps(body)  # with escapes, as some clients write lone surrogates
        response = httpx.post(
            f"{url}/v1/score", content=content, headers={"Content-Type": "application/json"}, timeout=60
        )
        assert response.status_code == 200, response.text
        return response.json()["rewards"][reward]

    return call


def right(models, text, name="llama", second=None, **settings):
    _, model, tokenizer = models[name]
    return pytest.approx(logits_alone(model, tokenizer(text, second, return_tensors="pt", **settings))[0], abs=1e-4)


def rendered(template, messages, **settings):
    return small_tokenizer(template).apply_chat_template(messages, tokenize=False, **settings)


@pytest.mark.parametrize("template", TEMPLATES)
def test_content_parts(models, score, template):
    """Contents that are lists of text parts score as the same text in a string, in every template."""

    def parts(messages):
        return [
            {**m, "content": [{"type": "text", "text": part} for part in m["content"].partition(" ")]} for m in messages
        ]

    plain = score(template, REPLIES, [QUESTION] * 2)["scores"]
    assert score(template, [parts(r) for r in REPLIES], [parts(QUESTION)] * 2)["scores"] == pytest.approx(
        plain, abs=1e-4
    )
    assert plain[0] != plain[1]
    content = (lambda text: [{"type": "text", "text": text}]) if template == "smolvlm" else (lambda text: text)
    if template != "gptoss":  # its template prints the date
        for reply, got in zip(REPLIES, plain, strict=True):
            turns = [{**m, "content": content(m["content"])} for m in [*QUESTION, *reply]]
            assert got == right(models, rendered(template, turns), add_special_tokens=False)


@pytest.mark.parametrize("reward", ["chat", "bert", "gemma3"])
@pytest.mark.parametrize("kind", ["image", "image_url", "input_audio", "video"])
def test_picture_parts(score, reward, kind):
    """A part that the model cannot read costs its own item alone."""
    picture = [{"role": "assistant", "content": [{"type": "text", "text": "See"}, {"type": kind, kind: "x"}]}]
    result = score(reward, [picture, REPLIES[0]], [QUESTION] * 2)
    assert result["errors"]["0"]["code"] == "nothing_to_read"
    assert kind in result["errors"]["0"]["message"]
    assert result["scores"][1] is not None


POISON = [" " * 10**6, "\ud83c", "\x00" * 1000, "<|im_end|></s>[PAD][SEP]", "a\u0301" * 20_000, "\u202e\ufeff\u200b"]


@pytest.mark.parametrize("reward", ["bert", "text", "chat"])
def test_poison_among_others(score, reward):
    """Texts made to break a tokenizer or a model cost nothing but their own score; the others score as alone."""
    good = [f"word {number} " * (1 + number % 7) for number in range(58)]
    alone = [score(reward, [text], ["Why?"])["scores"][0] for text in good[:5]]
    result = score(reward, [*good[:29], *POISON, *good[29:]], ["Why?"] * 64)
    assert result["scores"][:5] == pytest.approx(alone, abs=1e-4)
    assert None not in [*result["scores"][:29], *result["scores"][35:]]
    assert score(reward, good[:1], ["Why?"])["scores"] == pytest.approx(alone[:1], abs=1e-4)


@pytest.mark.parametrize("reward", ["chat", "bert_pair"])
def test_picture_in_prompt(score, reward):
    """A prompt with a picture has no score, not that of the prompt without it."""
    picture = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image"}]}]
    result = score(reward, [REPLIES[0]] * 2, [picture, QUESTION])
    assert result["errors"]["0"]["code"] == "nothing_to_read"
    assert result["scores"][1] is not None


NOTHING = {
    "null": [{"role": "assistant", "content": None}],
    "no parts": [{"role": "assistant", "content": []}],
    "other role": [{"role": "model", "content": "I hate it"}],
    "no turn": [],
    "empty": "",
    "tool call": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}],
}


@pytest.mark.parametrize("reward", ["chat", "bert", "bert_pair"])
@pytest.mark.parametrize("completion", NOTHING.values(), ids=NOTHING)
def test_nobody_spoke(score, reward, completion):
    """A completion in which the assistant says nothing is null, not the score of an empty text."""
    result = score(reward, [completion, "Fine."], [QUESTION] * 2)
    assert result["errors"]["0"]["code"] == "nothing_to_read"
    assert result["scores"][1] is not None


@pytest.mark.parametrize("template", ["llama3", "qwen3", "gptoss"])
def test_null_content(models, score, template):
    """A tool call without content never puts the word None into the text that is scored."""
    call = {"id": "0", "type": "function", "function": {"name": "profile", "arguments": {"id": "22"}}}
    turns = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "{}", "tool_call_id": "0"},
        {"role": "assistant", "content": "I found nothing."},
    ]
    empty = [{**turns[0], "content": ""}, *turns[1:]]
    with_null, with_empty = score(template, [turns, empty], [QUESTION] * 2)["scores"]
    assert with_null == pytest.approx(with_empty, abs=1e-4)


def test_standard_text(models, score):
    """`input: text` reads prompt + completion without special tokens, as TRL's RLOOTrainer does."""
    prompts, completions = ["Q: 2+2? A:", "Q: 2+2? A:"], [" 4", " 5"]
    for reward, end in (("text", ""), ("ended", models["llama"][2].eos_token)):
        for index, got in enumerate(score(reward, completions, prompts)["scores"]):
            assert got == right(models, prompts[index] + completions[index] + end, add_special_tokens=False)


@pytest.mark.parametrize("name", ["bert", "deberta"])
def test_sentence_pair(models, score, name):
    """`input: pair` is the tokenizer's sentence pair, token types included, alone and in company."""
    prompts, completions = ["What is it?", "How? " * 20], ["A stapler.", "By a spring."]
    together = score(f"{name}_pair", completions, prompts)["scores"]
    for index, got in enumerate(together):
        assert got == right(models, prompts[index], name, completions[index])


def test_prompt_needed(score):
    """A reward that reads the prompt says so where there is none."""
    assert score("bert_pair", ["A stapler."])["errors"]["0"]["code"] == "prompt_needed"


@pytest.mark.parametrize("reward", ["short", "bert_short"])
def test_long_prompt_gives_way(score, reward):
    """A long prompt is cut, never the completion: two completions keep two scores, and both are flagged."""
    result = score(reward, ["Yes.", "No, and here is why."], ["word " * 400] * 2)
    assert result["scores"][0] != result["scores"][1]
    assert (result["truncated"], result["overlong"]) == ([0, 1], [])


def test_cut_pair_is_exact(models, score):
    """A pair whose prompt was cut scores as the pair with the end of the prompt."""
    _, _, tokenizer = models["bert"]
    completion, long = "A stapler joins paper.", "one two three four five six seven eight nine ten " * 10
    words = long.split()
    kept = next(
        " ".join(words[start:])
        for start in range(len(words))
        if len(tokenizer(" ".join(words[start:]), completion)["input_ids"]) <= 32
    )
    assert score("bert_short", [completion], [long])["scores"][0] == right(models, kept, "bert", completion)


@pytest.mark.parametrize("reward", ["short", "bert_short"])
def test_completion_does_not_fit(score, reward):
    """A completion that does not fit by itself is null."""
    result = score(reward, ["word " * 400, "Yes."], ["Why?"] * 2)
    assert result["errors"]["0"]["code"] == "does_not_fit"
    assert result["scores"][1] is not None


def test_truncate_refuse(score):
    """`truncate: refuse` cuts nothing."""
    result = score("refuse", ["Yes.", "Yes."], ["word " * 400, "Why?"])
    assert (list(result["errors"]), result["truncated"]) == (["0"], [])


def test_truncate_right(score):
    """`truncate: right` cuts the end, and says that the completion was."""
    result = score("right", ["Yes."], ["word " * 400])
    assert (result["truncated"], result["overlong"]) == ([0], [0])


def test_last_turn(models, score):
    """`turns: last` reads the last assistant turn."""
    turns = [*REPLIES[1], {"role": "tool", "content": "…"}, {"role": "assistant", "content": "It is 4."}]
    assert score("last", [turns])["scores"][0] == right(models, "It is 4.")


def test_after_thinking(models, score):
    """`after` reads the answer alone; a completion that never closes its thinking is null."""
    texts = [
        "<think>Awful, a disaster.</think>What a lovely day!",
        "First, 2 plus 2.\n</think>\nThe answer is 4.",
        "<think>So",
    ]
    result = score("answer", texts)
    assert result["scores"][0] == right(models, "What a lovely day!")
    assert result["scores"][1] == right(models, "\nThe answer is 4.")
    assert result["errors"]["2"]["code"] == "nothing_to_read"


@pytest.mark.parametrize("field", ["reasoning_content", "thinking", "reasoning"])
def test_thinking_apart(models, score, field):
    """Where a message has its thinking in a field of its own, its content is the answer, for tags of thinking alone."""
    apart = [{"role": "assistant", "content": "What a lovely day!", field: "Awful, a disaster."}]
    assert score("answer", [apart])["scores"][0] == right(models, "What a lovely day!")
    plain = [{"role": "assistant", "content": "What a lovely day!"}]
    expected = score("chat", [plain], [QUESTION])["scores"]
    assert score("chat_answer", [apart], [QUESTION])["scores"] == pytest.approx(expected, abs=1e-4)
    assert score("marked", [apart])["errors"]["0"]["code"] == "nothing_to_read"


@pytest.mark.parametrize("reward", ["answer", "chat_answer"])
@pytest.mark.parametrize("last", ["<think>So I", " ", "\n"])
def test_last_turn_still_thinks(score, reward, last):
    """An earlier turn's closed thinking says nothing of the last turn's; a blank completion closes none."""
    turns = [
        {"role": "assistant", "content": "<think>Hm.</think>Let me look."},
        {"role": "tool", "content": "12"},
        {"role": "assistant", "content": "<think>So I"},
    ]
    result = score(reward, [turns, last, "</think>Fine."], [QUESTION] * 3)
    assert [error["code"] for error in result["errors"].values()] == ["nothing_to_read"] * 2
    assert result["scores"][2] is not None


def test_system_turns(models, score):
    """System turns that a template refuses are null, folded into the user turn, or dropped."""
    system = [{"role": "system", "content": "You are terse."}, *QUESTION]
    assert score("gemma", REPLIES[:1], [system])["errors"]["0"]["code"] == "nothing_to_read"
    folded = [{"role": "user", "content": "You are terse.\n\nWhat is a stapler?"}, *REPLIES[0]]
    assert score("fold", REPLIES[:1], [system])["scores"][0] == right(
        models, rendered("gemma", folded), add_special_tokens=False
    )
    assert score("drop", REPLIES[:1], [system])["scores"] == score("gemma", REPLIES[:1], [QUESTION])["scores"]


def test_template_arguments(models, score):
    """Tools and template arguments reach the template, from the configuration and from columns."""
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    turns = [*QUESTION, *REPLIES[0]]
    with_tools = right(models, rendered("qwen3", turns, tools=[tool]), add_special_tokens=False)
    assert score("qwen3", REPLIES[:1], [QUESTION], tools=[[tool]])["scores"][0] == with_tools
    assert score("qwen3", REPLIES[:1], [QUESTION], tools=[json.dumps([tool])])["scores"][0] == with_tools
    plain = score("nothink", REPLIES[:1], [QUESTION])["scores"]
    by_column = score("qwen3", REPLIES[:1], [QUESTION], chat_template_kwargs=[{"enable_thinking": False}])["scores"]
    assert by_column == plain


def test_clock(models, score, monkeypatch):
    """A template that prints today's date prints a fixed one, so a score does not depend on the day."""
    template = small_tokenizer("gptoss").chat_template
    assert "strftime_now" in template
    assert score("gptoss", REPLIES, [QUESTION] * 2)["scores"][0] is not None


def test_information(url):
    """`GET /v1/rewards` says which columns a reward reads and whether it needs prompts."""
    rewards = {reward["name"]: reward for reward in httpx.get(f"{url}/v1/rewards").json()["rewards"]}
    assert (rewards["chat"]["columns"], rewards["chat"]["reads_prompts"]) == (["tools", "chat_template_kwargs"], True)
    assert (rewards["bert"]["columns"], rewards["bert"]["reads_prompts"]) == ([], False)


def test_rloo_reads_the_same(models, score):
    """TRL's RLOOTrainer renders and tokenizes a chat for its own reward model as `input: chat` does."""
    from trl.data_utils import apply_chat_template

    _, model, tokenizer = models["llama"]
    texts = [apply_chat_template({"messages": [*QUESTION, *reply]}, tokenizer)["text"] for reply in REPLIES]
    inputs = tokenizer(text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
    with torch.inference_mode():
        theirs = model(**inputs).logits[:, 0].tolist()
    assert score("chat", REPLIES, [QUESTION] * 2)["scores"] == pytest.approx(theirs, abs=1e-4)
