"""`make lock`: pin what is installed now, and for the images with hashes.

constraints.txt holds every version; locks/<image>.txt what one image needs, with the hashes of every file there is of
each, so that it serves every machine; locks/torch.txt torch alone, of which each kind of accelerator has its own build.
"""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
IMAGES = {"reward": {"service", "openvino"}, "trainer": {"trainer"}}
OWN = "remote-rewards"


def main() -> int:
    """Write all the files."""
    everything = needed(OWN, frozenset({"service", "onnxruntime", "openvino", "trainer", "dev"})) - {OWN}
    pins = [f"{name}=={version(name).removesuffix('+cpu')}" for name in sorted(everything)]
    (ROOT / "constraints.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")
    (ROOT / "locks").mkdir(exist_ok=True)
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    (ROOT / "locks" / "torch.txt").write_text(f"{torch}\n", encoding="utf-8")
    for image, extras in IMAGES.items():
        names = needed(OWN, frozenset(extras)) - {"torch", OWN}
        wanted = "\n".join(f"{name}=={version(name)}" for name in sorted(names))
        options = ("--no-deps", "--generate-hashes", "--no-header", "--no-annotate", "--universal", "--quiet")
        command = ["uv", "pip", "compile", *options, "--python-version", "3.11", "-"]
        found = subprocess.run(command, input=wanted, capture_output=True, text=True, check=False)
        if found.returncode:
            print(found.stderr, file=sys.stderr)
            return 1
        (ROOT / "locks" / f"{image}.txt").write_text(found.stdout, encoding="utf-8")
        print(f"locks/{image}.txt: {len(names)} packages")
    return 0


def needed(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]] | None = None) -> set[str]:
    """Name a distribution and all that it needs here, with these extras."""
    seen = set() if seen is None else seen
    if (name, extras) in seen:
        return set()
    seen.add((name, extras))
    return {name}.union(*(needed(each, wants, seen) for each, wants in _requirements(name, extras)))


def _requirements(name: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for line in requires(name) or ():
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
        if requirement.marker is None or any(requirement.marker.evaluate(each) for each in environments):
            try:
                version(requirement.name)
            except PackageNotFoundError:
                continue  # what another build of torch would need
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


if __name__ == "__main__":
    sys.exit(main())
