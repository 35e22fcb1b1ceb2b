from copy import deepcopy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.small_models import small_model, small_tokenizer
from trainer.errors import TrainerError
from trainer.kl import MAX_COMPLETIONS, check_same_tokens, kl_per_token, kl_sum, main_completions, spread, token_rows

HEAD = [*range(10, 22)]
ROWS = [([*HEAD, 30], [31, 32]), ([*HEAD, 33, 34], [35]), ([*HEAD, 36], []), ([*HEAD, 37, 38], [39, 40, 41])]


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def policies(request, tokenizer):
    """A policy and its base, which differ in their heads."""
    kind = {"llama": (LlamaForCausalLM, LlamaConfig), "gpt2": (GPT2LMHeadModel, GPT2Config)}[request.param]
    size = {"n_embd": 32, "n_layer": 2, "n_head": 4} if request.param == "gpt2" else {}
    policy, base = (small_model(*kind, tokenizer, initializer_range=0.1, **size) for _ in range(2))
    with torch.no_grad():
        policy.get_input_embeddings().weight.mul_(1.5)
    return policy, base


def token_by_token(policy, base):
    """Return (sum of the KL, number of tokens) with a forward pass for each token."""
    total, tokens = 0.0, 0
    for prompt, completion in ROWS:
        for end in range(len(completion)):
            ids = torch.tensor([prompt + completion[:end]])
            p, q = (model(ids).logits[0, -1].log_softmax(-1) for model in (policy, base))
            total, tokens = total + float((p.exp() * (p - q)).sum()), tokens + 1
    return total, tokens


@torch.no_grad()
def test_kl(policies):
    """The KL of a batch with a shared prefix is that of each next token, computed one by one."""
    assert kl_sum(*policies, ROWS) == pytest.approx(token_by_token(*policies), rel=1e-4)
    assert kl_sum(*policies, ROWS)[0] > 0.01


def test_no_kl(policies):
    """A policy is no KL away from itself; without tokens there is none, nor where it is not finite."""
    policy, base = policies
    assert kl_per_token(policy, lambda: policy, ROWS) == pytest.approx(0.0, abs=1e-6)
    assert kl_per_token(policy, lambda: base, [([1, 2], [])]) is None
    broken = type(base)(base.config)
    with torch.no_grad():
        broken.get_input_embeddings().weight.fill_(torch.nan)
    assert kl_per_token(policy, lambda: broken, ROWS) is None


def test_other_tokens(policies, tokenizer, tmp_path):
    """A KL from a policy with other tokens is refused before the evaluation."""
    for part in (tokenizer, policies[1]):
        part.save_pretrained(tmp_path)
    check_same_tokens(tokenizer, str(tmp_path))
    other = deepcopy(tokenizer)
    other.add_tokens(["xyzzy"])
    with pytest.raises(TrainerError, match=r"--kl_from .*: it has other tokens than the policy"):
        check_same_tokens(other, str(tmp_path))


def test_no_memory(policies, capsys):
    """Without memory for the base policy there is no KL, and a line says how to leave it out."""

    def load_base():
        raise torch.OutOfMemoryError("tried to allocate 7 GiB")

    assert kl_per_token(policies[0], load_base, ROWS) is None
    assert "(--eval_kl false): tried to allocate 7 GiB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("temperatures", "measured"),
    [({"greedy": 0.0, "sampled": 0.7}, "sampled"), ({"greedy": 0.0}, "greedy"), ({}, None)],
)
def test_measured_completions(tokenizer, temperatures, measured):
    """The KL is measured on the sampled completions, if there are some."""
    decodings = {
        name: {"temperature": temperature, "samples": [{"completion": name}, {"completion": ""}]}
        for name, temperature in temperatures.items()
    }
    completions = main_completions({"decodings": decodings})
    assert [record["completion"] for record in completions] == ([measured, ""] if measured else [])
    rows = token_rows(tokenizer, ["one", "two"], completions)
    assert [tokenizer.decode(tokens) for _, tokens in rows] == ([measured, ""] if measured else [])


def test_spread():
    """Of many completions, some of all parts are measured; of few, all."""
    rows = [([index], [index]) for index in range(200)]
    assert spread(rows[:3]) == rows[:3]
    assert len(spread(rows)) == MAX_COMPLETIONS == len({prompt[0] for prompt, _ in spread(rows)})
    assert (spread(rows)[0], spread(rows)[-1], spread([])) == (rows[0], rows[196], [])
