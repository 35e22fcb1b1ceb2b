"""The training and held-out pairs of a run: of a file, or of the embedded human ratings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.model_store.embedded import ratings
from shared.model_store.embedded.ratings import Rating
from trainer.errors import TrainerError
from trainer.reward_model.config import RATINGS, RewardModelArguments
from trainer.reward_model.pairs import Pair, check_disjoint, read_pairs, split
from trainer.reward_model.rated_pairs import rated_pairs
from trainer.sampled_completions import is_sampled, read_sampled_pairs


@dataclass(frozen=True)
class Preferences:
    """The pairs of a run, and where they come from ratings, the rated sentences: all their pairs are held out."""

    train: Sequence[Pair]
    heldout: Sequence[Pair]
    train_ratings: Sequence[Rating] = ()
    heldout_ratings: Sequence[Rating] = ()


def load_preferences(run: RewardModelArguments, seed: int) -> Preferences:
    """Return the training and held-out pairs; no text of one is in the other. Raises `TrainerError`."""
    if run.pairs == RATINGS:
        rated, heldout_rated = ratings.split(ratings.load())
        pairs = rated_pairs(rated, rounds=run.rounds, seed=seed, similar_lengths=True)
        return Preferences(pairs, (), rated, heldout_rated)
    pairs = pairs_of_file(run, run.pairs)
    if run.heldout_pairs is not None:
        heldout = pairs_of_file(run, run.heldout_pairs)
        check_disjoint(pairs, heldout)
        return Preferences(pairs, heldout)
    trained, heldout = split(pairs, run.heldout_share)
    if not trained:
        raise TrainerError(
            f"all pairs of {run.pairs} share their texts, so none is left to train on beside the held-out ones: name "
            f"held-out pairs with --heldout_pairs, or hold out none with --heldout_share 0"
        )
    return Preferences(trained, heldout)


def pairs_of_file(run: RewardModelArguments, name: str) -> list[Pair]:
    """Return the pairs of a file of pairs, or of sampled completions with scores. Raises `TrainerError`."""
    path = Path(name).expanduser()
    return read_sampled_pairs(path, reward=run.by, margin=run.margin) if is_sampled(path) else read_pairs(path)
