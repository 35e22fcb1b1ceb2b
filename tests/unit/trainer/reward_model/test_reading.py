from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer, RobertaConfig

from shared.model_store import resolve
from trainer.errors import TrainerError
from trainer.reward_model.config import RewardModelArguments
from trainer.reward_model.pairs import Pair
from trainer.reward_model.preferences import Preferences
from trainer.reward_model.reading import FIXED_CLOCK, Reader, check_input, choose_input
from trainer.reward_model.train import build_reader

CHAT = [{"role": "assistant", "content": "Yes."}]
QUESTION = [{"role": "user", "content": "Is it?"}]


@pytest.fixture(scope="module")
def tokenizers():
    """An encoder's tokenizer, a chat model's, and the same without its template."""
    encoder, chat, plain = (
        AutoTokenizer.from_pretrained(resolve(f"embedded:{n}")) for n in ("minilm", *["smollm2"] * 2)
    )
    plain.chat_template = None
    return SimpleNamespace(encoder=encoder, chat=chat, plain=plain)


@pytest.mark.parametrize(
    ("pair", "encoder", "chat", "plain"),
    [
        (Pair("a", "b"), "completion", "completion", "completion"),
        (Pair("a", "b", "p"), "pair", "text", "text"),
        (Pair(CHAT, CHAT, QUESTION), "pair", "chat", None),
        (Pair(CHAT, CHAT), None, "chat", None),
    ],
    ids=["texts", "prompts", "chats", "chats without prompt"],
)
def test_input_fits_the_model(tokenizers, pair, encoder, chat, plain):
    """The input follows from the pairs and from what the tokenizer can mark; chats need a template or two sentences."""
    for name, expected in {"encoder": encoder, "chat": chat, "plain": plain}.items():
        tokenizer = getattr(tokenizers, name)
        if expected is None:
            with pytest.raises(TrainerError, match="chat template"):
                choose_input(pair, tokenizer)
        else:
            assert choose_input(pair, tokenizer) == expected
            check_input(expected, pair, tokenizer)


def test_completion_is_cut(tokenizers):
    """A completion alone is cut to the limit and marked; a prompt and completion that exceed it are left out."""
    long = "word " * 50
    alone = Reader(tokenizers.encoder, "completion", 16).encode([(None, long), (None, "short")])
    assert [(len(text.ids), text.truncated) for text in alone] == [(16, True), (3, False)]
    assert Reader(tokenizers.encoder, "pair", 16).encode([("p", long)]) == [None]
    assert Reader(tokenizers.chat, "chat", 16).encode_pairs([Pair(long, "short", "p")]) == []


def test_end_token_is_added_once(tokenizers):
    """As one string, a text ends with the end token, once."""
    reader = Reader(tokenizers.plain, "text", 64)
    end = tokenizers.plain.eos_token
    one, other = reader.encode([("p", "text"), ("p", f"text{end}")])
    assert one == other
    assert one.ids[-1] == tokenizers.plain.eos_token_id
    assert reader.spec == {"input": "text", "end": True}


def test_sentence_pair_has_types(tokenizers):
    """The completion of a sentence pair has token type 1."""
    (text,) = Reader(tokenizers.encoder, "pair", 64).encode([(QUESTION, CHAT)])
    assert sum(text.types) == 3  # yes . [SEP]


def test_clock_is_fixed(tokenizers):
    """A template that prints the date prints a fixed one."""
    tokenizer = AutoTokenizer.from_pretrained(resolve("embedded:smollm2"))
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + tokenizer.chat_template
    reader = Reader(tokenizer, "chat", 64)
    assert tokenizer.chat_template.startswith(FIXED_CLOCK)
    assert tokenizer.decode(reader.encode([(QUESTION, CHAT)])[0].ids).startswith("26 Jul 2024")


@pytest.mark.parametrize(
    ("input", "name", "pair", "message"),
    [
        ("nope", "chat", Pair("a", "b"), "unknown --input"),
        ("chat", "plain", Pair("a", "b"), "no chat template"),
        ("text", "chat", Pair(CHAT, CHAT), "reads strings"),
        ("pair", "chat", Pair("a", "b"), "does not tell two sentences apart"),
    ],
)
def test_unreadable_input(tokenizers, input, name, pair, message):
    """An input that the model cannot read is an error."""
    with pytest.raises(TrainerError, match=message):
        check_input(input, pair, getattr(tokenizers, name))


def test_positions_after_padding():
    """Of a RoBERTa's positions two are not for tokens: a longer text is cut, in training as in the service."""
    tokenizer = SimpleNamespace(model_max_length=10**30, chat_template=None)
    network = SimpleNamespace(config=RobertaConfig(max_position_embeddings=514))
    run = RewardModelArguments(input="completion")
    assert build_reader(run, Preferences([Pair("a", "b")], []), tokenizer, network).max_tokens == 512
