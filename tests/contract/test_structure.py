"""The structure of the packages: who imports whom, what they export, and what an import loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import remote_rewards
import shared.model_store

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "shared": {"shared"},
    "reward_service": {"shared", "reward_service"},
    "remote_rewards": {"shared", "remote_rewards"},
    "trainer": {"shared", "remote_rewards", "trainer"},
}
OWN_PACKAGES = set(MAY_IMPORT) | {"bench", "scripts", "tests"}


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_follow_the_layers(package):
    """A package imports only the packages below it."""
    files = list((ROOT / package).rglob("*.py"))
    assert files
    forbidden = OWN_PACKAGES - MAY_IMPORT[package]
    violations = {f"{path.name}: {name}" for path in files for name in imported_packages(path) if name in forbidden}
    assert not violations


@pytest.mark.parametrize("package", [remote_rewards, shared.model_store])
def test_exports_exist_and_are_sorted(package):
    """`__all__` is sorted, and every name in it exists."""
    assert list(package.__all__) == sorted(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)


def modules_loaded_by(statement):
    code = f"{statement}; import sys; print(' '.join(sorted(sys.modules)))"
    return set(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("from remote_rewards import RewardClient", {"torch", "transformers", "fastapi", "trl", "yaml", "numpy"}),
        ("import reward_service.app", {"torch", "transformers", "trl"}),
        ("from remote_rewards import remote_reward", {"torch", "transformers", "trl", "fastapi"}),
        ("import shared.model_store", {"torch", "transformers"}),
    ],
)
def test_imports_are_light(statement, absent):
    """Importing an entry point loads no library that it does not need."""
    assert not modules_loaded_by(statement) & absent


def test_the_client_imports_little():
    """Importing the client loads no package beside its dependencies, so that a script starts as fast as with them."""
    packages = {name.partition(".")[0] for name in modules_loaded_by("from remote_rewards import RewardClient")}
    dependencies = {name.partition(".")[0] for name in modules_loaded_by("import anyio, httpx, pydantic")}
    of_dependencies = {"annotated_types", "sniffio"}  # loaded by pydantic and httpcore once they are used
    further = packages - dependencies - of_dependencies - sys.stdlib_module_names
    assert {name for name in further if not name.startswith("_")} == {"remote_rewards", "shared"}
