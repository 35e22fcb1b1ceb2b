"""The score of a text in the engine that serves it is the one that transformers gives it alone."""

import contextlib
import json

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bench.families import families, save_family
from bench.model_table import DOCUMENT, try_family
from remote_rewards import RewardClient
from reward_service.backends import engines
from reward_service.backends.engines import FLOAT16, REFERENCE, Engine
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.probe_engine import probe_engine
from reward_service.errors import ConfigError
from reward_service.settings import Settings
from tests.conftest import running_service
from tests.small_models import logits_alone

pytestmark = pytest.mark.slow
WORDS = "The kettle is on the second shelf, and it was all right. "
TEXTS = ["Fine.", WORDS * 12, "It </s> ends </s> often.", WORDS * 2, "Fine.</s>", WORDS * 40]


def right(path, texts):
    """Return what transformers computes of each text alone, in a model that has computed nothing else."""
    tokenizer, rows = AutoTokenizer.from_pretrained(path), []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=ModelFolder(path).max_tokens)
        rows.append(logits_alone(AutoModelForSequenceClassification.from_pretrained(path).eval(), inputs))
    return rows


@contextlib.contextmanager
def serving(tmp_path, kind):
    """A service of one family's small model, in float32 torch."""
    save_family(kind, tmp_path / kind, num_labels=1)
    spec = {"kind": "regressor", "model": str(tmp_path / kind), "backend": "torch", "dtype": "float32"}
    (tmp_path / "rewards.yaml").write_text(json.dumps({"rewards": {"judge": spec}}))
    with running_service(Settings(config=tmp_path / "rewards.yaml", cache_size=0)) as url, RewardClient(url) as client:
        yield client


@pytest.mark.parametrize("kind", ["xlnet", "convbert", "big_bird"])
def test_one_at_a_time(tmp_path, monkeypatch, kind):
    """A model that reads its batch computes one text at a time, says so, and gives the right scores in any order."""
    monkeypatch.setenv("REMOTE_REWARDS_HOME", str(tmp_path / "home"))
    with serving(tmp_path, kind) as client:
        assert client.info().rewards[0].engine.batched is False
        for texts in (TEXTS, TEXTS[::-1]):
            expected = [row[0] for row in right(tmp_path / kind, texts)]
            assert client.score(texts, rewards=["judge"]).rewards["judge"].scores == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_literal_end_tokens(tmp_path, kind):
    """Texts with different numbers of end tokens, which BART's head refuses in one batch, are computed in batches."""
    save_family(kind, tmp_path)
    folder = ModelFolder(tmp_path)
    assert probe_engine(folder, REFERENCE, 1).batched
    rows = engines.load(REFERENCE, folder, 1).forward([text.tokens for text in folder.encode(TEXTS)])
    for row, expected in zip(rows, right(tmp_path, TEXTS), strict=True):
        assert row == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "served"),
    [
        *((kind, "in batches") for kind in ("bert", "roberta", "deberta-v2", "llama", "gpt2", "gemma3", "modernbert")),
        ("nystromformer", "one text at a time"),
        ("yoso", "one text at a time"),
        ("roc_bert", "refused"),
        ("markuplm", "refused"),
    ],
)
def test_family(kind, served):
    """The table of families says of each how it is served in torch."""
    row = try_family(kind, [REFERENCE])
    assert row.served.partition(":")[0] == served, row.reason
    assert f"| {kind} | {families()[kind]} |" in DOCUMENT.read_text(encoding="utf-8")
    assert served in next(line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| {kind} |"))


def test_random_model_is_refused(tmp_path):
    """Reformer draws its hashes anew for each forward pass, so it is refused."""
    save_family("reformer", tmp_path)
    with pytest.raises(ConfigError, match="another score each time"):
        probe_engine(ModelFolder(tmp_path), REFERENCE, 1)


@pytest.mark.parametrize("engine", engines.candidates("openvino", "float32"), ids=str)
def test_traced_switch(tmp_path, engine):
    """A graph traced from a short text has BigBird's attention of short texts: the engine is refused."""
    save_family("big_bird", tmp_path)
    with pytest.raises(ConfigError, match="something else than transformers"):
        probe_engine(ModelFolder(tmp_path), engine, 1)


@pytest.mark.parametrize("engine", [REFERENCE, Engine("torch", "bfloat16"), FLOAT16], ids=str)
def test_one_copy(tmp_path, monkeypatch, engine):
    """A model in torch is loaded once for its probe: it is compared with itself."""
    save_family("llama", tmp_path)
    loaded, load = [], engines.load_torch
    monkeypatch.setattr(
        "reward_service.backends.probe_engine.load_torch",
        lambda folder, dtype: loaded.append(dtype) or load(folder, dtype),
    )
    assert probe_engine(ModelFolder(tmp_path), engine, 1).batched
    assert loaded == [engine.dtype]
