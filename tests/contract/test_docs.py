"""The documentation names files, functions and pages that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PROSE = re.sub(r"```.*?```", "", CONTRIBUTING, flags=re.DOTALL)
STEPS = re.findall(r"^\| \d+ \| (.*?) \| `([\w/.]+)` \|", CONTRIBUTING, flags=re.MULTILINE)


def defined_in(path):
    """Return the names of a file's functions and classes, methods as `Class.method`."""
    names = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}.{part.name}" for part in getattr(node, "body", []) if hasattr(part, "name")}
    return names


@pytest.mark.parametrize(("functions", "path"), STEPS, ids=[path for _, path in STEPS])
def test_request_map(functions, path):
    """Each function that the map of a request names is in the file beside it."""
    named = set(re.findall(r"`([\w.]+)`", functions))
    assert named
    assert named <= defined_in(path)


def test_request_map_is_read():
    """The map has its rows."""
    assert len(STEPS) > 15


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", PROSE))))
def test_named_files(path):
    """Each file and folder that CONTRIBUTING names exists."""
    assert any((folder / path).exists() for folder in (ROOT, ROOT / "reward_service"))


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links(page):
    """Each relative link leads to a file, and each anchor to a heading."""
    content = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)", content, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", content):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target
