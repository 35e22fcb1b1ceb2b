import json

import pytest

from trainer.errors import TrainerError
from trainer.reporting.run_groups import final_evaluation, group_runs, run_folders_in
from trainer.run_folder import RunFolder, read_run


def write_run(path, revision="1", **settings):
    config = {"recipe": "banana", "rewards": ["banana"], "policy": "smollm2", "model": {}, "beta": 0.01, **settings}
    folder = RunFolder.create(path, overwrite=False)
    folder.write_config(config)
    folder.write_json("rewards.json", {"rewards": [{"name": "banana", "revision": revision, "weight": 1.0}]})
    folder.write_json("before.json", {"step": 0, "decodings": {}})
    return path


def test_seeds_are_one_group(tmp_path):
    """Runs that differ in seed, folder and judges alone are one group."""
    paths = [write_run(tmp_path / str(seed), seed=seed, judges=["vader"] * seed) for seed in range(3)]
    (group,) = group_runs(paths)
    assert (group.label, group.paths) == ("banana", paths)


def test_each_seed_samples_its_own_completions(tmp_path):
    """Files of completions that differ in the seed alone, and repositories to push to, separate no seeds."""
    names, seeds = ("cold-", "v1-seed", "same_v1"), (1, 2, 11)
    files = {(name, seed): f"{name}{'' if name == 'same_v1' else seed}/c.jsonl" for name in names for seed in seeds}
    paths = [
        write_run(tmp_path / f"{name}-{seed}", seed=seed, completions=file, hub_model_id=f"me/{seed}")
        for (name, seed), file in files.items()
    ]
    assert [group.paths for group in group_runs(paths)] == [paths[:3], paths[3:6], paths[6:]]


def test_settings_separate_groups(tmp_path):
    """Other settings are another group, and the labels name them."""
    paths = [write_run(tmp_path / str(beta), beta=beta) for beta in (0.01, 0.03)]
    assert [group.label for group in group_runs(paths)] == ["banana (beta 0.01)", "banana (beta 0.03)"]


def test_algorithms_are_named_alone(tmp_path):
    """Groups of different algorithms are named by them, and by the settings in which those of one algorithm differ."""
    settings = [{"algorithm": "rloo"}, *({"algorithm": "sft", "completions": name, "beta": None} for name in "ab")]
    paths = [write_run(tmp_path / str(index), **each) for index, each in enumerate(settings)]
    labels = [group.label for group in group_runs(paths)]
    assert labels == ["banana (algorithm rloo)", *(f"banana (algorithm sft, completions {name})" for name in "ab")]


def test_model_settings_separate_groups(tmp_path):
    """Policies in another data type are another group, and the labels name it."""
    models = [{"dtype": name, "model_name_or_path": "smollm2"} for name in ("float32", "bfloat16")]
    paths = [write_run(tmp_path / model["dtype"], model=model) for model in models]
    assert [group.label for group in group_runs(paths)] == ["banana (dtype float32)", "banana (dtype bfloat16)"]


def test_revisions_separate_groups(tmp_path):
    """Runs on other revisions of a reward are not mixed."""
    groups = group_runs([write_run(tmp_path / "a"), write_run(tmp_path / "b", revision="2")])
    assert len({group.label for group in groups}) == 2


def test_no_run_folder(tmp_path):
    """A folder that is no run folder is an error."""
    with pytest.raises(TrainerError, match="is not a run folder"):
        group_runs([tmp_path])


def test_run_folders_in(tmp_path):
    """Run folders are found in subfolders, too."""
    paths = [write_run(tmp_path / "a"), write_run(tmp_path / "b" / "c")]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "config.yaml").write_text(json.dumps({"recipe": "no run"}))
    assert run_folders_in(tmp_path) == paths


def test_final_evaluation(tmp_path):
    """The final evaluation is the one after training; an untrained policy's is its only one."""
    path = write_run(tmp_path / "a")
    assert final_evaluation(read_run(path))["step"] == 0
    RunFolder(path).append("metrics.jsonl", {"step": 1})
    assert final_evaluation(read_run(path)) == {}
    RunFolder(path).write_json("after.json", {"step": 9, "decodings": {}})
    assert final_evaluation(read_run(path))["step"] == 9
