import pytest

from trainer.errors import TrainerError
from trainer.run_folder import RunFolder

OURS = {"recipe": "banana", "rewards": ["banana"], "policy": "embedded:smollm2", "model": {}}
RECIPE = "recipe: mine\nrewards: [banana]\nmodel_name_or_path: embedded:smollm2\n"


def test_a_run_of_ours_is_replaced_where_that_is_asked_for(tmp_path):
    RunFolder(tmp_path).write_config(OURS)
    with pytest.raises(TrainerError, match="holds an earlier run: pass --overwrite true"):
        RunFolder.create(tmp_path, overwrite=False)
    assert list(tmp_path.iterdir())
    RunFolder.create(tmp_path, overwrite=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [None, "", "title: a site\n", "- recipe", "{", "\xff", RECIPE])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_no_run_of_ours_has_written_is_never_replaced(tmp_path, config, overwrite):
    (tmp_path / "thesis.txt").touch()
    if config is not None:
        (tmp_path / "config.yaml").write_text(config, encoding="latin-1")
    with pytest.raises(TrainerError, match="holds no run of ours; choose another --output_dir"):
        RunFolder.create(tmp_path, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").exists()
