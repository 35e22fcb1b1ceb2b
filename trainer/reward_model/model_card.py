"""The model card of a trained reward model. Pure: metrics in, Markdown out."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainer.model_card import base_model, base_name
from trainer.reporting.report_text import counted

TEMPLATE = """\
---
{header}---
# {name}

A scalar reward model: one output, higher is better. Trained from `{base}` with TRL's RewardTrainer on {pairs}
preference pairs ({source}). It reads {reads}.

## Held-out metrics
{held_out}

## Use
With transformers:

```python
{imports}

tokenizer = AutoTokenizer.from_pretrained("{location}")
model = {model_class}.from_pretrained("{location}"{labels})
inputs = {inputs}
score = model(**inputs).logits.item(){offset}
```

Over HTTP, with remote-rewards: `reward-service check --config rewards.yaml` compares the service's scores with
transformers' own, and `reward-service serve --config rewards.yaml` serves them.

```yaml
# rewards.yaml
rewards:
  reward_model:
{spec}
```

## What the number means
The difference of two scores is the log-odds that the first text is better (Bradley-Terry): a difference of 1 means
73 %, of 2 means 88 %. Preferences fix differences alone, so the zero is a convention: {zero}

## Training
{training}

## Limits
- It knows the taste in its pairs and nothing else: whether a text is true or answers its prompt counts only where the
  pairs reward it.
- As a reward it can be hacked. Evaluate a policy with another measure, too.
"""
READS = {
    "completion": "the completion alone",
    "text": "prompt and completion as one string",
    "chat": "prompt and completion as a conversation in its chat template",
    "pair": "prompt and completion as a sentence pair",
}

WHOLE = {
    "imports": "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
    "model_class": "AutoModelForSequenceClassification",
    "labels": "",
}
ADAPTER = {
    "imports": "from peft import AutoPeftModelForSequenceClassification\nfrom transformers import AutoTokenizer",
    "model_class": "AutoPeftModelForSequenceClassification",
    "labels": ", num_labels=1, ignore_mismatched_sizes=True",
}
"""How a whole model is loaded, and an adapter with its base model."""

EXAMPLE = "What is a stapler?", "It joins sheets of paper."
RATINGS = "made of people's sentiment ratings of sentences (Hutto & Gilbert, ICWSM 2014)"


def render(location: str, metrics: Mapping[str, Any], settings: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    """Return the card. `location` is a hub id or a folder, `spec` the reward's entry in rewards.yaml."""
    held_out = metrics["held_out"]
    source, base = settings["pairs"], settings["model"]["model_name_or_path"]
    is_adapter = settings["model"]["use_peft"] and not settings["merge_lora"]
    tags = {
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "trl", "reward-trainer"],
    }
    return TEMPLATE.format(
        header=yaml.safe_dump({**base_model(base), **tags}, sort_keys=False),
        base=base_name(base),
        name=Path(location).name,
        location=location,
        pairs=metrics["trained_on"]["pairs"],
        source=RATINGS if source == "ratings" else f"`{Path(source).name}`",
        reads=READS[spec["input"]],
        held_out=held_out_text(held_out),
        inputs=_inputs(spec),
        offset=f" + {spec['offset']}" if "offset" in spec else "",
        spec="\n".join(f"    {key}: {_yaml(value)}" for key, value in {**spec, "model": location}.items()),
        zero=_zero(metrics, spec),
        **(ADAPTER if is_adapter else WHOLE),
        training=_training(metrics, settings),
    )


def _inputs(spec: Mapping[str, Any]) -> str:
    """Return the Python expression of what the model reads of an example."""
    prompt, completion = EXAMPLE
    if spec["input"] == "chat":
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        chat = ", ".join(map(json.dumps, turns))
        return f'tokenizer.apply_chat_template(\n    [{chat}],\n    return_dict=True,\n    return_tensors="pt",\n)'
    texts = {"completion": f'"{completion}"', "pair": f'"{prompt}", "{completion}"', "text": f'"{prompt}{completion}"'}
    end = " + tokenizer.eos_token" if spec.get("end") else ""
    special = ", add_special_tokens=False" if spec["input"] == "text" else ""
    return f'tokenizer({texts[spec["input"]]}{end}, return_tensors="pt"{special})'


def held_out_text(held_out: Mapping[str, Any]) -> str:
    """Return the held-out metrics as paragraphs and tables."""
    if not held_out["pairs"]:
        return "No pair was held out, so nothing is known about how well it generalises."
    rated = held_out.get("ratings")
    rows = [_row("all", held_out, rated)]
    rows += [
        _row(source, row, rated and rated["by_source"].get(source)) for source, row in held_out["by_source"].items()
    ]
    columns = ["source", "pairs", "accuracy", "95 %", "longer is better", *(_RATED if rated else [])]
    parts = [_table(columns, rows)]
    if rated:
        parts.append(
            f"Rank correlation (Spearman) with the human means is over {rated['texts']} held-out sentences; the sign "
            f"of the score is compared on the {rated['clear']} of them that are rated at least 0.5 from neutral."
        )
    bins = [[f"{row['confidence']:.3f}", f"{row['accuracy']:.3f}", str(row["n"])] for row in held_out["reliability"]]
    parts.append(
        f"Expected calibration error of the Bradley-Terry probabilities (15 bins): **{held_out['ece']}**; mean log "
        f"loss {held_out['log_loss']}."
    )
    parts.append(_table(["probability", "ordered right", "pairs"], bins))
    return "\n\n".join(parts)


_RATED = ["rank correlation", "sign right"]


def _row(source: str, pairs: Mapping[str, Any], rated: Mapping[str, Any] | None) -> list[str]:
    low, high = pairs["accuracy_95"]
    cells = [source, str(pairs["pairs"]), str(pairs["accuracy"]), f"{low} to {high}", str(pairs["length_accuracy"])]
    return cells + ([str(rated["spearman"]), str(rated["sign_accuracy"])] if rated else [])


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _zero(metrics: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    where = "by `offset` in rewards.yaml, as the head has no bias" if "offset" in spec else "by the bias of the head"
    meaning = (
        "the score of a sentence that people rate 0, on the least-squares line through scores and ratings"
        if metrics["held_out"].get("ratings")
        else "the mean score of the training texts"
    )
    return f"here it is {meaning}, set after training {where} (it was at {metrics['neutral']:+.2f})."


def _training(metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    counts = metrics["trained_on"]
    limit = f"{settings['max_length']} tokens" if settings["max_length"] else "the model's limit"
    notes = f"{counts['truncated']} truncated to {limit}, {counts['left_out']} left out as longer"
    steps, epochs = settings["max_steps"], settings["num_train_epochs"]
    length = counted(steps, "step") if steps > 0 else counted(epochs, "epoch")
    batch = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    share = settings.get("interpolation", 1.0)
    change = f"; {share:g} of the change in the weights is kept" if share < 1 else ""
    return (
        f"{counts['pairs']} pairs ({notes}), {length} in batches of {batch}, learning rate "
        f"{settings['learning_rate']:g}, seed {settings['seed']}{change}; {metrics['seconds']['train']} s on "
        f"{metrics['machine']['threads']} threads. The same machine with the same number of threads makes the same "
        f"weights again. `metrics.json` has all figures."
    )


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
