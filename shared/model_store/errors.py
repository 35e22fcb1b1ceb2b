"""`ModelError`, the one exception of the model store, and the translation of foreign exceptions into it."""

import contextlib
import errno
from collections.abc import Iterator

PERMISSION_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS}


class ModelError(Exception):
    """A model cannot be prepared. The message is one sentence that says what to do."""


@contextlib.contextmanager
def as_model_error(doing: str) -> Iterator[None]:
    """Turn any exception into a `ModelError` whose message begins with `doing`; let a `ModelError` pass."""
    try:
        yield
    except ModelError:
        raise
    except Exception as cause:
        raise ModelError(f"{doing}: {_describe(cause)}") from cause


def _describe(cause: Exception) -> str:
    if is_disk_full(cause):
        return (
            "the disk is full; free some space, or set REMOTE_REWARDS_HOME (HF_HOME for models of the hub) "
            "to a folder on a larger disk; incomplete files have been removed"
        )
    if isinstance(cause, ImportError):
        return f"{cause.name or cause} is not installed: run pip install 'remote-rewards[models]'"
    if isinstance(cause, OSError) and cause.errno in PERMISSION_ERRNOS:
        return f"{cause.filename} is not writable; set REMOTE_REWARDS_HOME to a folder of your own"
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an exception or one in its chain means a full disk, which safetensors reports as text only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
