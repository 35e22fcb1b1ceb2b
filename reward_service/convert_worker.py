"""Write pickled weight files as safetensors. `convert` runs `python -I convert_worker.py SOURCE TARGET …`."""

import contextlib
import ctypes
import sys
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # unshare(2)


def main(*files: str) -> int:
    """Convert each source. Return 1, with the reason as the last line on stderr, if one holds anything but tensors."""
    import torch  # noqa: F401 - before the network is given up

    give_up_network()
    try:
        for source, target in zip(files[::2], files[1::2], strict=True):
            convert(Path(source), target)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def convert(source: Path, target: str) -> None:
    """Convert one file. Raise `ValueError` if it holds anything but tensors."""
    import torch
    from safetensors.torch import save_file

    try:
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{source.name}: it is no plain file of weights: {reason}") from error
    others = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ValueError(f"{source.name}: {others[0]!r} is no tensor")
    save_file({name: value.clone().contiguous() for name, value in content.items()}, target, {"format": "pt"})


def give_up_network() -> None:
    """Move into a network namespace without any interface, where Linux allows it to this user."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        if libc.unshare(CLONE_NEWNET) != 0:
            libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
