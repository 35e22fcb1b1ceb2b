"""The reward `diversity`: what a completion has in common with completions of other prompts costs.

A reward that reads one completion at a time pays for a phrase that pleases it as often as it comes, so policies end up
with one phrase for every prompt. Only a comparison of completions shows that, so this one is computed in the trainer.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from remote_rewards import text_of
from remote_rewards.distributed import on_all_ranks, rank
from trainer.prompts import prompt_id_of
from trainer.texts import word_pairs

DIVERSITY = "diversity"
"""The name of the reward in metrics, samples and rewards.json."""
MANIFEST_ROW = {
    "name": DIVERSITY,
    "kind": "local",
    "revision": "local:1",  # another one for every change of the values
    "description": "Minus the share of other prompts' completions that have a completion's pairs of words",
}
"""Its row in rewards.json, without its weight."""

Pairs = frozenset[tuple[str, ...]]


def diversity(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    """Minus the share of the batch's completions of other prompts that have a pair of words, over a completion's pairs.

    From 0, nothing in common, to -1, each has all of them. A batch consists of the completions on all processes.
    """
    own = [
        (prompt_id_of(prompt), word_pairs(text_of(completion)))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    by_rank = on_all_ranks(lambda: own)
    shares = shared_with_others([row for rows in by_rank for row in rows])
    first = sum(map(len, by_rank[: rank()]))
    return [0.0 - share for share in shares[first : first + len(own)]]


def shared_with_others(completions: Sequence[tuple[str, Pairs]]) -> list[float]:
    """Return for each completion, (prompt, pairs), the share of other prompts' completions with a pair, as a mean.

    0 for a completion without pairs, and if all are of one prompt.
    """
    of_all: Counter[tuple[str, ...]] = Counter()
    of_prompt: defaultdict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for prompt, pairs in completions:
        of_all.update(pairs)
        of_prompt[prompt].update(pairs)
    sizes = Counter(prompt for prompt, _ in completions)
    shares = []
    for prompt, pairs in completions:
        others, same = len(completions) - sizes[prompt], of_prompt[prompt]
        found = sum(of_all[pair] - same[pair] for pair in pairs)
        shares.append(found / others / len(pairs) if others and pairs else 0.0)
    return shares


def mask_unscored(rewards: Tensor, names: Sequence[str], weights: Sequence[float]) -> Tensor:
    """Return rewards, (completions, rewards), without `diversity` where no other reward with a weight has a score.

    TRL would take what is left as the reward of a completion that could not be scored.
    """
    if DIVERSITY not in names:
        return rewards
    others = [index for index, name in enumerate(names) if name != DIVERSITY and weights[index]]
    unscored = rewards[:, others].isnan().all(dim=1)
    masked = rewards.clone()
    masked[unscored, names.index(DIVERSITY)] = float("nan")
    return masked
