from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    RwkvConfig,
)

from tests.small_models import SIZE, small_model, small_tokenizer
from trainer.generation import (
    Decoding,
    InverseCdfSampler,
    decodings,
    end_token_ids,
    generate,
    length_sorted_batches,
    render,
)
from trainer.shared_prefix import allows_prefix, share_prefix

SYSTEM = "You are a helpful assistant who answers in one short sentence."
GREEDY = Decoding("greedy", 0.0, 8)
QUESTIONS = ["Why is the sky blue?", "Hi", "What would be a much longer question about nothing at all?"]


def test_sampling_skips_zero():
    """A token of probability 0 is never sampled."""
    torch.manual_seed(0)
    logits = torch.tensor([[-float("inf"), 0.0, -float("inf")]]).repeat(5_000, 1)
    assert set(InverseCdfSampler(1.0)(torch.empty(0), logits).argmax(dim=-1).tolist()) == {1}


@pytest.mark.parametrize(
    ("settings", "tokens"), [({}, 4), ({"top_k": 2}, 2), ({"top_p": 0.95}, 3), ({"min_p": 0.2}, 2)]
)
def test_sampled_tokens(settings, tokens):
    """Tokens are sampled from those that the decoding leaves, with the probabilities that transformers gives them."""
    torch.manual_seed(0)
    logits, decoding = torch.tensor([[1.0, 0.0, -1.0, 2.0]]), Decoding("sampled", 0.7, 1, **settings)
    sampled = InverseCdfSampler(0.7, decoding.warpers)(torch.empty(0), logits.repeat(20_000, 1)).argmax(dim=-1)
    shares = torch.bincount(sampled, minlength=4) / len(sampled)
    probabilities = torch.softmax(decoding.warpers(torch.empty(0), logits / 0.7), dim=-1)[0]
    assert (probabilities > 0).sum() == tokens
    assert shares.tolist() == pytest.approx(probabilities.tolist(), abs=0.01)


def test_repetition_penalty(policy):
    """A repetition penalty of the decoding changes completions as transformers' own does."""
    model, tokenizer = policy
    inputs = tokenizer(QUESTIONS[:1], add_special_tokens=False, return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=8, repetition_penalty=0.1)
    text = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert generate(model, tokenizer, QUESTIONS[:1], replace(GREEDY, repetition_penalty=0.1))[0][0] == text
    assert completed(model, tokenizer)[0] != text


def test_length_sorted_batches():
    """Every index is in one batch, beside those of similar length."""
    assert list(length_sorted_batches([5, 1, 4, 1, 3], size=2)) == [[1, 3], [4, 2], [0]]


def test_greedy_temperature():
    """Greedy decoding has temperature 0."""
    assert [decoding.temperature for decoding in decodings(["greedy", "sampled"], 0.7, 32)] == [0.0, 0.7]


@pytest.fixture(scope="module")
def policy():
    """A small random chat model and its tokenizer."""
    tokenizer = small_tokenizer()
    return small_model(LlamaForCausalLM, LlamaConfig, tokenizer), tokenizer


def completed(model, tokenizer):
    return generate(model, tokenizer, [QUESTIONS[0]], GREEDY)[0]


def test_any_end_token_ends(policy, monkeypatch):
    """A completion ends before the first of the tokenizer's and the model's end tokens, as in training."""
    model, tokenizer = policy
    text, tokens, cut_off = completed(model, tokenizer)
    assert (tokens, cut_off) == (GREEDY.max_new_tokens, True)
    third = tokenizer(text, add_special_tokens=False)["input_ids"][2]
    monkeypatch.setattr(model.generation_config, "eos_token_id", [0, third])
    assert end_token_ids(model, tokenizer) == [tokenizer.eos_token_id, 0, third]
    shorter, tokens, cut_off = completed(model, tokenizer)
    assert text.startswith(shorter)
    assert (tokens, cut_off) == (2, False)


def test_template_kwargs():
    """A prompt is rendered with the run's arguments of the chat template, as TRL renders it in training."""
    tokenizer, prompts = small_tokenizer("qwen3"), [[{"role": "user", "content": "Hi"}]]
    ((thinking,), (without,)) = (render(tokenizer, prompts, kwargs) for kwargs in (None, {"enable_thinking": False}))
    assert without == f"{thinking}<think>\n\n</think>\n\n"


@pytest.mark.parametrize("adapter", [False, True])
def test_defaults_of_the_model(policy, monkeypatch, adapter):
    """What the model's generation config sets for its users, such as a repetition penalty, changes no completion."""
    model, tokenizer = policy
    text = completed(model, tokenizer)
    if adapter:
        model = get_peft_model(deepcopy(model), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    defaults = GenerationConfig(repetition_penalty=5.0, no_repeat_ngram_size=1, suppress_tokens=[*range(500)])
    monkeypatch.setattr(model.get_base_model() if adapter else model, "generation_config", defaults)
    assert completed(model, tokenizer) == text
    assert model.generation_config is defaults


@pytest.mark.parametrize(
    ("config", "shares"),
    [
        (LlamaConfig, True),
        (GPT2Config, True),
        (MistralConfig, False),  # a sliding window
        (BloomConfig, False),  # ALiBi
        (MambaConfig, False),
        (RwkvConfig, False),
    ],
)
def test_shared_prefix_is_exact(config: type[PreTrainedConfig], shares):
    """Prompts that share their first tokens have the completions that they have without sharing."""
    torch.manual_seed(0)
    tokenizer = small_tokenizer()
    settings = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.5}
    settings |= SIZE | {"num_key_value_heads": SIZE["num_attention_heads"]}
    model = AutoModelForCausalLM.from_config(config(**settings)).double().eval()
    chats = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}] for text in QUESTIONS]
    texts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    completions = generate(model, tokenizer, texts, GREEDY)
    assert allows_prefix(model) == shares
    share_prefix(model)
    assert generate(model, tokenizer, texts, GREEDY) == completions
    assert len({completion for completion, _, _ in completions}) == len(QUESTIONS)
