"""The run folder: what a run leaves behind. Each file is written whole, and read even where others are missing."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import TrainerError

Record = Mapping[str, Any]  # {"prompt", "completion", maybe "cut_off" and "scores"}
Metrics = Sequence[Mapping[str, Any]]  # one mapping for each step

_FILES = {
    "config.yaml": "the configuration",
    "metrics.jsonl": "the course of training",
    "samples.jsonl": "replies from training",
    "rewards.json": "the rewards and their revisions",
    "before.json": "the evaluation before training",
    "after.json": "the evaluation after training",
}


class RunFolder:
    """One run's folder and the files in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, *, overwrite: bool, resume: bool = False) -> "RunFolder":
        """Make an empty run folder. An earlier run there is replaced only where that is asked for."""
        if path.exists() and any(path.iterdir()) and not resume:
            _refuse_to_replace(path, overwrite)
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    def write_json(self, name: str, content: Any) -> None:
        """Write one JSON file at once."""
        self._write(name, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False))

    def read_json(self, name: str) -> Any:
        """Read one JSON file; None where it is not there."""
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def write_config(self, content: Mapping[str, Any]) -> None:
        """Write the resolved configuration."""
        self._write("config.yaml", yaml.safe_dump(json.loads(json.dumps(content, default=str)), sort_keys=False))

    def append(self, name: str, *rows: Mapping[str, Any]) -> None:
        """Add lines to a JSONL file."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)

    def truncate_after(self, step: int) -> None:
        """Forget what was noted after a step, from which the run is resumed."""
        for name in ("metrics.jsonl", "samples.jsonl"):
            path = self.path / name
            if path.exists():
                kept = [row for row in _lines(_text(path)) if row.get("step", 0) <= step]
                self._write(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.path / name)


def _refuse_to_replace(path: Path, overwrite: bool) -> None:
    if not _is_ours(path):
        raise TrainerError(f"{path} is not empty and holds no run of ours; choose another --output_dir")
    if not overwrite:
        raise TrainerError(
            f"{path} holds an earlier run: pass --overwrite true to replace it, --output_dir for another "
            f"folder, or --resume_from_checkpoint {path}/checkpoint-<step> where it has one"
        )


def _is_ours(path: Path) -> bool:
    """Tell our resolved configuration from another program's, and from a recipe, which may not have the last two."""
    try:
        config = yaml.safe_load(_text(path / "config.yaml"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(config, dict) and {"recipe", "rewards", "policy", "model"} <= config.keys()


@dataclass(frozen=True)
class Run:
    """What a run folder holds. A missing or unreadable file is empty here and has a sentence in `missing`."""

    config: Mapping[str, Any]
    metrics: Metrics
    samples: Sequence[Record]
    rewards: Mapping[str, Any]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    missing: Mapping[str, str]

    @property
    def last_step(self) -> int:
        """Tell the last step that was logged or evaluated."""
        return max(self.after.get("step") or 0, int(self.metrics[-1]["step"]) if self.metrics else 0)


def read_run(run_folder: Path) -> Run:
    """Read what is there.

    A line cut short by a crash is skipped; of a step logged twice the later line counts.
    """
    readers: dict[str, Callable[[str], Any]] = {
        ".yaml": yaml.safe_load,
        ".json": json.loads,
        ".jsonl": _lines,
    }
    content: dict[str, Any] = {}
    missing = {}
    for name, what in _FILES.items():
        path = run_folder / name
        try:
            content[path.stem] = readers[path.suffix](_text(path))
        except FileNotFoundError:
            missing[path.stem] = f"There is no {name} ({what}): the run stopped before it was written."
        except (OSError, ValueError, yaml.YAMLError) as error:
            missing[path.stem] = f"{name} ({what}) cannot be read: {error}"
    objects = {key: content.get(key) or {} for key in ("config", "rewards", "before", "after")}
    return Run(
        **objects,
        metrics=_steps(content.get("metrics", [])),
        samples=content.get("samples", []),
        missing=missing,
    )


def _text(path: Path) -> str:
    """Read a file; of lines that were written one by one, the last may end within a character."""
    return path.read_text(encoding="utf-8", errors="replace" if path.suffix == ".jsonl" else "strict")


def _lines(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.split("\n"):  # a text may hold other characters that end a line
        try:
            found.append(json.loads(line))
        except ValueError:  # the last line of a killed run, or an empty one
            continue
    return [line for line in found if isinstance(line, dict)]


def _steps(lines: Metrics) -> Metrics:
    steps = {line.get("step", place): line for place, line in enumerate(lines, 1)}
    return [{**steps[step], "step": step} for step in sorted(steps)]
