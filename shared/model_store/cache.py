"""The cache: what is there is whole. Things are made beside their place, under a lock, and moved there last.

Enters: a path in the cache and a function that fills a folder. Leaves: that folder, made by one process only.
Never: a half-made folder under a name that anybody reads, or a file that only its maker may read.
"""

import contextlib
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from shared.model_store.errors import ModelError
from shared.model_store.progress import say

NAME = "remote-rewards"
LOCK_TIMEOUT_S = 1800.0
"""How long to wait for another process that prepares the same: a slow machine trains for many minutes."""


def cache_home(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Give the folder of all that is kept: `REMOTE_REWARDS_HOME`, else the platform's cache of this user."""
    if own := environ.get("REMOTE_REWARDS_HOME"):
        return Path(own).expanduser().absolute()
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / NAME
    if platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / NAME / "Cache"
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / NAME


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Give the folder `target`; if it is missing, let `build` fill one, which takes its place when whole."""
    if target.is_dir():
        return target
    with locked(target):
        if not target.is_dir():  # another process may have made it while we waited
            with scratch(target) as folder:
                build(folder)
                _open_to_readers(folder)
                folder.rename(target)
    return target


@contextlib.contextmanager
def locked(target: Path, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the lock of one path in the cache; a dead process holds none. Says so where it has to wait."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is preparing {target.name}: waiting for it")
        _wait(lock, target, timeout_s)
    try:
        yield
    finally:
        lock.release()


def _wait(lock: FileLock, target: Path, timeout_s: float) -> None:
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout as cause:
        raise ModelError(
            f"another process has been preparing {target} for more than {timeout_s / 60:.0f} minutes: "
            f"see whether it still works, stop it if not, and try again"
        ) from cause


@contextlib.contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target`, removed at the end, and with it those of runs that died.

    The caller holds the lock of `target`, so any other folder of this kind belongs to nobody.
    """
    for left in target.parent.glob(f".{target.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    folder = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _open_to_readers(folder: Path) -> None:
    """Give files the rights that a new one has here: safetensors writes what only its owner may read."""
    rights = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(rights)
