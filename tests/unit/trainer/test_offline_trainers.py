import pytest
from datasets import Dataset

from trainer.offline_trainers import NOT_LEARNED, without_end

TEXT_END, TURN_END = 9, 8
PROMPT = [1, 8, 2]


@pytest.mark.parametrize(
    ("completion", "cut_off", "length"),
    [
        ([3, 9, 4], True, 1),
        ([3, 9, 4], False, 3),
        ([3, 4], True, 2),
        ([3, 8, 4], True, 1),
        ([3, 8, 4, 9], True, 1),
    ],
    ids=["cut off", "ended", "truncated by TRL", "end of a turn", "two end tokens"],
)
@pytest.mark.parametrize("mask", [{}, {"completion_mask": [0, 0, 0, 1, 1, 1, 1]}], ids=["labels", "mask"])
def test_without_end(completion, cut_off, length, mask):
    """A completion that was cut off has no end token, and nothing after it, in any column; the prompt keeps its own."""
    labels = [*(PROMPT if mask else [NOT_LEARNED] * len(PROMPT)), *completion]
    rows = Dataset.from_list([{"ids": [*PROMPT, *completion], "labels": labels, "cut_off": cut_off, **mask}])
    (row,) = without_end(rows, "cut_off", ["ids", "labels"], [TEXT_END, TURN_END])
    assert row["ids"] == [*PROMPT, *completion[:length]]
    assert row["labels"] == labels[: len(PROMPT) + length]


def test_without_end_of_a_pair():
    """A column of DPO holds the completion alone; a dataset without the flag is left as it is."""
    rows = Dataset.from_list([{"ids": [3, 4, 8, 9], "cut_off": True}])
    assert without_end(rows, "cut_off", ["ids"], [TEXT_END, TURN_END])["ids"][0] == [3, 4]
    assert without_end(rows, "absent", ["ids"], [TEXT_END]) is rows
