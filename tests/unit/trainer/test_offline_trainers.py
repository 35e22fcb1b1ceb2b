import pytest
from datasets import Dataset

from trainer.offline_trainers import without_end

END = 9


@pytest.mark.parametrize(
    ("ids", "cut_off", "length"),
    [([1, 9, 2, 3, 9, 4], True, 4), ([1, 9, 2, 3, 9, 4], False, 6), ([1, 2, 3], True, 3), ([1, 9, 2, 3, 4], True, 5)],
    ids=["cut off", "ended", "no end token", "truncated by TRL"],
)
def test_without_end(ids, cut_off, length):
    """A completion that was cut off has no end token, and nothing after it, in any column."""
    rows = Dataset.from_list([{"ids": ids, "labels": ids, "cut_off": cut_off}])
    (row,) = without_end(rows, "cut_off", ["ids", "labels"], END, max_length=5)
    assert (row["ids"], row["labels"]) == (ids[:length], ids[:length])
    assert without_end(rows, "absent", ["ids"], END) is rows
