"""`reward-service convert`: turn pickled weights into safetensors, in a process of its own that runs no code from them.

In: a folder or hub id whose weights, adapter or value head exist only as pickles. Out: a new folder with the same
tensors as safetensors and the model's other files, those of sentence-transformers' modules included. Unpickling happens
in a separate interpreter with `weights_only=True`, without the service's environment, and without network where the
system lets a process give it up.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from reward_service.backends.sentence_config import module_folders
from reward_service.errors import ConfigError
from shared.model_store import ModelError
from shared.model_store.store import DOWNLOAD_PATTERNS, PICKLED_PATTERNS, download, looks_like_a_path

INDEX = "pytorch_model.bin.index.json"
WORKER = Path(__file__).with_name("convert_worker.py")


def convert(model: str, out: Path) -> list[Path]:
    """Write `model` with safetensors weights into the new folder `out`. Return the weight files written.

    Raises `ConfigError` where there is nothing to convert or the pickle holds anything but tensors.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: name a new folder for the converted model")
    source = _source(model)
    folders = [source, *module_folders(source)]
    if not any(_pickled(folder) for folder in folders):
        names = ", ".join(PICKLED_PATTERNS)
        raise ConfigError(f"{source} holds none of {names}: there are no pickled weights to convert")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        target, written = Path(scratch) / "model", list[Path]()
        for folder in folders:
            part = folder.relative_to(source)
            written += [part / name for name in _convert_folder(folder, target / part, Path(scratch))]
        out.mkdir(exist_ok=True)
        for path in target.iterdir():
            shutil.move(path, out / path.name)
    return [out / path for path in written]


def _convert_folder(source: Path, target: Path, scratch: Path) -> list[str]:
    """Write one folder's files without its subfolders. Return the names of the weights that were pickled."""
    target.mkdir(parents=True)
    names = {shard.name: _safetensors_name(shard.name) for shard in _pickled(source)}
    if names:
        _run_worker({(source / name).resolve(): target / converted for name, converted in names.items()}, scratch)
    _copy_other_files(source, target, weights=not any(name.startswith("pytorch_model") for name in names))
    if (source / INDEX).exists():
        _write_index(source / INDEX, target, names)
    return list(names.values())


def _pickled(folder: Path) -> list[Path]:
    return sorted(path for pattern in PICKLED_PATTERNS for path in folder.glob(pattern))


def _source(model: str) -> Path:
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if looks_like_a_path(model):
        raise ConfigError(f"there is no folder {model!r}: name a folder or a hub id")
    try:
        return download(model, [*DOWNLOAD_PATTERNS, *PICKLED_PATTERNS])
    except ModelError as error:
        raise ConfigError(str(error)) from error


def _safetensors_name(name: str) -> str:
    return name.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"


def _run_worker(targets: dict[Path, Path], scratch: Path) -> None:
    """Convert each shard to its target, in one process."""
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    environment |= {"HOME": str(scratch), "TMPDIR": str(scratch)}
    files = [str(path) for shard, target in targets.items() for path in (shard, target.resolve())]
    command = [sys.executable, "-I", str(WORKER), *files]
    finished = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        reason = (finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"])[-1]
        raise ConfigError(
            f"cannot convert {reason}; a file that you trust can be loaded with the library that wrote "
            f"it, and saved with save_pretrained"
        )


def _copy_other_files(source: Path, target: Path, *, weights: bool) -> None:
    for pattern in DOWNLOAD_PATTERNS:
        for path in source.glob(pattern):
            if (weights or path.suffix != ".safetensors") and path.name != INDEX and not (target / path.name).exists():
                shutil.copyfile(path, target / path.name)


def _write_index(index: Path, target: Path, names: dict[str, str]) -> None:
    content = json.loads(index.read_text(encoding="utf-8"))
    content["weight_map"] = {tensor: names[file] for tensor, file in content["weight_map"].items()}
    (target / "model.safetensors.index.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
