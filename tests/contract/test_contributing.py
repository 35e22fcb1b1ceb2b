"""The examples of CONTRIBUTING work as they are written, and what they say to document is documented."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from starlette.testclient import TestClient

from reward_service import specs
from reward_service.app import create_app
from reward_service.dialects import DIALECTS
from reward_service.settings import Settings
from shared.schemas import READY_PATH
from tests.conftest import RULES, wait_for

ROOT = Path(__file__).parents[2]
KINDS = [spec.model_fields["kind"].default for spec in get_args(get_args(specs.Spec)[0])]


def page(name):
    return (ROOT / name).read_text(encoding="utf-8")


def examples(heading):
    """Return the Python blocks of a section."""
    section = page("CONTRIBUTING.md").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [re.sub(r"(?m)^   ", "", block) for block in re.findall(r"```python\n(.*?)   ```", section, re.DOTALL)]


def test_reward_kind_example(monkeypatch):
    """The reward kind of the example passes the example's test."""
    spec, reward, _, test = examples("Add a reward kind")
    names = dict(vars(specs))
    exec(spec, names)
    monkeypatch.setattr(specs, "LengthSpec", names["LengthSpec"], raising=False)
    assert issubclass(specs.LengthSpec, specs.NamedSpec)
    module = ModuleType("reward_service.rewards.length")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(reward, vars(module))
    exec(test, names)
    (rows,) = [mark.args[1] for mark in names["test_length"].pytestmark]
    for row in rows:
        names["test_length"](*row)


def test_wire_format_example():
    """The wire format of the example passes the example's tests beside all others."""
    dialect, test = examples("Add a wire format")
    names = {"__name__": "plain"}
    exec(dialect, names)
    exec(test, names)
    with TestClient(create_app(Settings(config=RULES), None, [*DIALECTS, names["DIALECT"]])) as client:
        wait_for(lambda: client.get(READY_PATH).status_code == 200)
        names["httpx"] = client
        names["test_plain_scores"]("")
        names["test_plain_error"]("")


@pytest.mark.parametrize("dialect", DIALECTS[1:], ids=lambda dialect: dialect.name)
def test_formats_are_documented(dialect):
    """Each wire format has its row in the table of formats, with its paths."""
    (row,) = re.findall(rf"(?m)^\| `{dialect.name}` \|.*", page("docs/protocol.md"))
    assert all(f"`{route.path}`" in row or f"{route.path}`" in row for route in dialect.routes)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_documented(kind):
    """Each reward kind has its row in operations.md, and is in the glossary and in the table of labels."""
    assert f"\n| `{kind}` |" in page("docs/operations.md")
    (glossary,) = re.findall(r"(?m)^\| reward kind \|.*", page("CONTRIBUTING.md"))
    assert f"`{kind}`" in glossary
    labels = page("docs/protocol.md").partition("\n| reward | labels |")[2].partition("\n\n")[0]
    assert re.search(rf"\b{kind}\b", labels)
