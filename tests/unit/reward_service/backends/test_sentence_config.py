import json

import pytest

from reward_service.backends.sentence_config import (
    Dense,
    Normalize,
    SentenceConfig,
    module_folders,
    read_sentence_config,
)
from reward_service.errors import ConfigError

TANH = {"in_features": 8, "out_features": 4, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def modules(*names, module="sentence_transformers.models"):
    return [
        {"idx": index, "path": f"{index}_{name}" if index else "", "type": f"{module}.{name}"}
        for index, name in enumerate(names)
    ]


def saved(folder, *names, pooling=None, **files):
    """Write a folder with these modules after the pooling."""
    content = {"modules.json": modules("Transformer", "Pooling", *names)}
    content["1_Pooling/config.json"] = {"pooling_mode_mean_tokens": True} if pooling is None else pooling
    return write(folder, content | {f"{name}.json": value for name, value in files.items()})


@pytest.mark.parametrize(
    ("content", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "cls", "embedding_dimension": 8}, "cls"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
        ({"word_embedding_dimension": 8}, "mean"),
    ],
)
def test_pooling(tmp_path, content, pooling):
    """The pooling is the folder's, in both forms that sentence-transformers writes."""
    assert read_sentence_config(saved(tmp_path, pooling=content), None).pooling == pooling


def test_configured_pooling(tmp_path):
    """A configured pooling takes the place of the folder's."""
    assert read_sentence_config(saved(tmp_path), "last").pooling == "last"
    assert read_sentence_config(tmp_path / "plain", "cls") == SentenceConfig("cls")


def test_layers(tmp_path):
    """Layers after the pooling keep their order, and the files of all modules are part of the model."""
    folder = saved(tmp_path, "Dense", "Normalize", "Dense")
    write(
        folder,
        {"2_Dense/config.json": TANH, "4_Dense/config.json": TANH | {"activation_function": "torch.nn.Identity"}},
    )
    assert read_sentence_config(folder, None).layers == [
        Dense("2_Dense", "Tanh"),
        Normalize(),
        Dense("4_Dense", "Identity"),
    ]
    assert [path.name for path in module_folders(folder)] == ["1_Pooling", "2_Dense", "4_Dense"]


def test_limits(tmp_path):
    """The folder's maximum length and lower-casing are read."""
    config = read_sentence_config(
        saved(tmp_path, sentence_bert_config={"max_seq_length": 64, "do_lower_case": True}), None
    )
    assert (config.max_tokens, config.lower_case) == (64, True)


@pytest.mark.parametrize(
    ("settings", "prefixes"),
    [
        ({"prompts": {"query": "q: ", "document": "d: "}}, ("q: ", "d: ", "")),
        (
            {"prompts": {"query": "q: ", "passage": "p: ", "sts": "s: "}, "default_prompt_name": "sts"},
            ("q: ", "p: ", "s: "),
        ),
        ({"prompts": {"query": "", "document": None}, "default_prompt_name": None}, ("", "", "")),
        ({}, ("", "", "")),
    ],
)
def test_prefixes(tmp_path, settings, prefixes):
    """Queries, documents and other texts have the prefixes of the folder's prompts."""
    config = read_sentence_config(saved(tmp_path, config_sentence_transformers=settings), None)
    assert (config.query_prefix, config.document_prefix, config.default_prefix) == prefixes


@pytest.mark.parametrize("mode", ["max", "weightedmean", ["mean", "max"]])
def test_other_pooling(tmp_path, mode):
    """A pooling that is not computed is refused by name."""
    with pytest.raises(ConfigError, match=f"pools by {mode if isinstance(mode, str) else ' and '.join(mode)}:"):
        read_sentence_config(saved(tmp_path, pooling={"pooling_mode": mode}), None)


@pytest.mark.parametrize("names", [["WordEmbeddings", "Pooling"], ["Router"], ["Transformer", "CNN", "Pooling"], []])
def test_other_modules(tmp_path, names):
    """A folder that is no Transformer with a Pooling is refused with the list of its modules."""
    with pytest.raises(ConfigError, match=f"lists {', '.join(names)}:"):
        read_sentence_config(write(tmp_path, {"modules.json": modules(*names)}), None)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"activation_function": "mine.Swish"}, "mine.Swish"),
        ({"activation_function": "torch.nn.Softmax"}, "torch.nn.Softmax"),
        ({"use_residual": True}, "use_residual"),
        ({"module_input_name": "token_embeddings"}, "module_input_name"),
    ],
)
def test_other_dense(tmp_path, change, named):
    """A Dense layer that is not computed exactly is refused by what makes it so."""
    folder = write(saved(tmp_path, "Dense"), {"2_Dense/config.json": TANH | change})
    with pytest.raises(ConfigError, match=named):
        read_sentence_config(folder, None)


def test_other_layer(tmp_path):
    """Another module after the pooling is refused by name."""
    with pytest.raises(ConfigError, match="LayerNorm"):
        read_sentence_config(saved(tmp_path, "LayerNorm"), None)


@pytest.mark.parametrize(("measure", "layers"), [("dot", []), ("euclidean", ["Normalize"]), ("manhattan", [])])
def test_other_measure(tmp_path, measure, layers):
    """A model that was trained for another measure than the cosine is refused."""
    folder = saved(tmp_path, *layers, config_sentence_transformers={"similarity_fn_name": measure})
    with pytest.raises(ConfigError, match=measure):
        read_sentence_config(folder, None)


def test_dot_of_unit_length(tmp_path):
    """The dot product of embeddings of unit length is their cosine."""
    folder = saved(tmp_path, "Normalize", config_sentence_transformers={"similarity_fn_name": "dot"})
    assert read_sentence_config(folder, None).layers == [Normalize()]


def test_unread_prefix(tmp_path):
    """A pooling that leaves the prefix out is refused."""
    with pytest.raises(ConfigError, match="include_prompt"):
        read_sentence_config(saved(tmp_path, pooling={"pooling_mode": "mean", "include_prompt": False}), None)


def test_unknown_pooling(tmp_path):
    """A folder that does not say how to pool needs `pooling`."""
    with pytest.raises(ConfigError, match="write pooling: mean, cls or last"):
        read_sentence_config(tmp_path, None)


@pytest.mark.parametrize("path", ["../1_Pooling", "/etc", "1_Pooling/../.."])
def test_module_outside(tmp_path, path):
    """A module outside the model's folder is neither read nor hashed."""
    write(tmp_path, {"modules.json": [*modules("Transformer"), {"type": "models.Pooling", "path": path}]})
    for read in (module_folders, lambda folder: read_sentence_config(folder, None)):
        with pytest.raises(ConfigError, match="outside the folder"):
            read(tmp_path)


@pytest.mark.parametrize("content", ["{", "3", '[{"path": ""}]', "[3]"])
def test_broken_modules(tmp_path, content):
    """A broken list of modules is refused by its name."""
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ConfigError, match=r"modules\.json"):
        read_sentence_config(tmp_path, None)
