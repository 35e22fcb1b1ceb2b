"""The cosine of two embeddings is that of transformers alone, one text at a time."""

import json

import httpx
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5EncoderModel,
)

from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.torch_backend import TorchBackend
from reward_service.cli import main
from reward_service.errors import ConfigError
from reward_service.settings import Settings
from shared.model_store import resolve
from tests.conftest import running_service
from tests.small_models import SIZE, save_folder

MINILM = "embedded:minilm"
TORCH = {"backend": "torch", "dtype": "float32"}
PROMPTS = ["What is a stapler?", "What is a stapler?", "How high is a loading dock off the ground? " * 3]
COMPLETIONS = ["It joins sheets of paper.", "Bananas are yellow.", "About four feet."]
WEIGHT, BIAS = torch.randn(16, 32, generator=torch.Generator().manual_seed(1)), torch.linspace(-1, 1, 16)


def unit(vector):
    return vector / vector.norm()


def poolings(hidden):
    return {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}


@torch.inference_mode()
def embedding(model, tokenizer, text, pooling="mean", max_tokens=None):
    """Return the embedding of one text as transformers alone computes it, of unit length."""
    settings = {"truncation": True, "max_length": max_tokens} if max_tokens else {}
    hidden = model(**tokenizer(text, return_tensors="pt", **settings)).last_hidden_state[0]
    return unit(poolings(hidden.double())[pooling])


def sentence_files(folder, *layers, pooling="mean", **files):
    """Write the files of sentence-transformers into a model's folder."""
    names = ["Transformer", "Pooling", *layers]
    modules = [
        {"idx": i, "name": f"{i}", "path": f"{i}_{name}" if i else "", "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(names)
    ]
    content = {"modules.json": modules, "1_Pooling/config.json": {"embedding_dimension": 32, "pooling_mode": pooling}}
    for name, value in {**content, **{f"{name}.json": value for name, value in files.items()}}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value))


def with_dense(folder):
    """Add a Dense layer with Tanh after the pooling."""
    sentence_files(folder, "Dense", "Normalize")
    (folder / "2_Dense").mkdir()
    config = {"in_features": 32, "out_features": 16, "activation_function": "torch.nn.modules.activation.Tanh"}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config))
    save_file({"linear.weight": WEIGHT, "linear.bias": BIAS}, folder / "2_Dense" / "model.safetensors")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small encoders by name: (folder, model, tokenizer)."""
    root = tmp_path_factory.mktemp("encoders")
    bert = save_folder(root / "bert", BertModel, BertConfig, embedded=MINILM)
    masked, tokenizer = save_folder(root / "masked", BertForMaskedLM, BertConfig, embedded=MINILM)
    llama, end_tokenizer = save_folder(root / "llama", LlamaForCausalLM, LlamaConfig)
    size = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "initializer_factor": 5.0}
    t5 = save_folder(root / "t5", T5EncoderModel, T5Config, **size)
    dense = save_folder(root / "dense", BertModel, BertConfig, embedded=MINILM)
    with_dense(root / "dense")
    sentence_files(
        root / "masked",
        pooling="cls",
        sentence_bert_config={"max_seq_length": 16},
        config_sentence_transformers={"prompts": {"query": "query: ", "document": "passage: "}},
    )
    return {
        "bert": (root / "bert", *bert),
        "masked": (root / "masked", masked.bert, tokenizer),
        "llama": (root / "llama", llama.model, end_tokenizer),
        "t5": (root / "t5", *t5),
        "dense": (root / "dense", *dense),
        "minilm": (resolve(MINILM), AutoModel.from_pretrained(resolve(MINILM)).eval(), tokenizer),
    }


@pytest.fixture(scope="module")
def url(models, tmp_path_factory):
    """A service with a similarity of each encoder."""
    rewards = {
        **{pooling: {"model": models["bert"][0], "pooling": pooling} for pooling in ("mean", "cls", "last")},
        "llama": {"model": models["llama"][0], "pooling": "last"},
        "t5": {"model": models["t5"][0], "pooling": "mean"},
        "dense": {"model": models["dense"][0]},
        "masked": {"model": models["masked"][0]},
        "answer": {"model": models["bert"][0], "pooling": "mean", "to": "answer"},
        "prefixed": {"model": models["bert"][0], "pooling": "mean", "prefixes": {"completion": "passage: "}},
        "minilm": {"model": MINILM},
    }
    content = {
        name: {"kind": "similarity", **spec, **TORCH, "model": str(spec["model"])} for name, spec in rewards.items()
    }
    content["sum"] = {"kind": "composite", "parts": {"minilm": {"weight": 2.0, "clip": [0.0, 0.25]}}}
    config = tmp_path_factory.mktemp("service") / "rewards.yaml"
    config.write_text(yaml.safe_dump({"rewards": content}))
    with running_service(Settings(config=config, cache_size=0)) as url:
        yield url


@pytest.fixture(scope="module")
def score(url):
    """Score with one reward; return its part of the response."""

    def call(reward, completions=COMPLETIONS, prompts=PROMPTS, **columns):
        body = {"completions": completions, "rewards": [reward], "prompts": prompts, "columns": columns}
        response = httpx.post(f"{url}/v1/score", json=body, timeout=60)
        assert response.status_code == 200, response.text
        return response.json()["rewards"][reward]

    return call


def right(models, name, pooling="mean"):
    """Return the cosine of each completion and its prompt, as transformers alone computes it."""
    _, model, tokenizer = models[name]
    first, second = ([embedding(model, tokenizer, text, pooling) for text in texts] for texts in (COMPLETIONS, PROMPTS))
    return pytest.approx([float(a @ b) for a, b in zip(first, second, strict=True)], abs=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_poolings(models, score, pooling):
    """Each pooling gives the cosine of the vectors that transformers computes of each text alone."""
    assert score(pooling)["scores"] == right(models, "bert", pooling)


def test_decoder(models, score):
    """A decoder saved as a language model is read at its last token."""
    assert score("llama")["scores"] == right(models, "llama", "last")


def test_encoder_of_t5(models, score):
    """Of an encoder-decoder family the encoder alone embeds."""
    assert score("t5")["scores"] == right(models, "t5")


def test_dense_layer(models, score):
    """A Dense layer after the pooling is computed, its bias and activation included."""
    _, model, tokenizer = models["dense"]
    scores = []
    for completion, prompt in zip(COMPLETIONS, PROMPTS, strict=True):
        with torch.inference_mode():
            hidden = [
                model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in (completion, prompt)
            ]
        first, second = (unit(torch.tanh(WEIGHT @ rows.mean(0) + BIAS)) for rows in hidden)
        scores.append(float(first @ second))
    assert score("dense")["scores"] == pytest.approx(scores, abs=1e-5)


def test_folder_settings(models, score):
    """The folder's pooling, prompts and maximum length apply, and what was cut is marked."""
    _, model, tokenizer = models["masked"]
    pairs = zip((f"passage: {text}" for text in COMPLETIONS), (f"query: {text}" for text in PROMPTS), strict=True)
    rows = [[embedding(model, tokenizer, text, "cls", max_tokens=16) for text in pair] for pair in pairs]
    result = score("masked")
    assert result["scores"] == pytest.approx([float(first @ second) for first, second in rows], abs=1e-5)
    assert (result["truncated"], result["overlong"]) == ([2], [])
    assert score("masked", [PROMPTS[2]], ["Why?"])["overlong"] == [0]


def test_configured_prefixes(models, score):
    """Configured prefixes precede the text that they are written for."""
    _, model, tokenizer = models["bert"]
    first, second = (embedding(model, tokenizer, text) for text in (f"passage: {COMPLETIONS[0]}", PROMPTS[0]))
    assert score("prefixed")["scores"][0] == pytest.approx(float(first @ second), abs=1e-5)


def test_column(score):
    """`to` a column compares with its texts; a null is not applicable, and a missing column is named."""
    result = score("answer", COMPLETIONS, None, answer=[COMPLETIONS[0], "Nothing alike.", None])
    assert result["scores"][0] == pytest.approx(1.0, abs=1e-6)
    assert result["errors"]["2"]["code"] == "not_applicable"
    assert {error["code"] for error in score("answer", prompts=None)["errors"].values()} == {"column_needed"}


def test_relevance(models, score):
    """MiniLM finds an answer nearer to its question than another text, and an echo the same, as transformers does."""
    assert score("minilm")["scores"] == right(models, "minilm")
    answer, other, _ = score("minilm")["scores"]
    assert answer > other
    assert score("minilm", ["Fine, and you?"], ["Fine, and you?"])["scores"] == pytest.approx([1.0], abs=1e-6)
    assert score("sum")["scores"] == pytest.approx(
        [2 * min(0.25, max(0.0, value)) for value in score("minilm")["scores"]]
    )


def test_company(score):
    """A score does not depend on what else is in the request."""
    together = score("minilm", [*COMPLETIONS, *COMPLETIONS[::-1]], [*PROMPTS, *PROMPTS[::-1]])["scores"]
    alone = [score("minilm", [text], [prompt])["scores"][0] for text, prompt in zip(COMPLETIONS, PROMPTS, strict=True)]
    assert together == pytest.approx([*alone, *alone[::-1]], abs=1e-5)


def test_information(url):
    """`GET /v1/rewards` says what a similarity reads, its range and its limit."""
    rewards = {reward["name"]: reward for reward in httpx.get(f"{url}/v1/rewards").json()["rewards"]}
    relevance, answer = rewards["minilm"], rewards["answer"]
    assert (relevance["kind"], relevance["range"], relevance["max_tokens"]) == ("similarity", [-1.0, 1.0], 256)
    assert (relevance["reads_prompts"], relevance["columns"]) == (True, [])
    assert (answer["reads_prompts"], answer["columns"]) == (False, ["answer"])
    assert len({reward["revision"] for reward in rewards.values()}) == len(rewards)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_engines(models, backend):
    """The other engines give the embeddings of torch."""
    from reward_service.backends import engines

    folder = ModelFolder(resolve(MINILM), embed=True)
    tokens = [text.tokens for text in folder.encode([*COMPLETIONS, *PROMPTS])]
    rows = engines.load(engines.Engine(backend, "float32"), folder, 1).forward(tokens)
    for row, expected in zip(rows, TorchBackend(folder, "float32").forward(tokens), strict=True):
        assert row == pytest.approx(expected, abs=1e-3)


def test_files_of_modules(models, tmp_path):
    """The files of a pooling and of a Dense layer are part of the fingerprint."""
    save_folder(tmp_path, BertModel, BertConfig, embedded=MINILM)
    with_dense(tmp_path)
    first = ModelFolder(tmp_path, embed=True).fingerprint
    save_file({"linear.weight": WEIGHT, "linear.bias": BIAS + 1}, tmp_path / "2_Dense" / "model.safetensors")
    assert ModelFolder(tmp_path, embed=True).fingerprint != first


def test_wrong_dense(tmp_path):
    """A Dense layer that does not fit the encoder is refused."""
    save_folder(tmp_path, BertModel, BertConfig, embedded=MINILM)
    with_dense(tmp_path)
    save_file({"linear.weight": WEIGHT[:, :7].contiguous()}, tmp_path / "2_Dense" / "model.safetensors")
    with pytest.raises(ConfigError, match="no linear layer of 32 inputs"):
        TorchBackend(ModelFolder(tmp_path, embed=True), "float32")


@pytest.mark.parametrize("pickled", [["2_Dense"], [".", "2_Dense"]], ids=["layer", "all"])
def test_convert(tmp_path, pickled):
    """`convert` writes pickled modules of sentence-transformers, too; before, the folder is refused by its name."""
    old, new = tmp_path / "old", tmp_path / "new"
    save_folder(old, BertModel, BertConfig, embedded=MINILM)
    with_dense(old)
    (tokens,) = ModelFolder(old, embed=True).encode(COMPLETIONS[:1])
    right = TorchBackend(ModelFolder(old, embed=True), "float32").forward([tokens.tokens])
    for name in pickled:
        weights = old / name / "model.safetensors"
        torch.save(load_file(weights), old / name / "pytorch_model.bin")
        weights.unlink()
    with pytest.raises(ConfigError, match="reward-service convert"):
        TorchBackend(ModelFolder(old, embed=True), "float32")
    assert main(["convert", str(old), str(new)]) == 0
    assert TorchBackend(ModelFolder(new, embed=True), "float32").forward([tokens.tokens]) == right


def test_classifier_as_encoder(tmp_path):
    """A classifier was not trained to embed, and is refused."""
    save_folder(tmp_path, BertForSequenceClassification, BertConfig, embedded=MINILM)
    with pytest.raises(ConfigError, match="use kind: classifier or regressor"):
        ModelFolder(tmp_path, embed=True, pooling="mean")


def test_missing_weights(tmp_path):
    """Weights that the encoder computes with and the folder lacks are refused by name."""
    small = {**SIZE, "num_hidden_layers": 1}
    save_folder(tmp_path, BertModel, BertConfig, embedded=MINILM, **small)
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"have no encoder\.layer\.1"):
        TorchBackend(ModelFolder(tmp_path, embed=True, pooling="mean"), "float32")


def test_check(tmp_path, capsys):
    """`check` shows both texts and the pooling, and compares with transformers alone and with preference pairs."""
    config = tmp_path / "rewards.yaml"
    config.write_text(yaml.safe_dump({"rewards": {"near": {"kind": "similarity", "model": MINILM, **TORCH}}}))
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": PROMPTS[0], "chosen": COMPLETIONS[0], "rejected": COMPLETIONS[1]}))
    assert main(["check", "--config", str(config), "--pairs", str(pairs)]) == 0
    printed = capsys.readouterr().out
    assert "BertModel, pooling: mean" in printed
    assert '"It joins sheets of paper with a small metal clip." | "What is a stapler?"' in printed
    assert "1 of 1 ordered right" in printed
    assert float(printed.partition("scores are within ")[2].split()[0]) < 1e-5
