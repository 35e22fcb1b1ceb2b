"""What `reward-trainer evaluate` evaluates in one command: several policies, shares of their changes, and seeds."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import TrainerError
from trainer.interpolation import check_share
from trainer.run_folder import POLICY


@dataclass(frozen=True)
class EvaluationOptions:
    """Each policy is evaluated with each share and each seed. Empty: those of the recipe."""

    policies: list[str]
    shares: list[float]
    seeds: list[int]


def split_options(argv: Sequence[str]) -> tuple[EvaluationOptions | None, list[str]]:
    """Return these options, None without any of them, and the other flags."""
    parser = argparse.ArgumentParser(prog="reward-trainer evaluate", add_help=False, allow_abbrev=False)
    add_options(parser)
    namespace, others = parser.parse_known_args(list(argv))
    options = EvaluationOptions(**vars(namespace))
    return (options if options != EvaluationOptions([], [], []) else None), others


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that evaluate several policies and compare them."""
    options = parser.add_argument_group("several evaluations, compared in comparison.html")
    options.add_argument(
        "--policies",
        nargs="+",
        default=[],
        metavar="POLICY",
        help="Folders or hub ids in place of the recipe's policy.",
    )
    options.add_argument(
        "--shares",
        nargs="+",
        type=float,
        default=[],
        metavar="SHARE",
        help="Evaluate --kl_from + SHARE x (policy - --kl_from) of the weights, each SHARE above 0, up to 1.",
    )
    options.add_argument("--seeds", nargs="+", type=int, default=[], metavar="SEED", help="Seeds of the sampling.")


def check_shares(shares: Sequence[float], base: str | None) -> None:
    """Raise `TrainerError` for shares outside of (0, 1], or without a `base` to interpolate from."""
    if shares and base is None:
        raise TrainerError("--shares needs --kl_from: the policy before training, such as embedded:smollm2")
    for share in shares:
        check_share("--shares", share)


def policy_labels(policies: Sequence[str]) -> dict[str, str]:
    """Return a label of its own for each policy: the last part of its path, and parts before it where that is shared.

    Raises `TrainerError` for one policy that is written in two ways.
    """
    parts = {policy: _path_parts(policy) for policy in policies}
    labels = dict.fromkeys(parts, "")
    for length in range(1, max(map(len, parts.values())) + 1):
        counts = Counter(labels.values())
        labels = {
            policy: "_".join(names[-length:]) if counts[labels[policy]] > 1 or length == 1 else labels[policy]
            for policy, names in parts.items()
        }
    same = [policy for policy, label in labels.items() if [*labels.values()].count(label) > 1]
    if same:
        raise TrainerError(f"--policies: {' and '.join(same)} would be evaluated into the same folder; name each once")
    return labels


def _path_parts(policy: str) -> list[str]:
    """Return the parts of a policy's path or hub id without separators, or those of its run."""
    path = Path(policy)
    parts = (path.parent if path.name == POLICY else path).parts
    return [name for part in parts if (name := part.replace(":", "_").strip("/"))] or [POLICY]
