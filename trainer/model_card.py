"""The model card of a trained policy: what it learned from, and how it scores before and after. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from shared.model_store.store import hub_id
from trainer.reporting import comparison
from trainer.reporting.comparison import Comparison
from trainer.reporting.kl_frontier import final_kl
from trainer.run_folder import Run

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
TITLES = {"rloo": "RLOO", "grpo": "GRPO", "dpo": "DPO", "sft": "SFT"}
SETTINGS = (
    *("algorithm", "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("num_generations", "max_completion_length", "max_length", "temperature", "learning_rate", "lr_scheduler_type"),
    *("beta", "margin", "min_score", "frozen_layers", "interpolation", "seed"),
)
"""The settings that a card shows, where a run has them."""
TEMPLATE = """\
---
{header}---
# {name}

{question}A policy trained from `{policy}` with TRL's {algorithm} by `reward-trainer`{steps}.

## Rewards
{rewards}

## Before and after
{scores}

## Use
```python
from transformers import pipeline

chat = pipeline("text-generation", "{name}")
chat([{{"role": "user", "content": "What is a stapler?"}}])
```

## Training
{settings}

## Limits
- It was trained for these rewards. Whatever they do not measure may have become worse: compare the judges, which it was
  not trained on.
"""


def render(name: str, run: Run, base: object) -> str:
    """Return the card of a run's policy as Markdown. `base` is the model that it was trained from."""
    algorithm = str(run.config.get("algorithm", "rloo"))
    header = {
        **base_model(base),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["trl", algorithm, "reward-trainer"],
    }
    question = str(run.config.get("question") or "")
    return TEMPLATE.format(
        header=yaml.safe_dump(header, sort_keys=False),
        name=name,
        question=f"{question} " if question else "",
        policy=base_name(base),
        algorithm=TITLES.get(algorithm, algorithm),
        steps=_length(run),
        rewards="\n".join(_rewards(run.rewards)),
        scores="\n".join(line for each in comparison.compare(run.before, run.after) for line in _scores(each)),
        settings="\n".join(f"- `{key}`: {run.config[key]}" for key in SETTINGS if run.config.get(key) is not None),
    )


def base_model(name: object) -> dict[str, str]:
    """Return a model card's `base_model` if the name is one of the hub, which refuses any other."""
    repository = hub_id(name)[0] if isinstance(name, str) else ""
    is_id = HUB_ID.fullmatch(repository) is not None and not Path(str(name)).exists()
    return {"base_model": repository} if is_id else {}


def base_name(name: object) -> str:
    """Return a model's name without the folders above it, which say nothing on another machine."""
    return Path(str(name)).name if Path(str(name)).exists() else str(name)


def _length(run: Run) -> str:
    """Return how long the policy was trained, and how far that has moved it, in words."""
    steps = f", {run.last_step} steps" if run.last_step else ""
    kl = final_kl(run)
    return steps if kl is None else f"{steps}, to a KL divergence of {kl:.2f} nats a token"


def _rewards(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of rewards and judges, and what chose the completions of an offline algorithm."""
    revisions = manifest.get("revisions", {})
    rows = [(row["name"], row["kind"], f"{row['weight']:g}", row["revision"]) for row in manifest.get("rewards", [])]
    judges = manifest.get("judges", [])
    rows += [(row["name"], row["kind"], "a judge", revisions.get(row["name"], "—")) for row in judges]
    yield from _table(["reward", "kind", "weight", "revision"], rows)
    if completions := manifest.get("completions"):
        chosen = completions["chosen_by"]
        by = f"chosen by `{chosen}`, revision {completions['revision']}" if chosen else "chosen by no reward"
        yield f"\nIt learned from {completions['rows']} rows of completions (sha256 {completions['hash']}), {by}."


def _scores(comparison: Comparison) -> Iterator[str]:
    yield f"{comparison.decoding}, {comparison.settings}, {comparison.prompts} held-out prompts, 95 % intervals:\n"
    scored = [row for row in comparison.rows if row.scored]
    cells = [(row.metric, *(f"{cell.value} {cell.bounds}".strip() for cell in row.cells)) for row in scored]
    yield from _table(["score", "before", "after", "change"], cells)
    yield ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (columns, ["---"] * len(columns), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
