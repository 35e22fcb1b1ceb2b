"""The run folder: what a run leaves behind. Each file is whole or not there."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import TrainerError


class RunFolder:
    """One run's folder and the files in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, *, overwrite: bool, resume: bool = False) -> "RunFolder":
        """Make an empty run folder. An earlier run there is replaced only where that is asked for."""
        if path.exists() and any(path.iterdir()) and not resume:
            if not overwrite:
                raise TrainerError(
                    f"{path} holds an earlier run: pass --overwrite true to replace it, --output_dir for another "
                    f"folder, or --resume_from_checkpoint to go on with it"
                )
            if not (path / "config.yaml").exists():
                raise TrainerError(f"{path} is not empty and holds no run of ours; choose another --output_dir")
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

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.path / name)
