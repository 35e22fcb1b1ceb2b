import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_service.backends import selection
from reward_service.backends.benchmark import Measurement, score_error
from reward_service.backends.engines import ENGINES, REFERENCE, Engine, candidates
from reward_service.backends.probe import Verdict
from reward_service.backends.selection import fastest
from reward_service.errors import ConfigError

SOFTMAX, SIGMOID = (SimpleNamespace(multi_label=many, embeds=False) for many in (False, True))
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


def test_verified_is_cached(tmp_path, monkeypatch):
    """The verdict of a passed probe is cached, a failed one is not."""
    monkeypatch.setenv("REMOTE_REWARDS_HOME", str(tmp_path))
    probed, folder = [], SimpleNamespace(fingerprint="f", path=tmp_path)

    def probe(_, engine, threads):
        probed.append(engine)
        return Verdict(batched=engine.backend != "torch", difference=0.3)

    monkeypatch.setattr(selection, "probe_engine", probe)
    for engine in (Engine("openvino", "float32"), REFERENCE, Engine("torch", "bfloat16")):
        for _ in range(2):
            assert selection.verified(folder, engine, 2) == Measurement(engine, batched=engine.backend != "torch")
    assert len(probed) == 3

    def another_model(*args):
        probed.append(args)
        raise ConfigError("it computes something else")

    monkeypatch.setattr(selection, "probe_engine", another_model)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"onnxruntime float32 cannot run .*: it computes something else"):
            selection.verified(folder, Engine("onnxruntime", "float32"), 2)
    assert len(probed) == 5


@pytest.mark.parametrize("backend", sorted({engine.backend for engine in ENGINES}))
def test_upgrade_invalidates_cache(backend, tmp_path, monkeypatch):
    """After an upgrade of any engine's package the probe runs again."""
    monkeypatch.setenv("REMOTE_REWARDS_HOME", str(tmp_path))
    versions, probed = defaultdict(lambda: "1"), []
    monkeypatch.setattr(selection, "version", versions.__getitem__)
    monkeypatch.setattr(selection, "probe_engine", lambda *args: probed.append(args) or Verdict(True, 0.0))
    for versions[backend] in ("1", "2"):
        selection.verified(SimpleNamespace(fingerprint="f", path=tmp_path), Engine("openvino", "float32"), 2)
    assert len(probed) == 2


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
