"""Read a model's `config.json` and its tokenizer, and refuse what would score something else than it seems."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer

from reward_service.backends.heads import read_json
from reward_service.errors import ConfigError, translating

SENTENCEPIECE_MODULES = ("sentencepiece", "google.protobuf")
"""What transformers reads SentencePiece models with."""
PLAIN_TEXT = "the kettle is on the second shelf,\nand it was all right"
"""A text that no tokenizer normalizes, so that all of them give it the pieces of their SentencePiece model."""
PROBE_TEXT = "The quick brown fox jumps over 13 lazy dogs."
PASSED_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
"""What a tokenizer may give of a text. RoCBert's gives the shapes and sounds of its characters, too."""


def read_config(folder: Path) -> Any:
    """Return the transformers configuration of a folder. Raise `ConfigError`.

    Older exports say `single_label_classification` of a model with one label, which transformers refuses: the reward's
    `kind` decides how one output is read, so the entry is passed over.
    """
    raw = read_json(folder / "config.json")
    _check_labels(folder, raw)
    one_label = (len(raw["id2label"]) if raw.get("id2label") else raw.get("num_labels")) == 1
    if (kind := str(raw.get("model_type"))) not in CONFIG_MAPPING:
        raise ConfigError(
            f"config.json in {folder} says model_type: {kind}, which transformers {transformers.__version__} does not "
            f"know: another version may, and code from a model's folder is not run"
        )
    if quantization := raw.get("quantization_config"):
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else quantization
        raise ConfigError(
            f"the weights in {folder} are quantized (quantization_config: {method}): the score would be another than "
            f"the one that the model was trained to give; use the weights that they were made from"
        )
    with translating(ConfigError, cannot_load(folder)):
        if one_label and raw.get("problem_type") == "single_label_classification":
            config = CONFIG_MAPPING[raw["model_type"]].from_dict({**raw, "problem_type": None})
        else:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    text_config = config.get_text_config()
    config.return_dict = text_config.return_dict = True  # what old exports say of it, transformers' heads cannot read
    if not _is_token_id(getattr(text_config, "pad_token_id", None), text_config):
        # such as -1: no text holds it, and no row embeds it
        text_config.pad_token_id = None
    return config


def cannot_load(folder: Path) -> str:
    """Return the beginning of a sentence about a model that transformers fails to load."""
    return (
        f"transformers {transformers.__version__} cannot load the model in {folder}: save it again with this version, "
        f"or correct its config.json"
    )


def _is_token_id(value: Any, text_config: Any) -> bool:
    return isinstance(value, int) and 0 <= value < (getattr(text_config, "vocab_size", None) or 1 << 30)


def _check_labels(folder: Path, raw: Mapping[str, Any]) -> None:
    id2label = raw.get("id2label")
    if not id2label:
        return
    if not isinstance(id2label, dict) or {str(index) for index in id2label} != {str(i) for i in range(len(id2label))}:
        raise ConfigError(
            f"id2label in {folder}/config.json does not number its labels 0, 1, 2 …: which output is which label is "
            f"not certain; write the indices of the outputs there, the first being 0"
        )
    names = [*id2label.values()]
    if unclear := [name for name in names if name is None or names.count(name) > 1]:
        problem = "has no name for an output" if unclear[0] is None else f"calls several outputs {unclear[0]!r}"
        raise ConfigError(
            f"id2label in {folder}/config.json {problem}: a label would not say which output it is; give each a name "
            f"of its own there"
        )
    label2id = raw.get("label2id") or {}
    if not isinstance(label2id, dict):
        raise ConfigError(f"label2id in {folder}/config.json is no object: correct it, or remove it")
    indices = {str(label): str(index) for label, index in label2id.items()}
    other = {str(label): str(index) for index, label in id2label.items()}
    if indices.keys() == other.keys() and indices != other:
        raise ConfigError(
            f"id2label and label2id in {folder}/config.json number the labels differently: which output is which label "
            f"is not certain; correct the wrong one, or remove label2id"
        )


def read_tokenizer(folder: Path, config: Any) -> Any:
    """Return the tokenizer of a folder. Raise `ConfigError` where it has none, or one without a vocabulary.

    transformers makes an empty vocabulary where the files are missing, with which all texts score alike.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    except Exception as error:
        raise ConfigError(_why_no_tokenizer(folder, error)) from error
    try:
        inputs = tokenizer(PROBE_TEXT, add_special_tokens=False)
        if not tokenizer.is_fast:
            tokenizer(PROBE_TEXT, PROBE_TEXT)
    except Exception as error:  # such as LayoutLM's, which reads words with their boxes, and TAPAS', which reads tables
        raise ConfigError(
            f"the tokenizer in {folder} cannot read a plain text ({type(error).__name__}: {error}): use a model that "
            f"reads texts"
        ) from error
    if further := sorted(inputs.keys() - PASSED_INPUTS):
        raise ConfigError(
            f"the tokenizer in {folder} gives {', '.join(further)} beside the tokens, and the service passes on tokens "
            f"alone: the score would be another one; use a model that reads tokens alone"
        )
    if len(set(inputs["input_ids"]) - {tokenizer.unk_token_id}) < 3:
        raise ConfigError(
            f"{folder} holds no vocabulary for its tokenizer: save it there too, with tokenizer.save_pretrained, as it "
            f"was when the model was trained"
        )
    _check_pieces(folder, tokenizer)
    return tokenizer


def _pieces_alone(folder: Path) -> Path | None:
    """Return the SentencePiece model of a folder whose tokenizer exists in no other form."""
    others = ("tokenizer.json", "vocab.json", "vocab.txt")
    return None if any((folder / name).exists() for name in others) else min(folder.glob("*.model"), default=None)


def _check_pieces(folder: Path, tokenizer: Any) -> None:
    """Raise `ConfigError` where transformers gives a text other pieces than the SentencePiece model that it reads."""
    pieces = _pieces_alone(folder)
    if pieces is None:
        return
    from sentencepiece import SentencePieceProcessor

    expected = SentencePieceProcessor(model_file=str(pieces)).encode(PLAIN_TEXT, out_type=str)
    if (actual := tokenizer.tokenize(PLAIN_TEXT)) != expected:
        raise ConfigError(
            f"the tokenizer in {folder} exists only as {pieces.name}, which transformers {transformers.__version__} "
            f"reads otherwise than sentencepiece ({' '.join(actual[:3])} … for {' '.join(expected[:3])} …): save it "
            f"there as tokenizer.json, with tokenizer.save_pretrained, as it was when the model was trained"
        )


def _why_no_tokenizer(folder: Path, error: Exception) -> str:
    file = folder / "tokenizer_config.json"
    if "custom code" in str(error) and file.exists() and "auto_map" in read_json(file):
        return (
            f"the tokenizer in {folder} needs its own code (auto_map in {file.name}), which is not run; use a model "
            f"with a tokenizer of transformers"
        )
    pieces = _pieces_alone(folder)
    if pieces is not None:
        if not all(map(find_spec, SENTENCEPIECE_MODULES)):
            return (
                f"the tokenizer in {folder} exists only as {pieces.name}, which needs sentencepiece: "
                f"pip install 'remote-rewards[sentencepiece]'"
            )
        return (
            f"the tokenizer in {folder} exists only as {pieces.name}, which transformers cannot read as this model's "
            f"({type(error).__name__}: {error}): save it there as tokenizer.json, with tokenizer.save_pretrained, as "
            f"it was when the model was trained"
        )
    if not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
        return f"{folder} holds no tokenizer: save it there too, with tokenizer.save_pretrained"
    return (
        f"cannot load the tokenizer in {folder} ({type(error).__name__}: {error}): save it there again, with "
        f"tokenizer.save_pretrained"
    )


def output_labels(config: Any) -> list[str]:
    """Return the names of a classifier's outputs, in their order."""
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def embeddings_to_check(folder: Path, tokenizer: Any, config: Any) -> int | None:
    """Return the number of the model's embeddings, or None where it embeds all tokens of its tokenizer.

    A token added after the training, such as a `[PAD]` for which the model was not resized, costs only the texts that
    hold it. Raise `ConfigError` where others have no embedding: the tokenizer is another model's.
    """
    embeddings: int | None = getattr(config.get_text_config(), "vocab_size", None)
    token_ids = tokenizer.get_vocab().values() if embeddings else ()
    if embeddings is None or max(token_ids, default=0) < embeddings:
        return None
    if any(token_id >= embeddings and token_id not in tokenizer.added_tokens_decoder for token_id in token_ids):
        raise ConfigError(
            f"the tokenizer in {folder} has {len(token_ids)} tokens and the model embeds {embeddings}: it is another "
            f"model's; save the one there that the model was trained with, with tokenizer.save_pretrained"
        )
    return embeddings


def end_token_id(config: Any) -> int | None:
    """Return the end token whose last occurrence the head reads: BART's and T5's, in batches of equal counts only."""
    if not config.is_encoder_decoder or getattr(config, "decoder", None) is not None:
        return None
    return config.eos_token_id if isinstance(config.eos_token_id, int) else None


def longest_text_decides(config: Any, max_tokens: int) -> bool:
    """Return whether the longest text of a batch decides how the positions of all of them are computed."""
    text_config = config.get_text_config()
    rope = getattr(text_config, "rope_parameters", None) or {}
    layers = [rope, *(entry for entry in rope.values() if isinstance(entry, dict))]
    return any(
        entry.get("rope_type") == "longrope" and max_tokens > (entry.get("original_max_position_embeddings") or 0)
        for entry in layers
    )


def padding_id(tokenizer: Any, config: Any) -> int | None:
    """Return the token id to pad batches with, or None where each batch needs one of its own.

    Most decoders' heads read the last token that is not `config.pad_token_id`, and where none is saved, the very last
    one. So what is saved keeps its meaning; else an id is taken that the tokenizer never produces, if the vocabulary
    has one: with any other id a text that ends in it would be read at another token than alone.
    """
    text_config = config.get_text_config()
    if text_config.pad_token_id is not None:
        return int(text_config.pad_token_id)
    last = (getattr(text_config, "vocab_size", None) or 0) - 1
    return last if last > max(tokenizer.get_vocab().values(), default=0) else None
