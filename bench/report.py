"""Write benchmark results: JSON with the machine, a table, a plot."""

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reward_service.process import usable_cores

RESULTS = Path(__file__).parent / "results"


def write(name: str, results: Any, table: str) -> None:
    """Write `<name>.json` and `<name>.md` to `bench/results`, with date and machine."""
    RESULTS.mkdir(exist_ok=True)
    content = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), **results}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    head = f"{content['date']}, {describe(content['machine'])}\n\n"
    (RESULTS / f"{name}.md").write_text(head + table, encoding="utf-8")


def machine() -> dict[str, Any]:
    """Return what the speed depends on: processor, vector instructions, cores, torch version."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    extensions = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    instructions = [extension for extension in extensions if f" {extension}" in flags]
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return {"processor": model, "instructions": instructions, "cores": usable_cores(), "torch": version("torch")}


def describe(machine: dict[str, Any]) -> str:
    """Return a one-line description of a machine."""
    instructions = " ".join(machine["instructions"])
    return f"{machine['processor']}, {machine['cores']} cores, {instructions}, torch {machine['torch']}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table; the first row is its header."""
    header, *body = ["| " + " | ".join(cell.replace("|", "·") for cell in row) + " |" for row in rows]
    return "\n".join([header, "|---" + "|---:" * (len(rows[0]) - 1) + "|", *body]) + "\n"


def bars(name: str, label: str, values: dict[str, float]) -> None:
    """Draw `<name>.svg`: one bar per system, ours in colour."""
    from matplotlib.figure import Figure

    ordered = sorted(values.items(), key=lambda item: item[1])
    figure = Figure(figsize=(7.5, 0.42 * len(ordered) + 0.9), layout="constrained")
    axes = figure.subplots()
    colours = ["#3e6fa3" if key.startswith("remote-rewards") else "#b9bec5" for key, _ in ordered]
    rectangles = axes.barh([key for key, _ in ordered], [value for _, value in ordered], color=colours)
    axes.bar_label(rectangles, fmt="%.0f", padding=4)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
