import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import TrainerError
from trainer.jsonl_lines import MAX_LINE_BYTES
from trainer.reward_model.pairs import Pair, check_disjoint, fingerprint, parse_pair, read_pairs, split

GOOD = b'{"chosen": "better", "rejected": "worse"}'
USER, NICE, RUDE = (
    {"role": role, "content": text} for role, text in (("user", "Hi"), *[("assistant", t) for t in "ab"])
)


def error_of(line, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\n")
    with pytest.raises(TrainerError) as caught:
        read_pairs(path)
    return str(caught.value).removeprefix(str(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json", "is not a JSON object"),
        (b"[1, 2]", "is not a JSON object"),
        (b"[" * 100_000, "is not a JSON object"),
        (b'{"chosen": "a"}', "has no 'rejected'"),
        (b'{"chosen": "a", "rejcted": "b"}', "did you mean 'rejcted'"),
        (b'{"chosen": "a", "rejected": null}', "has no 'rejected'"),
        (b'{"chosen": "a", "rejected": 2}', "'rejected' is neither a string nor a list of messages"),
        (b'{"chosen": "a", "rejected": " "}', "'rejected' is empty"),
        (b'{"prompt": "", "chosen": "a", "rejected": "b"}', "'prompt' is empty"),
        (b'{"chosen": "a", "rejected": "a"}', "chosen and rejected are equal"),
        (b'{"chosen": "\\ud800", "rejected": "b"}', "lone surrogate"),
        (b'{"chosen": "\xff", "rejected": "b"}', "is not UTF-8"),
        (b'{"chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]}', "mixes texts and chats"),
        (
            b'{"chosen": [{"role": "user", "content": "b"}], "rejected": "b"}',
            "does not end with what the assistant says",
        ),
        (b'{"prompt": "p", "chosen": "a", "rejected": "b"}', "holds texts with a prompt, the lines before it texts"),
        (b'{"chosen": "a", "rejected": "' + b"b" * 10_000_000 + b'"}', f"longer than {MAX_LINE_BYTES:,} bytes"),
        (b'{"chosen": "a", "rejected": "b", "source": 1}', "the source is not a string"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_line(line, message, tmp_path):
    """A line that is no pair is named by its number, with the reason in one sentence."""
    error = error_of(line, tmp_path)
    assert error.startswith(" line 2")
    assert message in error
    assert "\n" not in error
    assert len(error) < 300


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_empty_file(content, tmp_path):
    """A file without pairs is an error that shows what a pair looks like."""
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(TrainerError, match=r"holds no pairs.*chosen"):
        read_pairs(path)


def test_missing_file(tmp_path):
    """A file that does not exist is an error."""
    with pytest.raises(TrainerError, match="No such file"):
        read_pairs(tmp_path / "absent.jsonl")


def test_pairs_are_read(tmp_path):
    """Blank lines, a byte order mark, further keys and line separators within strings are no obstacle."""
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "p", "chosen": "a\u2028b", "rejected": "c", "source": "s", "score": 1}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row, ensure_ascii=False).encode() + b"\n\n")
    assert read_pairs(path) == [Pair("a\u2028b", "c", "p", "s")]


def test_common_turns_are_the_prompt():
    """The turns with which two conversations begin are their prompt."""
    pair = parse_pair({"chosen": [USER, NICE], "rejected": [USER, RUDE]}, "here")
    assert pair == Pair([NICE], [RUDE], [USER])


texts = st.integers(0, 30).map(str)


@given(st.lists(st.tuples(texts, texts), min_size=1), st.floats(0, 0.9))
def test_split_shares_no_text(sides, share):
    """Each pair is on one side, and no text is on both."""
    pairs = [Pair(f"{a} good", f"{b} bad") for a, b in sides]
    trained, heldout = split(pairs, share)
    assert sorted(map(repr, [*trained, *heldout])) == sorted(map(repr, pairs))
    first, second = ({text for pair in side for text in (pair.chosen, pair.rejected)} for side in (trained, heldout))
    assert not first & second


def test_split_keeps_prompts_together():
    """Pairs of one prompt are on one side, about the wanted share is held out, and the order does not matter."""
    pairs = [Pair(f"a{n}", f"b{n}", f"prompt {n // 2}") for n in range(2000)]
    trained, heldout = split(pairs, 0.1)
    assert not {pair.prompt for pair in trained} & {pair.prompt for pair in heldout}
    assert 150 < len(heldout) < 250
    assert set(split(pairs[::-1], 0.1)[1]) == set(heldout)


def test_heldout_texts_are_not_trained():
    """A held-out pair with a trained text, or a trained prompt, is an error."""
    check_disjoint([Pair("a", "b"), Pair("x", "y", "p")], [Pair("c", "d"), Pair("x", "y", "q")])
    for trained, heldout in ((Pair("a", "b"), Pair("c", "B ")), (Pair("a", "b", "p"), Pair("c", "d", "p"))):
        with pytest.raises(TrainerError, match="also trained on"):
            check_disjoint([trained], [heldout])


def test_fingerprint():
    """The fingerprint changes with a text and with the order."""
    one, other = Pair("a", "b"), Pair("a", "c")
    assert len({fingerprint(pairs) for pairs in ([one, other], [other, one], [one], [Pair("b", "a")])}) == 4
