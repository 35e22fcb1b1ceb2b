"""A similarity is the cosine of the embeddings that sentence-transformers makes of the same folder."""

import json

import httpx
import pytest
import yaml
from transformers import BertConfig, BertModel, Qwen2Config, Qwen2Model

from reward_service.settings import Settings
from shared.model_store import resolve
from tests.clients.packages import Client, installed
from tests.conftest import running_service
from tests.integration.test_similarity import COMPLETIONS, MINILM, PROMPTS, sentence_files, with_dense
from tests.small_models import save_folder

pytestmark = pytest.mark.clients
REQUIREMENTS = (
    "sentence-transformers==6.2.0 scikit-learn==1.9.1 joblib==1.6.0 threadpoolctl==3.8.0 cloudpickle==3.1.3 "
    "narwhals==2.29.0"
).split()
PROMPT_NAMES = {"prompts": {"query": "query: ", "document": "passage: "}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders as people have them: the package's encoder, one with a Dense layer, one with prompts, a decoder."""
    root = tmp_path_factory.mktemp("encoders")
    save_folder(root / "dense", BertModel, BertConfig, embedded=MINILM)
    with_dense(root / "dense")
    save_folder(root / "prompts", BertModel, BertConfig, embedded=MINILM)
    limits = {"max_seq_length": 16, "do_lower_case": True}
    sentence_files(
        root / "prompts", pooling="cls", sentence_bert_config=limits, config_sentence_transformers=PROMPT_NAMES
    )
    save_folder(root / "decoder", Qwen2Model, Qwen2Config, num_key_value_heads=4)
    sentence_files(root / "decoder", "Normalize", pooling="lasttoken")
    return {"minilm": resolve(MINILM), **{name: root / name for name in ("dense", "prompts", "decoder")}}


def test_sentence_transformers(folders, tmp_path):
    """The scores are those of sentence-transformers, which embeds one text at a time."""
    torch = {"kind": "similarity", "backend": "torch", "dtype": "float32"}
    rewards = {name: {**torch, "model": str(folder)} for name, folder in folders.items()}
    (tmp_path / "rewards.yaml").write_text(yaml.safe_dump({"rewards": rewards}))
    body = {"completions": COMPLETIONS, "prompts": PROMPTS, "rewards": [*rewards]}
    with running_service(Settings(config=tmp_path / "rewards.yaml")) as url:
        scored = json.loads(httpx.post(f"{url}/v1/score", json=body, timeout=60).text)["rewards"]
    with Client(installed(*REQUIREMENTS), "call_sentence_transformers.py") as client:
        for name, folder in folders.items():
            expected = client.call(str(folder), [COMPLETIONS, PROMPTS])
            assert scored[name]["scores"] == pytest.approx(expected, abs=1e-5), name
