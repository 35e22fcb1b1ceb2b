"""`make film-reviews ARGS=runs/reward_model`: the sign of a reward model's scores on film reviews of another source.

The reviews are 1,000 sentences of IMDb (Kotzias et al., KDD 2015), half of them negative, in the npm package
`sentiment`. None of them is among the rated sentences that the embedded models are trained on.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from transformers import AutoModelForSequenceClassification, AutoTokenizer

from shared.model_store import resolve
from shared.model_store.embedded.calibration import wilson_interval
from shared.model_store.embedded.ratings import normalize
from trainer.reward_model.reading import Reader
from trainer.reward_model.scoring import score

PACKAGE, FILE = "sentiment@5.0.2", "package/test/fixtures/imdb.json"
SHA256 = "89302eb03d2005d03b214fe65814bb48adb7d3c42c8ca80bdee6a3ecb7e4480f"
SELECTED = 100
"""Reviews of each sign in the selection: those with the lowest hash of their text."""


def main() -> int:
    """Print the share of reviews whose score has the right sign. Return the exit code."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder, hub id or embedded:<name>, with one output")
    reviews = read_reviews()
    for name in parser.parse_args().models:
        folder = resolve(name)
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        reader = Reader(AutoTokenizer.from_pretrained(folder), "completion", 512)
        encoded = [text for text in reader.encode([(None, text) for text, _ in reviews]) if text is not None]
        right = [(value > 0) == positive for value, (_, positive) in zip(score(model, encoded), reviews, strict=True)]
        for title, rows in (("selection", right[: 2 * SELECTED]), ("all", right)):
            low, high = wilson_interval(sum(rows), len(rows))
            print(
                f"{name}, {title}: {sum(rows)} of {len(rows)} signs right ({sum(rows) / len(rows):.3f}, "
                f"95 % {low:.3f} to {high:.3f})"
            )
    return 0


def read_reviews() -> list[tuple[str, bool]]:
    """Return the reviews and whether they are positive, as many of each sign among the first ones as in all."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", folder]
        archive = Path(folder) / subprocess.check_output(command, text=True).strip()
        if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
            raise SystemExit(f"the registry serves another {PACKAGE} than the pinned one")
        with tarfile.open(archive) as tar:
            file = tar.extractfile(FILE)
            rows = json.load(file) if file else []
    labels = {normalize(row["text"]): bool(row["class"]) for row in rows if row["text"]}
    ordered = sorted(labels.items(), key=lambda item: hashlib.sha256(item[0].encode()).hexdigest())
    positive, negative = ([item for item in ordered if item[1] is sign] for sign in (True, False))
    first = [*positive[:SELECTED], *negative[:SELECTED]]
    return [*first, *positive[SELECTED:], *negative[SELECTED:]]


if __name__ == "__main__":
    sys.exit(main())
