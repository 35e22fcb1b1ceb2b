"""Text for terminals: the comparison as a table, counts, and escapes for invisible characters."""

import unicodedata

from rich.table import Table
from rich.text import Text

from trainer.reporting.comparison import MOST_COMMON, TOKENS, Evaluation, Row, compare, finite

KL = "KL, nats a token"
LONGEST_METRIC = 24
"""A metric's name is broken only beyond this many characters; the completions beside it are broken earlier."""
_ALLOWED = "\n\t\u200c\u200d"  # the last two join letters and emoji


def summary_table(before: Evaluation | None, after: Evaluation | None) -> Table:
    """Return a table of the scores, the length and the most common completion. No text is read as markup."""
    table = Table(title="Before and after training, with 95 % intervals", title_justify="left")
    comparisons = compare(before, after)
    longest = max((len(row.metric) for item in comparisons for row in item.rows if row.scored), default=0)
    table.add_column("metric", overflow="fold", min_width=min(max(longest, len(KL)), LONGEST_METRIC))
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right", no_wrap=heading == "change")
    for comparison in comparisons:
        table.add_section()
        name, prompts = Text(visible(comparison.decoding), style="bold"), counted(comparison.prompts, "prompt")
        table.add_row(name, "", "", prompts)
        for row in comparison.rows:
            if row.scored or row.metric in (MOST_COMMON, TOKENS):
                table.add_row(*(Text(visible(cell)) for cell in _summary(row)))
    kls = [finite((evaluation or {}).get("kl")) for evaluation in (before, after)]
    if kls != [None, None]:
        table.add_section()
        table.add_row(KL, *("" if kl is None else f"{kl:.2f}" for kl in kls), "")
    return table


def counted(number: float, noun: str) -> str:
    """Return a number of things, such as "1 epoch" or "12 steps"."""
    return f"{number:.10g} {noun}{'' if number == 1 else 's'}"


def visible(text: str) -> str:
    """Return the text with control, direction and lone surrogate characters escaped: they could break a page."""
    return "".join(character if _is_plain(character) else _escaped(character) for character in text)


def _is_plain(character: str) -> bool:
    return character in _ALLOWED or unicodedata.category(character) not in ("Cc", "Cf", "Cs")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _summary(row: Row) -> tuple[str, str, str, str]:
    before, after, change = row.cells
    texts = [f"{cell.value}\n{text}".strip() for cell, text in zip((before, after), row.quotes, strict=True)]
    return row.metric, texts[0], texts[1], f"{change.value} {change.bounds}".strip()
