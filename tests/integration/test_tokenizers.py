"""Tokenizers as people have them: texts get the tokens that the model was trained with, or the folder is refused."""

import sys
import types

import pytest
import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers.processors import TemplateProcessing
from transformers import (
    CONFIG_MAPPING,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertJapaneseTokenizer,
    CamembertConfig,
    CamembertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RoCBertConfig,
    RoCBertForSequenceClassification,
    RoCBertTokenizer,
)

from bench.families import save_family, vocabulary_files
from reward_service.backends.base import ModelInput
from reward_service.backends.model_config import read_config, read_tokenizer
from reward_service.backends.model_folder import ModelFolder
from reward_service.backends.probe import TEXTS as PROBES
from reward_service.backends.torch_backend import TorchBackend
from reward_service.errors import ConfigError
from reward_service.rewards.loading import open_model
from reward_service.scorer import to_items
from reward_service.specs import RegressorSpec
from shared.schemas import ScoreRequest
from tests.folder_scores import TEXTS, change_config, refusal, scores, served
from tests.small_models import SIZE, logits_alone, save_folder, small_tokenizer


@pytest.mark.parametrize("embedded", ["embedded:minilm", "embedded:smollm2"])
def test_no_tokenizer(tmp_path, embedded):
    """A folder as `model.save_pretrained` alone leaves it is refused: its vocabulary would be empty."""
    config = (BertForSequenceClassification, BertConfig)
    if embedded == "embedded:smollm2":
        config = (LlamaForSequenceClassification, LlamaConfig)
    save_folder(tmp_path, *config, embedded=embedded)
    for file in [*tmp_path.glob("tokenizer*"), *tmp_path.glob("vocab*"), *tmp_path.glob("special*")]:
        file.unlink()
    assert "tokenizer.save_pretrained" in refusal(tmp_path)


@pytest.fixture
def sentencepiece_folder(tmp_path):
    """A CamemBERT whose tokenizer exists only as a SentencePiece model: (folder, model)."""
    pieces = tmp_path / "sentencepiece.bpe.model"
    with pieces.open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(PROBES.read_text().splitlines()), model_writer=file, vocab_size=120, minloglevel=2
        )
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CamembertTokenizer"}')
    torch.manual_seed(0)
    size = {"vocab_size": 200, "max_position_embeddings": 130, "pad_token_id": 1, "initializer_range": 0.5}
    model = CamembertForSequenceClassification(CamembertConfig(**SIZE, **size, num_labels=1)).eval()
    model.save_pretrained(tmp_path)
    return tmp_path, model


def test_sentencepiece_tokenizer(sentencepiece_folder):
    """A tokenizer that exists only as a SentencePiece model is read as transformers reads it."""
    folder, model = sentencepiece_folder
    inputs = {"return_tensors": "pt", "truncation": True, "max_length": 128}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    right = [logits_alone(model, tokenizer(text, **inputs))[0] for text in TEXTS]
    assert scores(folder) == pytest.approx(right, abs=1e-4)


def test_sentencepiece_missing(sentencepiece_folder, monkeypatch):
    """Without sentencepiece, such a folder is refused with the extra that installs it."""
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    monkeypatch.setattr("reward_service.backends.model_config.AutoTokenizer", types.SimpleNamespace())
    assert "needs sentencepiece: pip install 'remote-rewards[sentencepiece]'" in refusal(sentencepiece_folder[0])


@pytest.mark.parametrize("inputs", [["input_ids", "attention_mask"], ["input_ids", "token_type_ids"]])
def test_tokenizer_in_python(tmp_path, inputs):
    """A tokenizer without a fast form gives texts and pairs the scores of transformers, with its token types."""
    model, _ = save_folder(tmp_path, BertForSequenceClassification, BertConfig, num_labels=1)
    names = {"word_tokenizer_type": "basic", "model_input_names": inputs}
    tokenizer = BertJapaneseTokenizer(vocabulary_files(tmp_path)[0], **names)
    (tmp_path / "tokenizer.json").unlink()
    tokenizer.save_pretrained(tmp_path)
    folder = ModelFolder(tmp_path, pairs=True)
    backend = TorchBackend(folder, "float32")
    for second in (None, "a stapler ."):
        (encoded,) = folder.encoder.encode([ModelInput("what is it ?", second=second)])
        right = logits_alone(model, tokenizer("what is it ?", second, return_tensors="pt"))
        assert backend.forward([encoded.tokens])[0] == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize(
    ("model", "config"), [(BertForSequenceClassification, BertConfig), (LlamaForSequenceClassification, LlamaConfig)]
)
def test_types_of_fast_tokenizers(tmp_path, model, config, types):
    """A pair has token types exactly where the tokenizer gives them to its model, whatever it computes inside."""
    alone, _ = save_folder(tmp_path, model, config, embedded="embedded:minilm", num_labels=1)
    names = ["input_ids", "token_type_ids", "attention_mask"] if types else ["input_ids", "attention_mask"]
    change_config(tmp_path, "tokenizer_config.json", model_input_names=names)
    tokenizer, folder = AutoTokenizer.from_pretrained(tmp_path), ModelFolder(tmp_path, pairs=True)
    assert ("token_type_ids" in tokenizer("what")) == types
    (encoded,) = folder.encoder.encode([ModelInput("what is it ?", second="a stapler .")])
    right = logits_alone(alone, tokenizer("what is it ?", "a stapler .", return_tensors="pt"))
    assert TorchBackend(folder, "float32").forward([encoded.tokens])[0] == pytest.approx(right, abs=1e-4)


def test_tokenizer_with_further_inputs(tmp_path):
    """A tokenizer that gives more than tokens, such as the shapes of characters, is refused by what it gives."""
    save_folder(tmp_path, RoCBertForSequenceClassification, RoCBertConfig, num_labels=1)
    files = vocabulary_files(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    RoCBertTokenizer(*files).save_pretrained(tmp_path)
    assert "gives input_pronunciation_ids, input_shape_ids beside the tokens" in refusal(tmp_path)


def test_truncation_side(tmp_path):
    """A text that is too long for a model which reads the completion alone is cut on the tokenizer's side."""
    _, tokenizer = save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    tokens = tokenizer("one two three four five six")["input_ids"]
    for side, kept in (("right", tokens[:4]), ("left", tokens[-4:])):
        change_config(tmp_path, "tokenizer_config.json", truncation_side=side)
        assert ModelFolder(tmp_path, max_tokens=4).encode(["one two three four five six"])[0].tokens == kept


def test_one_beginning_of_text(tmp_path):
    """A template that writes the beginning-of-text token, which the tokenizer adds too, gives one of them."""
    _, tokenizer = save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    begin = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    folder = open_model("judge", RegressorSpec(model=str(tmp_path), input="chat"))
    text = folder.template.render([{"role": "user", "content": "Hi"}])
    assert folder.encode([text])[0].tokens.count(tokenizer.bos_token_id) == 1


SPM = {"albert": "spiece.model", "t5": "spiece.model", "deberta-v2": "spm.model", "llama": "tokenizer.model"}
CLASSES = {
    "albert": {"control_symbols": ["[CLS]", "[SEP]", "[MASK]"], "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1},
    "t5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "deberta-v2": {
        "pad_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "unk_id": 3,
        "pad_piece": "[PAD]",
        "bos_piece": "[CLS]",
        "eos_piece": "[SEP]",
        "unk_piece": "[UNK]",
    },
    "llama": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 500},
}


def pieces_alone(folder, kind, **options):
    """Save the configuration of a family, and a SentencePiece model as its only tokenizer."""
    CONFIG_MAPPING[kind]().save_pretrained(folder)
    with (folder / SPM[kind]).open("wb") as file:
        lines = iter(PROBES.read_text().splitlines())
        settings = {"vocab_size": 160, "minloglevel": 2, **options}
        SentencePieceTrainer.train(sentence_iterator=lines, model_writer=file, **settings)
    return SentencePieceProcessor(model_file=str(folder / SPM[kind]))


def tokenizer_refusal(folder):
    with pytest.raises(ConfigError) as caught:
        read_tokenizer(folder, read_config(folder))
    return str(caught.value)


@pytest.mark.parametrize("kind", ["albert", "t5", "deberta-v2"])
def test_pieces_of_families(tmp_path, kind):
    """A SentencePiece model alone, whatever its file is called, gives the pieces that sentencepiece gives."""
    pieces = pieces_alone(tmp_path, kind, **CLASSES[kind])
    text = "it was all right, really: 12 apples cost 3.50!"
    assert read_tokenizer(tmp_path, read_config(tmp_path)).tokenize(text) == pieces.encode(text, out_type=str)


def test_pieces_without_special_tokens(tmp_path):
    """A SentencePiece model without the family's special tokens is refused with what to do."""
    pieces_alone(tmp_path, "albert")
    assert "exists only as spiece.model, which transformers cannot read" in (sentence := tokenizer_refusal(tmp_path))
    assert "tokenizer.save_pretrained" in sentence


def test_pieces_read_otherwise(tmp_path):
    """A SentencePiece model that transformers reads otherwise than sentencepiece is refused."""
    pieces_alone(tmp_path, "llama", **CLASSES["llama"])
    assert "reads otherwise than sentencepiece" in tokenizer_refusal(tmp_path)


def test_tokenizer_of_boxes(tmp_path):
    """A tokenizer that cannot read a plain text is refused with that reason."""
    save_family("layoutlmv3", tmp_path)
    assert "cannot read a plain text" in tokenizer_refusal(tmp_path)


async def test_token_without_embedding(tmp_path):
    """A token added after the training costs the texts that hold it, and names itself; the others are scored."""
    model, tokenizer = save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    right = logits_alone(model, tokenizer("Fine.", return_tensors="pt"))
    tokenizer.add_tokens(["stapler"])
    tokenizer.save_pretrained(tmp_path)
    result = await scored(tmp_path, ["Fine.", "a stapler"])
    assert result.scores == [pytest.approx(right[0], abs=1e-4), None]
    assert (result.errors[1].code, "'stapler'" in result.errors[1].message) == ("no_embedding", True)


def test_tokenizer_of_another_model(tmp_path):
    """A tokenizer whose own vocabulary exceeds the model's is refused: it is another model's."""
    save_folder(tmp_path, LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    small_tokenizer(embedded="embedded:smollm2").save_pretrained(tmp_path)
    assert "it is another model's" in refusal(tmp_path)


async def test_blank_texts(tmp_path):
    """A text in which the tokenizer finds only its special tokens has the score that the model gives it alone."""
    save_folder(tmp_path, BertForSequenceClassification, BertConfig, embedded="embedded:minilm", num_labels=1)
    model = BertForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer, blank = AutoTokenizer.from_pretrained(tmp_path), ["  ", "\n", "\u200b"]
    for spec, prompts in (({}, None), ({"input": "pair"}, ["q"] * 3)):
        result = await scored(tmp_path, blank, prompts, **spec)
        rows = blank if prompts is None else [("q", text) for text in blank]
        right = [logits_alone(model, tokenizer(*row if prompts else [row], return_tensors="pt"))[0] for row in rows]
        assert result.scores == pytest.approx(right, abs=1e-4)


async def scored(folder, completions, prompts=None, **spec):
    """Return the scores of a reward of the folder."""
    reward = served(folder, kind="regressor", **spec)
    await reward.start()
    try:
        return await reward.score(to_items(ScoreRequest(completions=completions, prompts=prompts)))
    finally:
        await reward.stop()
