"""The KL divergence of a trained policy from the one that it started from, on the completions of an evaluation.

It is exact for each next token: the sum over the vocabulary, and no estimate from the token that was sampled. The
completions are their texts, tokenized again.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from remote_rewards.distributed import on_all_ranks, rank, world_size
from trainer.display import log
from trainer.errors import TrainerError
from trainer.generation import eval_mode, length_sorted_batches
from trainer.policy import load_tokenizer, without_adapter
from trainer.reporting.comparison import finite
from trainer.run_folder import Record

BATCH_POSITIONS = 512
"""Most positions whose distributions over the vocabulary are held at once, unless one completion has more."""

MAX_COMPLETIONS = 64
"""Most completions of an evaluation that are measured: of more, the mean hardly changes."""

Row = tuple[list[int], list[int]]
"""The tokens of a prompt and of its completion."""


def check_same_tokens(tokenizer: PreTrainedTokenizerBase, base: str) -> None:
    """Raise `TrainerError` if the policy `base` has other tokens: then no KL is defined between the two."""
    if load_tokenizer(base).get_vocab() != tokenizer.get_vocab():
        raise TrainerError(f"--kl_from {base}: it has other tokens than the policy, so there is no KL between them")


def main_completions(evaluation: Mapping[str, Any]) -> Sequence[Record]:
    """Return the completions that the KL may be measured on: those of the first sampled decoding, else of the first."""
    decodings = sorted(evaluation["decodings"].values(), key=lambda decoding: not decoding["temperature"])
    return decodings[0]["samples"] if decodings else []


def token_rows(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], completions: Sequence[Record]) -> list[Row]:
    """Return the tokens of rendered prompts and of their completions, in order; none if nothing was evaluated."""
    if not completions:
        return []
    texts = [record["completion"] for record in completions]
    heads, tails = (tokenizer([*side], add_special_tokens=False)["input_ids"] for side in (prompts, texts))
    return [*zip(heads, tails, strict=True)]


def spread(rows: Sequence[Row]) -> list[Row]:
    """Return at most `MAX_COMPLETIONS` rows, from all parts of an evaluation alike."""
    count = min(len(rows), MAX_COMPLETIONS)
    return [rows[index * len(rows) // count] for index in range(count)]


def kl_per_token(
    policy: PreTrainedModel, load_base: Callable[[], PreTrainedModel], rows: Sequence[Row]
) -> float | None:
    """Return the mean KL(policy | base) of the next token over all tokens of the completions, in nats.

    The ranks of a distributed run share the rows. None without tokens, without memory, or if it is not finite.
    """

    def share() -> tuple[float, int] | None:
        try:
            return kl_sum(policy, load_base().to(policy.device), rows[rank() :: world_size()])
        except torch.OutOfMemoryError as error:
            log(f"no KL divergence, because the device has no memory for both policies (--eval_kl false): {error}")
            return None

    sums = on_all_ranks(share)
    total = sum(part[0] for part in sums if part is not None)
    tokens = sum(part[1] for part in sums if part is not None)
    return finite(total / tokens) if tokens and None not in sums else None


@torch.inference_mode()
def kl_sum(policy: PreTrainedModel, base: PreTrainedModel, rows: Sequence[Row]) -> tuple[float, int]:
    """Return the sum of KL(policy | base) over the tokens of the completions, and the number of tokens."""
    rows = [row for row in rows if row[1]]
    longest = max((len(completion) for _, completion in rows), default=1)
    lengths = [len(prompt) + len(completion) for prompt, completion in rows]
    total = 0.0
    with ExitStack() as stack:
        for model in (policy, base):
            stack.enter_context(eval_mode(model))
        for indices in length_sorted_batches(lengths, max(1, BATCH_POSITIONS // longest)):
            batch = [rows[index] for index in indices]
            both = zip(next_token_logs(policy, batch), next_token_logs(base, batch), strict=True)
            total += sum(float((p.exp() * (p - q)).sum()) for p, q in both)
    return total, sum(len(completion) for _, completion in rows)


def next_token_logs(model: PreTrainedModel, batch: Sequence[Row]) -> Iterator[torch.Tensor]:
    """Yield the log probabilities at each completion's tokens, (its tokens, vocabulary) float32, row by row."""
    rows = [prompt + completion for prompt, completion in batch]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=model.device)  # (batch, tokens)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=ids.device)
    starts = [len(row) - len(completion) - 1 for row, (_, completion) in zip(rows, batch, strict=True)]
    first = min(starts)  # the prompts' logits are half of the work, and not needed
    last = (
        {"logits_to_keep": width - first}
        if "logits_to_keep" in inspect.signature(without_adapter(model).forward).parameters
        else {}
    )
    output = model(input_ids=ids, attention_mask=mask, use_cache=False, **last)
    logits = output.logits[:, first - width :]
    for row, start, (_, completion) in zip(logits, starts, batch, strict=True):
        yield row[start - first : start - first + len(completion)].float().log_softmax(-1)
