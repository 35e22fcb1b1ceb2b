"""The run folder: everything a run writes. Each file is replaced atomically, and read even if others are missing."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import TrainerError

Record = Mapping[str, Any]  # one completion: {"prompt", "completion", maybe "cut_off", "scores", "step", …}
Metrics = Sequence[Mapping[str, Any]]  # one mapping a step

POLICY = "policy"
"""The folder of the trained policy in a run folder."""

_FILES = {
    "config.yaml": "the configuration",
    "metrics.jsonl": "the training metrics",
    "samples.jsonl": "completions from training",
    "rewards.json": "the rewards and their revisions",
    "before.json": "the evaluation before training",
    "after.json": "the evaluation after training",
}

_POLICY_KEYS, _REWARD_MODEL_KEYS = {"recipe", "rewards", "policy", "model"}, {"recipe", "pairs", "pairs_hash", "model"}
"""Keys of the resolved configuration of a policy's run, and of a reward model's."""


def prompt_id(record: Record) -> str:
    """Return what completions of the same prompt share: its hash; its text in a run folder without hashes."""
    return str(record.get("prompt_id") or record["prompt"])


class RunFolder:
    """Writes the files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, *, overwrite: bool, resume: bool = False) -> "RunFolder":
        """Create an empty run folder. With `overwrite` it replaces an earlier run, with `resume` it keeps its files."""
        if path.exists() and any(path.iterdir()) and not resume:
            _check_replaceable(path, overwrite)
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file atomically."""
        self._write(name, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False))

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file, or None if there is no such file."""
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically."""
        self._write(name, text)

    def write_config(self, content: Mapping[str, Any]) -> None:
        """Write the resolved configuration to config.yaml."""
        self._write("config.yaml", yaml.safe_dump(json.loads(json.dumps(content, default=str)), sort_keys=False))

    def write_jsonl(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a JSONL file atomically."""
        self._write(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def append(self, name: str, *rows: Mapping[str, Any]) -> None:
        """Append lines to a JSONL file."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)

    def truncate_after(self, step: int) -> None:
        """Drop the metrics, completions and alarms logged after the step that a run resumes from."""
        for name in ("metrics.jsonl", "samples.jsonl", "alarms.jsonl"):
            path = self.path / name
            if path.exists():
                rows = [row for row in _parse_jsonl(_read_text(path)) if row.get("step", 0) <= step]
                self.write_jsonl(name, rows)

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.path / name)


def _check_replaceable(path: Path, overwrite: bool) -> None:
    keys = _config_keys(path)
    if not (keys >= _POLICY_KEYS or keys >= _REWARD_MODEL_KEYS):
        raise TrainerError(f"{path} is not empty and is not a run folder; choose another --output_dir")
    if not overwrite:
        raise TrainerError(
            f"{path} holds an earlier run: pass --resume_from_checkpoint auto to continue it if it was interrupted, "
            f"--overwrite true to replace it, or --output_dir for another folder"
        )


def is_run_folder(path: Path) -> bool:
    """Return whether a folder holds the run of a policy."""
    return _config_keys(path) >= _POLICY_KEYS


def _config_keys(path: Path) -> set[str]:
    """Return the keys of config.yaml if it is a resolved configuration of ours; a recipe lacks the last of them."""
    try:
        config = yaml.safe_load(_read_text(path / "config.yaml"))
    except (OSError, ValueError, yaml.YAMLError):
        return set()
    return set(config) if isinstance(config, dict) else set()


@dataclass(frozen=True)
class Run:
    """The content of a run folder. A missing or unreadable file is empty here and has a sentence in `missing`."""

    config: Mapping[str, Any]
    metrics: Metrics
    samples: Sequence[Record]
    rewards: Mapping[str, Any]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    missing: Mapping[str, str]

    @property
    def last_step(self) -> int:
        """The last step that was logged or evaluated."""
        return max(self.after.get("step") or 0, int(self.metrics[-1]["step"]) if self.metrics else 0)


def read_run(run_folder: Path) -> Run:
    """Read a run folder.

    A line cut short by a crash is skipped; if a step was logged twice, the later line counts.
    """
    parsers: dict[str, Callable[[str], Any]] = {".yaml": yaml.safe_load, ".json": json.loads, ".jsonl": _parse_jsonl}
    content: dict[str, Any] = {}
    missing = {}
    for name, what in _FILES.items():
        path = run_folder / name
        try:
            content[path.stem] = parsers[path.suffix](_read_text(path))
        except FileNotFoundError:
            missing[path.stem] = f"There is no {name} ({what}): the run stopped before it was written."
        except (OSError, ValueError, yaml.YAMLError) as error:
            missing[path.stem] = f"{name} ({what}) cannot be read: {error}"
    mappings = {key: content.get(key) or {} for key in ("config", "rewards", "before", "after")}
    return Run(
        **mappings,
        metrics=_last_line_per_step(content.get("metrics", [])),
        samples=content.get("samples", []),
        missing=missing,
    )


def _read_text(path: Path) -> str:
    """Read a file. The last line of a JSONL file may end within a character, so its errors are replaced."""
    return path.read_text(encoding="utf-8", errors="replace" if path.suffix == ".jsonl" else "strict")


def _parse_jsonl(text: str) -> list[dict[str, Any]]:
    rows = []
    for line in text.split("\n"):  # not splitlines: a JSON string may hold other line separators
        try:
            rows.append(json.loads(line))
        except ValueError:  # the last line of a killed run, or an empty one
            continue
    return [row for row in rows if isinstance(row, dict)]


def _last_line_per_step(lines: Metrics) -> Metrics:
    steps = {line.get("step", index): line for index, line in enumerate(lines, 1)}
    return [{**steps[step], "step": step} for step in sorted(steps)]
