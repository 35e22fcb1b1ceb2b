import json

import pytest
import torch

from shared.errors import RevisionChanged
from trainer.earlier_completions import (
    SETTINGS_FILE,
    check_same_prompts,
    check_same_rewards,
    check_same_settings,
    checksum,
    earlier_records,
    records_to_keep,
)
from trainer.errors import TrainerError

ROWS = [{"prompt": [{"role": "user", "content": text}], "answer": 1} for text in "abcde"]
RECORDS = [{"prompt": row["prompt"], "columns": {"answer": 1}} for row in ROWS for _ in range(2)]
SETTINGS = {"num_generations": 2, "seed": 1}


@pytest.mark.parametrize(("lines", "kept"), [(0, 0), (3, 0), (4, 4), (7, 4), (8, 8), (9, 8), (10, 10)])
def test_whole_batches(tmp_path, lines, kept):
    """Records of whole batches are kept; the last batch may be smaller. Here, one has 2 prompts with 2 completions."""
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(SETTINGS))
    records = records_to_keep(tmp_path / "file", RECORDS[:lines], ROWS, SETTINGS, batch_size=2)
    assert records == RECORDS[:kept]


@pytest.mark.parametrize("rows", [ROWS[1:], ROWS[:4], [{**row, "answer": 2} for row in ROWS]])
def test_other_prompts(rows):
    """Completions of other, fewer or differently labelled prompts are not continued."""
    check_same_prompts("file", RECORDS, ROWS, 2)
    with pytest.raises(TrainerError, match=r"file line \d is of another prompt than --prompts"):
        check_same_prompts("file", RECORDS, rows, 2)


def test_other_settings(tmp_path):
    """Each setting that differs is named with both values; without a file of settings, nothing is continued."""
    path = tmp_path / SETTINGS_FILE
    with pytest.raises(TrainerError, match=r"cannot read .*sampling\.json"):
        check_same_settings(path, SETTINGS)
    path.write_text(json.dumps({**SETTINGS, "weights": "0a"}))
    check_same_settings(path, {**SETTINGS, "weights": "0a"})
    with pytest.raises(TrainerError, match="with --seed 1 instead of 2, other weights of the policy: resume"):
        check_same_settings(path, {**SETTINGS, "seed": 2, "weights": "0b"})


def test_other_rewards():
    """Other rewards are never continued with, other revisions of them only where revisions may change."""
    records = [{"revisions": {"joy": "1"}}, {"revisions": {"joy": "2"}}]
    check_same_rewards(records[:1], {"joy": "1"})
    check_same_rewards(records, {"joy": "1"}, allow_revision_change=True)
    with pytest.raises(RevisionChanged):
        check_same_rewards(records, {"joy": "1"})
    with pytest.raises(TrainerError, match="were scored by joy, and this run asks for calm"):
        check_same_rewards(records, {"calm": "1"}, allow_revision_change=True)


@pytest.mark.parametrize("end", ["", "\n", '\n{"prompt": "b', "\n1\n"])
def test_cut_line(tmp_path, end):
    """The records end before a line that is no whole record."""
    file = tmp_path / "file"
    file.write_text('{"prompt": "a"}' + end)
    assert earlier_records(file, overwrite=True, resume=True) == [{"prompt": "a"}]
    assert earlier_records(file, overwrite=True, resume=False) == []


def test_checksum():
    """The checksum of a policy depends on its weights, not on how they are stored."""
    policy = torch.nn.Linear(3, 2)
    first = checksum(policy)
    policy.weight.data = policy.weight.data.t().contiguous().t()
    assert checksum(policy) == first
    policy.weight.data[0, 0] += 1
    assert checksum(policy) != first
    assert checksum(policy.bfloat16()) != first
