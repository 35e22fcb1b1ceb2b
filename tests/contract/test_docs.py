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


def anchors_of(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links(page):
    """Each relative link leads to a file, and each anchor to a heading of its page."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors_of(path), target
