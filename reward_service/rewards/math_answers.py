"""Compare mathematical answers with math-verify. A reward function for worker processes: what hangs is killed there.

math-verify's own timeouts are off: they call an answer wrong that they could not decide.
"""

import logging
import re
from collections.abc import Sequence
from typing import Any

import math_verify

for part in ("parser", "grader"):
    logging.getLogger(f"math_verify.{part}").setLevel(logging.ERROR)  # they warn that their timeouts are off

MARKED = re.compile(r"\$|\\\(|\\\[|\\boxed")
PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def math_answers(completions: Sequence[str], gold: Sequence[Any], **_: Any) -> list[float | None]:
    """Return 1 for a right answer and 0 for a wrong one; None where the right answer is null or no mathematics."""
    return [_verdict(text, answer) for text, answer in zip(completions, gold, strict=True)]


def _verdict(text: str, answer: Any) -> float | None:
    if answer is None:
        return None
    wanted = math_verify.parse(marked(str(answer)), parsing_timeout=None)
    if not wanted:
        return None
    return float(math_verify.verify(wanted, math_verify.parse(text, parsing_timeout=None), timeout_seconds=None))


def marked(answer: str) -> str:
    """Return a bare formula between dollar signs, without which math-verify would read only the 2 of `2x`."""
    return answer if MARKED.search(answer) or PROSE.search(answer) else f"${answer}$"


math_answers([r"$\frac{x}{2}$"], [r"$\frac{1}{2}x$"])  # fill the parser's tables before a call has a timeout
