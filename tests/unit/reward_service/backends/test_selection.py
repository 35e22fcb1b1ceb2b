import math
from collections import defaultdict
from types import SimpleNamespace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_service.backends import selection
from reward_service.backends.base import Encoded
from reward_service.backends.benchmark import Measurement, check_equivalent, score_error
from reward_service.backends.engines import ENGINES, REFERENCE, Engine, candidates
from reward_service.backends.model_config import max_input_tokens
from reward_service.backends.selection import fastest
from reward_service.errors import ConfigError

SOFTMAX, SIGMOID = SimpleNamespace(multi_label=False), SimpleNamespace(multi_label=True)
ROWS = [
    Measurement(REFERENCE, 2048, 100.0, 0.0),
    Measurement(Engine("openvino", "float32"), 1024, 140.0, 1e-6),
    Measurement(Engine("torch", "bfloat16"), 2048, 400.0, 0.03),
]


@pytest.mark.parametrize(("max_score_error", "engine"), [(0.0, ROWS[0]), (0.02, ROWS[1]), (0.05, ROWS[2])])
def test_fastest_within_tolerance(max_score_error, engine):
    """The fastest engine within the tolerance is selected."""
    assert fastest(ROWS, max_score_error) == engine


def test_nan_never_selected():
    """An engine whose error is NaN is never selected."""
    rows = [
        ROWS[0],
        Measurement(Engine("torch", "bfloat16"), 2048, 400.0, score_error([[0.0, 1.0]], [[math.nan, 1.0]], SOFTMAX)),
    ]
    assert fastest(rows, 1.0) == ROWS[0]
    with pytest.raises(ConfigError, match="no engine is within"):
        fastest(rows[1:], 1.0)


def test_classifier_error():
    """A classifier's error is a difference of probabilities."""
    certain, half = [0.0, math.log(3)], [0.0, 0.0]
    assert score_error([certain] * 200, [certain] * 200, SOFTMAX) == 0
    assert score_error([certain] * 200, [half] * 200, SOFTMAX) == pytest.approx(0.25)


def test_regressor_error():
    """A regressor's error is a share of the range of its outputs."""
    assert score_error([[-2.0], [2.0]], [[-2.0], [2.4]], SIGMOID) == pytest.approx(0.1, abs=2e-3)


@given(st.lists(st.lists(st.floats(-50, 50), min_size=2, max_size=2), min_size=1, max_size=20))
def test_error_at_most_1(logits):
    """A classifier's error is between 0 and 1."""
    assert 0 <= score_error(logits, [[b, a] for a, b in logits], SOFTMAX) <= 1


class Constant:
    """An engine that returns the same logits for every text."""

    padding_cost, numeric_settings = 1.0, ()

    def __init__(self, logits):
        self.logits = logits

    def forward(self, batch):
        return [self.logits] * len(batch)


class Folder:
    """A model with one token per character."""

    multi_label = False
    lengths: ClassVar[list] = []

    def encode(self, texts):
        self.lengths.extend(map(len, texts))
        return [Encoded([1] * len(text), False) for text in texts]


@pytest.mark.parametrize("logits", [[0.0, 0.0], [math.nan, 0.0]])
def test_check_equivalent(logits):
    """An engine that deviates from the reference, on short texts or a long one, is rejected."""
    certain = Constant([0.0, math.log(3)])
    check_equivalent(certain, certain, Folder())
    with pytest.raises(ConfigError, match="it computes something else than float32 torch"):
        check_equivalent(certain, Constant(logits), Folder())
    assert max(Folder.lengths) > 5000  # a long text too


def test_verified_is_cached(tmp_path, monkeypatch):
    """A passed equivalence check is cached, a failed one is not."""
    monkeypatch.setenv("REMOTE_REWARDS_HOME", str(tmp_path))
    compared, folder = [], SimpleNamespace(fingerprint="f", path=tmp_path)
    monkeypatch.setattr(selection, "_check_equivalent", lambda *args: compared.append(args))
    for engine in (Engine("openvino", "float32"), REFERENCE, Engine("torch", "bfloat16")):
        assert [selection.verified(folder, engine, 2).engine for _ in range(2)] == [engine] * 2
    assert len(compared) == 1

    def another_model(*_):
        compared.append(None)
        raise ConfigError("it computes something else")

    monkeypatch.setattr(selection, "_check_equivalent", another_model)
    for _ in range(2):
        with pytest.raises(ConfigError):
            selection.verified(folder, Engine("onnxruntime", "float32"), 2)
    assert len(compared) == 3


@pytest.mark.parametrize("backend", sorted({engine.backend for engine in ENGINES}))
def test_upgrade_invalidates_cache(backend, tmp_path, monkeypatch):
    """After an upgrade of any engine's package the equivalence check runs again."""
    monkeypatch.setenv("REMOTE_REWARDS_HOME", str(tmp_path))
    versions, compared = defaultdict(lambda: "1"), []
    monkeypatch.setattr(selection, "version", versions.__getitem__)
    monkeypatch.setattr(selection, "_check_equivalent", lambda *args: compared.append(args))
    for versions[backend] in ("1", "2"):
        selection.verified(SimpleNamespace(fingerprint="f", path=tmp_path), Engine("openvino", "float32"), 2)
    assert len(compared) == 2


@pytest.mark.parametrize(("kind", "positions", "tokens"), [("bert", 512, 512), ("mpnet", 514, 512), ("xlnet", -1, 900)])
def test_max_input_tokens(kind, positions, tokens):
    """Models whose positions start after the padding index read two tokens less."""
    config = SimpleNamespace(model_type=kind, max_position_embeddings=positions)
    config.get_text_config = lambda: config
    assert max_input_tokens(SimpleNamespace(model_max_length=900), config) == tokens


def test_reference_is_candidate():
    """The reference is the first candidate."""
    assert candidates(None, None)[0] == REFERENCE
    assert candidates("torch", "float32") == [REFERENCE]
    assert set(candidates(None, None)) <= set(ENGINES)


def test_engine_not_installed(monkeypatch):
    """The error for a missing engine has the command that installs it."""
    monkeypatch.setattr("reward_service.backends.engines.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'remote-rewards\[openvino\]'"):
        candidates("openvino", None)


def test_unsupported_dtype():
    """The error for an unsupported precision lists the supported ones."""
    with pytest.raises(ConfigError, match="torch does not support int8: choose one of float32, bfloat16"):
        candidates("torch", "int8")
