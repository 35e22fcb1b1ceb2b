"""`make lock`: pin the installed versions.

constraints.txt has all of them; locks/<image>.txt the packages of one image, with the hashes of all their files, so
that it works on every platform; locks/torch.txt torch alone, which has a separate build for each kind of accelerator.
"""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
IMAGES = {"reward": {"service", "openvino", "math"}, "trainer": {"trainer"}}
DISTRIBUTION = "remote-rewards"


def main() -> int:
    """Write all files. Returns the exit code."""
    packages = closure(DISTRIBUTION, frozenset({"service", "onnxruntime", "openvino", "trainer", "dev"})) - {
        DISTRIBUTION
    }
    pins = [f"{name}=={version(name).removesuffix('+cpu')}" for name in sorted(packages)]
    (ROOT / "constraints.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")
    (ROOT / "locks").mkdir(exist_ok=True)
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    (ROOT / "locks" / "torch.txt").write_text(f"{torch}\n", encoding="utf-8")
    for image, extras in IMAGES.items():
        names = closure(DISTRIBUTION, frozenset(extras)) - {"torch", DISTRIBUTION}
        requirements = "\n".join(f"{name}=={version(name)}" for name in sorted(names))
        options = ("--no-deps", "--generate-hashes", "--no-header", "--no-annotate", "--universal", "--quiet")
        command = ["uv", "pip", "compile", *options, "--python-version", "3.11", "-"]
        compiled = subprocess.run(command, input=requirements, capture_output=True, text=True, check=False)
        if compiled.returncode:
            print(compiled.stderr, file=sys.stderr)
            return 1
        (ROOT / "locks" / f"{image}.txt").write_text(compiled.stdout, encoding="utf-8")
        print(f"locks/{image}.txt: {len(names)} packages")
    return 0


def closure(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]] | None = None) -> set[str]:
    """Return the names of a distribution and of all its installed dependencies, with these extras."""
    seen = set() if seen is None else seen
    if (name, extras) in seen:
        return set()
    seen.add((name, extras))
    return {name}.union(
        *(closure(dependency, its_extras, seen) for dependency, its_extras in _dependencies(name, extras))
    )


def _dependencies(name: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for line in requires(name) or ():
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in extras] or [{"extra": ""}]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            try:
                version(requirement.name)
            except PackageNotFoundError:
                continue  # a dependency of another build of torch
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


if __name__ == "__main__":
    sys.exit(main())
