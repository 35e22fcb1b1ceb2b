import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    RwkvConfig,
)

from tests.small_models import SIZE, small_tokenizer
from trainer.generation import (
    Decoding,
    InverseCdfSampler,
    allows_prefix,
    decodings,
    generate,
    length_sorted_batches,
    shared_length,
)

SYSTEM = "You are a helpful assistant who answers in one short sentence."
QUESTIONS = ["Why is the sky blue?", "Hi", "What would be a much longer question about nothing at all?"]


def test_sampling_distribution():
    """Tokens are sampled with the softmax probabilities at the temperature."""
    torch.manual_seed(0)
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]]).repeat(20_000, 1)
    tokens = InverseCdfSampler(0.7)(torch.empty(0), logits).argmax(dim=-1)
    shares = torch.bincount(tokens, minlength=4) / len(tokens)
    assert shares.tolist() == pytest.approx(torch.softmax(logits[0] / 0.7, dim=-1).tolist(), abs=0.01)


def test_sampling_skips_zero():
    """A token of probability 0 is never sampled."""
    torch.manual_seed(0)
    logits = torch.tensor([[-float("inf"), 0.0, -float("inf")]]).repeat(5_000, 1)
    assert set(InverseCdfSampler(1.0)(torch.empty(0), logits).argmax(dim=-1).tolist()) == {1}


def test_length_sorted_batches():
    """Every index is in one batch, beside those of similar length."""
    assert list(length_sorted_batches([5, 1, 4, 1, 3], size=2)) == [[1, 3], [4, 2], [0]]


def test_greedy_temperature():
    """Greedy decoding has temperature 0."""
    assert [decoding.temperature for decoding in decodings(["greedy", "sampled"], 0.7, 32)] == [0.0, 0.7]


def test_shared_length():
    """The tokens that all prompts begin with are shared, but at least one of each prompt is not."""
    assert shared_length([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3]]) == 2
    assert shared_length([[1, 2], [1, 2, 3]]) == 1
    assert shared_length([[1, 2], [1, 2]]) == 1
    assert shared_length([[1], [2]]) == 0


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
def test_shared_prefix_is_exact(config: type[PreTrainedConfig], shares, monkeypatch):
    """Prompts that share their first tokens have the completions that they have without sharing."""
    torch.manual_seed(0)
    tokenizer = small_tokenizer()
    settings = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.5}
    settings |= SIZE | {"num_key_value_heads": SIZE["num_attention_heads"]}
    model = AutoModelForCausalLM.from_config(config(**settings)).double().eval()
    chats = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}] for text in QUESTIONS]
    texts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    assert allows_prefix(model) == shares
    completions = generate(model, tokenizer, texts, Decoding("greedy", 0.0, 8))
    monkeypatch.setattr("trainer.generation.MIN_PREFIX_TOKENS", 1_000)
    assert generate(model, tokenizer, texts, Decoding("greedy", 0.0, 8)) == completions
    assert len({completion for completion, _, _ in completions}) == len(QUESTIONS)
