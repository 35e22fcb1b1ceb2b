"""The code speaks the field's words: docstrings open with a standard verb, and one thing has one name."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("remote_rewards", "reward_service", "shared", "trainer", "bench", "scripts")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
VERBS = {"Give", "Had", "Let", "Say", "Tell"}
"""Docstrings say Return, Load or Raise instead."""
NAMES = set(
    """
    allowance asked asker began_s chance hurried kept latest_s left_s patience patience_s refuse_late replies reply say
    sound told until_s way within_s
    """.split()
)
"""Time is `deadline_s`, `remaining_s`, `started_s` and `delay_s`; what is scored is a completion, a text or an item."""


def docstrings(tree):
    nodes = ast.AsyncFunctionDef | ast.ClassDef | ast.FunctionDef | ast.Module
    return filter(None, (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, nodes)))


def named_in(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_vocabulary(path):
    """No docstring opens with a retired verb, and nothing has a retired name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [text.split("\n")[0] for text in docstrings(tree) if text.split()[0] in VERBS]
    assert not {name for name in named_in(tree) if name.strip("_").lower() in NAMES}
