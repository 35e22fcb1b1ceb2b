"""Write one pickled weight file as safetensors. `convert` runs it as `python -I convert_worker.py`."""

import contextlib
import ctypes
import sys

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # unshare(2)


def main(source: str, target: str) -> int:
    """Convert one file. Return 1, with the reason as the last line on stderr, where it holds anything but tensors."""
    import torch
    from safetensors.torch import save_file

    give_up_network()
    try:
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        print(f"it is no plain file of weights: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return 1
    others = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        print(f"{others[0]!r} is no tensor", file=sys.stderr)
        return 1
    save_file({name: value.clone().contiguous() for name, value in content.items()}, target, {"format": "pt"})
    return 0


def give_up_network() -> None:
    """Move into a network namespace without any interface, where Linux allows it to this user."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        if libc.unshare(CLONE_NEWNET) != 0:
            libc.unshare(CLONE_NEWUSER | CLONE_NEWNET)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
