"""Read a model's `config.json` and its tokenizer, and refuse what would score something else than it seems."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer

from reward_service.backends.heads import read_json
from reward_service.errors import ConfigError, translating

PROBE_TEXT = "The quick brown fox jumps over 13 lazy dogs."
PASSED_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
"""What a tokenizer may give of a text. RoCBert's gives the shapes and sounds of its characters, too."""
PADDING_OFFSET_MODELS = {
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "longformer", "mpnet", "ibert"),
    *("data2vec-text", "xmod", "luke", "mluke", "esm"),
}
"""Models that count positions from the padding index on."""


def read_config(folder: Path) -> Any:
    """Return the transformers configuration of a folder. Raise `ConfigError`.

    Older exports say `single_label_classification` of a model with one label, which transformers refuses: the reward's
    `kind` decides how one output is read, so the entry is passed over.
    """
    raw = read_json(folder / "config.json")
    _check_labels(folder, raw)
    one_label = (len(raw["id2label"]) if raw.get("id2label") else raw.get("num_labels")) == 1
    with translating(ConfigError, f"cannot load the model in {folder}"):
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


def read_tokenizer(folder: Path, config: Any) -> Any:
    """Return the tokenizer of a folder. Raise `ConfigError` where it has none, or one without a vocabulary.

    transformers makes an empty vocabulary where the files are missing, with which all texts score alike.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    except Exception as error:
        raise ConfigError(_why_no_tokenizer(folder, error)) from error
    inputs = tokenizer(PROBE_TEXT, add_special_tokens=False)
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
    return tokenizer


def _why_no_tokenizer(folder: Path, error: Exception) -> str:
    pieces = sorted(path.name for path in folder.glob("*.model"))
    if pieces and not (folder / "tokenizer.json").exists():
        try:
            import sentencepiece  # noqa: F401
        except ImportError:
            return (
                f"the tokenizer in {folder} exists only as {pieces[0]}, which needs sentencepiece: "
                f"pip install 'remote-rewards[sentencepiece]'"
            )
    if not any(folder.glob("tokenizer*")) and not pieces and not any(folder.glob("vocab*")):
        return f"{folder} holds no tokenizer: save it there too, with tokenizer.save_pretrained"
    return f"cannot load the tokenizer in {folder}: {type(error).__name__}: {error}"


def max_input_tokens(tokenizer: Any, config: Any) -> int:
    """Return the maximum input length in tokens: the model's positions, or the tokenizer's limit if that is less."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or 0
    if positions <= 0:  # unlimited; XLNet writes it as -1
        positions = 1 << 20
    if config.model_type in PADDING_OFFSET_MODELS:
        positions -= 2
    return int(min(positions, tokenizer.model_max_length))


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
