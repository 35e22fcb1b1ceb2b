"""Helpers of the scripts that run a trainer's code."""

import json
import sys
import types
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any


def skip_package_init(*packages: str) -> None:
    """Make modules of a package importable without running the package's `__init__`, which imports its dependencies."""
    for package in packages:
        root, *parts = package.split(".")
        spec = find_spec(root) if root not in sys.modules else sys.modules[root].__spec__
        module = types.ModuleType(package)
        module.__spec__ = spec
        module.__path__ = ["/".join([*spec.submodule_search_locations, *parts])]  # type: ignore[union-attr]
        sys.modules[package] = module


def serve_calls(call: Callable[[str, Any], Any]) -> None:
    """Call with the URL and the argument of each line of standard input; an exception is a result, too."""
    for line in sys.stdin:
        try:
            result = call(*json.loads(line))
        except Exception as error:
            result = {"raised": f"{type(error).__name__}: {error}"}
        print("result", json.dumps(result), flush=True)
