import json

import pytest

from trainer.errors import TrainerError
from trainer.run_folder import RunFolder, read_run

CONFIG = {"recipe": "banana", "rewards": ["banana"], "policy": "embedded:smollm2", "model": {}}
RECIPE = "recipe: mine\nrewards: [banana]\nmodel_name_or_path: embedded:smollm2\n"


def test_overwrite(tmp_path):
    """An earlier run is replaced only with `overwrite`."""
    RunFolder(tmp_path).write_config(CONFIG)
    with pytest.raises(TrainerError, match=r"holds an earlier run: .*_checkpoint auto .* --overwrite true"):
        RunFolder.create(tmp_path, overwrite=False)
    assert list(tmp_path.iterdir())
    RunFolder.create(tmp_path, overwrite=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [None, "", "title: a site\n", "- recipe", "{", "\xff", RECIPE])
@pytest.mark.parametrize("overwrite", [False, True])
def test_other_folder_is_kept(tmp_path, config, overwrite):
    """A folder that is not a run folder is never replaced."""
    (tmp_path / "thesis.txt").touch()
    if config is not None:
        (tmp_path / "config.yaml").write_text(config, encoding="latin-1")
    with pytest.raises(TrainerError, match="is not a run folder; choose another --output_dir"):
        RunFolder.create(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").exists()


def test_truncate_after(tmp_path):
    """Lines logged after the checkpoint's step are dropped, and so is one cut short by a crash."""
    folder = RunFolder(tmp_path)
    folder.append("metrics.jsonl", *({"step": step} for step in range(1, 8)))
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 8, "rew')
    folder.truncate_after(5)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_unicode_line_separators(tmp_path):
    """Texts with other line separators are kept, also where the last line ends within a character."""
    folder = RunFolder(tmp_path)
    texts = ["one\u2028two", "a\x85b", "日本語"]
    folder.append("samples.jsonl", *({"step": 1, "completion": text} for text in texts))
    with (tmp_path / "samples.jsonl").open("rb+") as file:
        file.truncate((tmp_path / "samples.jsonl").stat().st_size - 4)
    for _ in range(2):
        assert [record["completion"] for record in read_run(tmp_path).samples] == texts[:2]
        folder.truncate_after(1)
