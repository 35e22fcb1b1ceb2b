"""What goes wrong between a model's name and its folder: one kind of error, which says what to do."""

import contextlib
import errno
from collections.abc import Iterator

READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


class ModelError(Exception):
    """A model could not be had. The message says what to do."""


@contextlib.contextmanager
def translating(doing: str) -> Iterator[None]:
    """Turn whatever fails inside into a `ModelError` that begins with `doing`; let one of ours pass."""
    try:
        yield
    except ModelError:
        raise
    except Exception as cause:
        raise ModelError(f"{doing}: {_reason(cause)}") from cause


def _reason(cause: Exception) -> str:
    if is_disk_full(cause):
        return (
            "the disk is full; free some space, or set REMOTE_REWARDS_HOME (HF_HOME for models of the hub) "
            "to a folder on a larger disk; what was half-written is removed"
        )
    if isinstance(cause, ImportError):
        return f"{cause.name or cause} is not installed: pip install 'remote-rewards[models]' brings it"
    if isinstance(cause, OSError) and cause.errno in READ_ONLY:
        return f"{cause.filename} may not be written; set REMOTE_REWARDS_HOME to a folder of your own"
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one behind it, says that no space is left; safetensors says it in words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return True
        if "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
