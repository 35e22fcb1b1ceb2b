import functools
import importlib
import math
import subprocess
import sys
import textwrap

import pytest

from reward_service.errors import ConfigError
from reward_service.rewards.function_source import load_object, revision
from tests.reward_functions import answers

REVISION = (
    "import sys; from reward_service.rewards.function_source import load_object, revision; "
    "print(revision(sys.argv[1], load_object(sys.argv[1])))"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        importlib.invalidate_caches()

    return write


def fresh_revision(path):
    """Return the revision in a new process, as a worker computes it."""
    code = f"import sys; sys.path[:] = {sys.path!r}; {REVISION}"
    return subprocess.check_output([sys.executable, "-c", code, path], text=True).strip()


def test_revision_of_partial():
    """The revision covers the arguments that a partial has bound."""
    first = revision("x", functools.partial(answers, answer=["a"]))
    assert first == revision("x", functools.partial(answers, answer=["a"]))
    assert first != revision("x", functools.partial(answers, answer=["b"]))


class Judge:
    """Its repr holds an address."""


def test_revision_is_stable():
    """The revision of bound arguments is the same in every process."""
    first, second = (
        revision("x", functools.partial(answers, judge=Judge(), words=words, also=[None, True, {"a": b"b"}, (1, 2.5)]))
        for words in ({"please", "thanks", "sorry"}, {"sorry", "thanks", "please"})
    )
    assert first == second
    assert first != revision("x", functools.partial(answers, judge=Judge(), words={"please"}, also=[]))


def test_revision_of_builtin():
    """Compiled functions differ in their revisions by name."""
    assert revision("math:floor", math.floor) != revision("math:ceil", math.ceil)


FACTORY = """
    import functools
    from elsewhere import Punishment, decorator, factory
    direct = factory({0})
    bound = functools.partial(factory, {0})
    instance = Punishment({0})
    cached = functools.lru_cache(factory({0}))
    @decorator({0})
    def decorated(completions, **_): ...
"""
ELSEWHERE = """
    import functools
    class Punishment:
        def __init__(self, limit): self.limit = limit
        def __call__(self, completions, **_): ...
    def factory(limit):
        def punish(completions, **_): ...
        return punish
    def decorator(limit):
        return lambda function: functools.partial(function, limit=limit)
"""


@pytest.mark.parametrize("name", ["direct", "bound", "instance", "cached", "decorated"])
def test_revision_of_factory(folder, name):
    """The revision covers the module that the configuration names, wherever the function was defined."""
    folder(my_rewards=FACTORY.format(1280), elsewhere=ELSEWHERE)
    first = fresh_revision(f"my_rewards:{name}")
    assert fresh_revision(f"my_rewards:{name}") == first
    folder(my_rewards=FACTORY.format(640))
    assert fresh_revision(f"my_rewards:{name}") != first


@pytest.mark.parametrize("statement", ["import helper", "from helper import LIMIT", "__import__('hel' + 'per')"])
def test_revision_of_helper(folder, statement):
    """The revision covers the modules of the user's folder that it imports, in whatever way."""
    folder(my_rewards=f"{statement}\ndef judge(completions, **_): ...", helper="from deeper import LIMIT")
    folder(deeper="LIMIT = 1")
    first = fresh_revision("my_rewards:judge")
    folder(deeper="LIMIT = 2")
    assert fresh_revision("my_rewards:judge") != first


def test_changed_file(folder):
    """A function whose file has changed since its import is not served, nor is another one of the file."""
    folder(changing="def first(**_): ...\ndef second(**_): ...\n")
    first = load_object("changing:first")
    assert revision("changing:first", first) == revision("changing:first", first)
    folder(changing="def first(**_): ...\ndef second(**_): return 1\n")
    with pytest.raises(ConfigError, match="restart the service"):
        revision("changing:first", first)
    with pytest.raises(ConfigError, match="restart the service"):
        revision("changing:second", load_object("changing:second"))


def test_changed_import(folder):
    """A module that another one imported is not served either once its file has changed."""
    folder(imported="def second(**_): ...\n", importing="from imported import second\ndef first(**_): ...\n")
    load_object("importing:first")
    folder(imported="def second(**_): return 1\n")
    with pytest.raises(ConfigError, match="restart the service"):
        revision("imported:second", load_object("imported:second"))
