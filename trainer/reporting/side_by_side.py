"""Completions before and after training, side by side, as a table for the terminal."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from trainer.reporting.comparison import Evaluation
from trainer.reporting.report_text import visible
from trainer.run_folder import Run

DECODINGS = ("sampled", "greedy")
"""The decodings to show, the first that both evaluations have."""


def side_by_side(run: Run, count: int) -> Table:
    """Return a table of `count` held-out prompts, evenly spread, with the completions of both evaluations."""
    table = Table(title=f"{run.config.get('recipe', 'run')}: completions of held-out prompts", title_justify="left")
    for heading in ("prompt", "before training", "after training"):
        table.add_column(heading, overflow="fold", ratio=1)
    for row in completion_pairs(run.before, run.after, count):
        table.add_row(*(Text(visible(" ".join(text.split()))) for text in row))
        table.add_section()
    return table


def completion_pairs(before: Evaluation, after: Evaluation, count: int) -> Sequence[tuple[str, str, str]]:
    """Return up to `count` rows of prompt, completion before and completion after, of prompts that both have."""
    for decoding in DECODINGS:
        first, second = (_completions(evaluation, decoding) for evaluation in (before, after))
        prompts = [prompt for prompt in first if prompt in second]
        if prompts:
            step = max(1, len(prompts) // count)
            return [(prompt, first[prompt], second[prompt]) for prompt in prompts[::step][:count]]
    return []


def _completions(evaluation: Evaluation, decoding: str) -> dict[str, str]:
    samples = evaluation.get("decodings", {}).get(decoding, {}).get("samples", [])
    return {sample["prompt"]: sample["completion"] for sample in samples}
