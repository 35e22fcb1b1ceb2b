"""Every engine of this machine against float32 torch, and the engine info of the service."""

import contextlib
import random
import shutil

import numpy as np
import openvino
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LongformerConfig,
    LongformerForSequenceClassification,
)

from remote_rewards import RewardClient
from reward_service.backends import engines
from reward_service.backends.benchmark import score_error
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.onnx_export import graph_of
from reward_service.backends.openvino_backend import quantize_weights
from reward_service.backends.selection import select_engine
from reward_service.errors import ConfigError
from reward_service.process import low_priority_executor
from reward_service.rewards.loading import model_reward
from reward_service.settings import Settings
from reward_service.specs import ClassifierSpec
from shared.model_store import resolve
from shared.model_store.embedded import ratings
from tests.conftest import running_service
from tests.small_models import save_folder

pytestmark = pytest.mark.slow
FLOAT32 = engines.candidates(None, "float32")


@pytest.fixture(scope="module")
def folder():
    return ModelFolder(resolve("embedded:sentiment"))


@pytest.fixture(scope="module")
def texts():
    """Texts of 1 to 120 words."""
    drawn, words = random.Random(1), " ".join(rating.text for rating in ratings.load()[:4000]).split()
    starts = [drawn.randrange(len(words) - 200) for _ in range(96)]
    return [" ".join(words[start : start + drawn.randint(1, 120)]) for start in starts]


@pytest.mark.parametrize("engine", FLOAT32, ids=str)
def test_float32_logits(engine, folder, texts):
    """Every float32 engine gives torch's logits."""
    batches = [[text.tokens for text in folder.encode(texts[start : start + 16])] for start in range(0, 96, 16)]
    expected = engines.forward_all(engines.load(engines.REFERENCE, folder, 2), batches)
    actual = engines.forward_all(engines.load(engine, folder, 2), batches)
    assert np.allclose(expected, actual, atol=1e-4)


@pytest.mark.parametrize("engine", engines.candidates("openvino", "int8"), ids=str)
def test_int8_within_tolerance(engine, folder, texts):
    """Scores in int8 are within the tolerance, alone and batched."""
    tokens = [text.tokens for text in folder.encode(texts)]
    backend = engines.load(engine, folder, 2)
    expected = engines.forward_all(engines.load(engines.REFERENCE, folder, 2), [tokens])
    batched, alone = backend.forward(tokens), engines.forward_all(backend, [[text] for text in tokens])
    assert score_error(expected, batched, folder) <= 0.02
    assert score_error(batched, alone, folder) <= 0.02


def test_quantized_layers(folder):
    """All weights are quantized except the first products and the head."""
    model = openvino.Core().read_model(graph_of(folder))
    quantize_weights(model)
    kinds = [node.get_element_type().get_type_name() for node in model.get_ops() if node.get_type_name() == "Constant"]
    assert kinds.count("i8") == 6 * 5 + 1  # six products per layer but the first layer's, and the pooler


@pytest.mark.parametrize("engine", FLOAT32, ids=str)
def test_read_only_cache(engine, folder, monkeypatch):
    """A model is served from a read-only cache."""
    monkeypatch.setenv("REMOTE_REWARDS_HOME", "/dev/null/cache")
    assert engines.load(engine, folder, 2).forward([[101, 102]])


def test_selection_is_cached(tmp_path, monkeypatch):
    """The selection of an engine is cached."""
    monkeypatch.setenv("REMOTE_REWARDS_HOME", str(tmp_path))
    save_folder(tmp_path / "m", BertForSequenceClassification, BertConfig, embedded="embedded:minilm")
    folder = ModelFolder(tmp_path / "m")
    first = select_engine(folder, FLOAT32, 0.02, threads=2)
    assert first == select_engine(folder, FLOAT32, 0.02, threads=2)
    assert first.error <= 1e-4


@pytest.fixture
def replaced(folder, tmp_path):
    """A model whose weights were replaced after they were hashed."""
    shutil.copytree(folder.path, tmp_path / "model")
    model = ModelFolder(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    (tmp_path / "new").write_bytes(weights.read_bytes())
    (tmp_path / "new").rename(weights)
    return model


def test_replaced_weights(replaced, monkeypatch):
    """Weights that were replaced while they were loaded are not served."""
    monkeypatch.setattr("reward_service.rewards.loading.open_model", lambda name, spec: replaced)
    spec = ClassifierSpec(model="embedded:sentiment", labels={"POSITIVE": 1.0, "*": 0.0})
    settings = Settings(backend="torch", dtype="float32")
    with pytest.raises(ConfigError, match="changed while it was loaded"):
        model_reward("x", spec, settings, None, lambda name, event: None)


def test_replaced_tokenizer(folder, tmp_path, monkeypatch):
    """A tokenizer that was replaced after it was read is detected."""
    shutil.copytree(folder.path, tmp_path / "model")
    read = AutoTokenizer.from_pretrained

    def read_and_replace(path, **kwargs):
        tokenizer = read(path, **kwargs)
        (path / "tokenizer.json").write_text((path / "tokenizer.json").read_text() + " ")
        return tokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", read_and_replace)
    with pytest.raises(ConfigError, match="changed while it was loaded"):
        ModelFolder(tmp_path / "model").check_unchanged()


def test_replaced_weights_not_cached(replaced, tmp_path, monkeypatch):
    """No graph of replaced weights is cached."""
    monkeypatch.setenv("REMOTE_REWARDS_HOME", str(tmp_path / "home"))
    with pytest.raises(ConfigError, match="changed while it was loaded"):
        graph_of(replaced)
    assert not [*(tmp_path / "home").rglob("*.onnx")]


def test_engine_info(models_url):
    """The info of a model has its engine, that of a rule none."""
    with RewardClient(models_url) as client:
        infos = {reward.name: reward.engine for reward in client.info().rewards}
    assert (infos["sentiment"].backend, infos["sentiment"].dtype) == ("torch", "float32")
    assert infos["banana"] is None


def test_deterministic_mode(texts):
    """In deterministic mode a score is the same to the bit in any batch."""
    settings = Settings(backend="torch", dtype="float32", deterministic=True, cache_size=0)
    with running_service(settings) as url, RewardClient(url) as client:
        batched = client.score(texts, rewards=["sentiment"]).rewards["sentiment"]
        alone = [client.score([text], rewards=["sentiment"]).rewards["sentiment"].scores[0] for text in texts]
        (sentiment,) = (reward for reward in client.info().rewards if reward.name == "sentiment")
    assert sentiment.engine.deterministic
    assert batched.scores == alone


@pytest.mark.parametrize("engine", FLOAT32, ids=str)
def test_untrained_head(engine):
    """A model without a trained head is rejected: it would score at random."""
    settings = Settings(backend=engine.backend, dtype=engine.dtype)
    spec = ClassifierSpec(model="embedded:minilm", labels={"*": 1.0})
    with pytest.raises(ConfigError, match="has no head that scores texts"):
        model_reward("minilm", spec, settings, low_priority_executor("device"), lambda *_: None)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_engine_not_equivalent(backend, tmp_path):
    """An engine that computes something else is rejected even if it is the only one allowed."""
    AutoTokenizer.from_pretrained(resolve("embedded:sentiment")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LongformerConfig(vocab_size=30522, max_position_embeddings=514, attention_window=16, **sizes)
    config.initializer_range = 1.0  # so that scores differ
    LongformerForSequenceClassification(config).save_pretrained(tmp_path)
    spec = ClassifierSpec(model=str(tmp_path), labels={"*": 1.0})
    with pytest.raises(ConfigError, match="something else") if backend == "openvino" else contextlib.nullcontext():
        model_reward(
            "long", spec, Settings(backend=backend, dtype="float32"), low_priority_executor("device"), lambda *_: None
        )
