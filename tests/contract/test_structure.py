import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

import remote_rewards

ROOT = Path(__file__).parents[2]
MAY_IMPORT = {
    "shared": {"shared"},
    "reward_service": {"shared", "reward_service"},
    "remote_rewards": {"shared", "remote_rewards"},
    "trainer": {"shared", "remote_rewards", "trainer"},
}
OURS = set(MAY_IMPORT) | {"tests", "scripts"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {f"{path.name}: {name}" for path in files for name in imported(path) if name in OURS - MAY_IMPORT[package]}
    assert not wrong


@pytest.mark.parametrize("package", [remote_rewards])
def test_what_a_package_offers_is_listed_sorted_and_there(package):
    assert list(package.__all__) == sorted(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)


def modules_after(statement):
    code = f"{statement}; import sys; print(' '.join(sorted(sys.modules)))"
    return set(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("from remote_rewards import RewardClient", {"torch", "transformers", "fastapi", "trl", "yaml", "numpy"}),
        ("import reward_service.app", {"torch", "transformers", "trl"}),
        ("from remote_rewards import remote_reward", {"torch", "transformers", "trl", "fastapi"}),
        ("import shared.model_store.store", {"torch", "transformers"}),
    ],
)
def test_importing_loads_nothing_heavy(statement, absent):
    assert not modules_after(statement) & absent


def test_the_client_imports_fast_beside_the_libraries_it_needs():
    def seconds(code):
        runs = []
        for _ in range(3):
            began_s = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
            runs.append(time.perf_counter() - began_s)
        return min(runs)

    libraries = "import httpx, pydantic, asyncio, random; from pydantic import BaseModel"
    assert seconds("from remote_rewards import RewardClient") < 2.0 * seconds(libraries)
