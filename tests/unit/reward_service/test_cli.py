from types import SimpleNamespace

import pytest

from reward_service.cli import main


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """The names of the rewards and of the models that a command prepares."""
    names = []
    folder = SimpleNamespace(path=tmp_path)
    monkeypatch.setattr("reward_service.cli.configure_openmp", lambda _: None)
    monkeypatch.setattr("reward_service.rewards.loading.open_model", lambda name, _: names.append(name) or folder)
    monkeypatch.setattr("reward_service.rewards.loading.engine_for", lambda *_: SimpleNamespace(engine="torch"))
    monkeypatch.setattr("reward_service.backends.engines.load", lambda *_: None)
    monkeypatch.setattr("shared.model_store.prepare_all", lambda models: names.extend(models) or {})
    return names


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["a/model", "another"], ["a/model", "another"]),
        (["a/model", "--rewards", "valence"], ["valence", "a/model"]),
        (["--rewards", "valence", "sentiment"], ["sentiment", "valence"]),
    ],
)
def test_prepare(prepared, flags, names):
    """The named models alone are prepared, unless the flags name rewards, too."""
    assert main(["prepare", *flags]) == 0
    assert sorted(prepared) == sorted(names)


def test_prepare_all(prepared):
    """Without any names, the models of the whole configuration are prepared."""
    assert main(["prepare"]) == 0
    assert {"sentiment", "valence", "relevance"} <= set(prepared)
