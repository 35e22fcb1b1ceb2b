"""The cache of prepared models: folders are built in a temporary folder under a lock, then renamed into place.

In: a path in the cache and a function that fills a folder. Out: that folder, complete, built by one process only.
Never: an incomplete folder under its final name, or files that only their owner can read.
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
from shared.model_store.progress import log

APP_NAME = "remote-rewards"
LOCK_TIMEOUT_S = 1800.0
"""How long to wait for another process that prepares the same model; a slow machine trains for many minutes."""


def cache_home(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Return the root of the cache: `REMOTE_REWARDS_HOME`, or a folder in the user cache of the platform."""
    if home := environ.get("REMOTE_REWARDS_HOME"):
        return Path(home).expanduser().absolute()
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / APP_NAME
    if platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / APP_NAME / "Cache"
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / APP_NAME


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Return the folder `target`, built by `build(temporary_folder)` if it is missing. Raises what `build` raises."""
    if target.is_dir():
        return target
    with locked(target):
        if not target.is_dir():  # another process may have built it in the meantime
            with temporary_folder(target) as folder:
                build(folder)
                _restore_default_permissions(folder)
                folder.rename(target)
    return target


@contextlib.contextmanager
def locked(target: Path, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold an inter-process lock on a path of the cache; the lock of a dead process is free.

    Raises `ModelError` if another process holds it for longer than `timeout_s`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log(f"another process is preparing {target.name}: waiting for it")
        _wait_for(lock, target, timeout_s)
    try:
        yield
    finally:
        lock.release()


def _wait_for(lock: FileLock, target: Path, timeout_s: float) -> None:
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout as cause:
        raise ModelError(
            f"another process has been preparing {target} for more than {timeout_s / 60:.0f} minutes: "
            f"check whether it still works, stop it if not, and try again"
        ) from cause


@contextlib.contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """Create an empty folder beside `target`, and remove it at the end. Removes those of crashed processes, too.

    The caller must hold the lock of `target`: any other such folder is then left over.
    """
    for leftover in target.parent.glob(f".{target.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _restore_default_permissions(folder: Path) -> None:
    """Apply the umask to files, since safetensors writes files that only their owner can read."""
    permissions = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(permissions)
