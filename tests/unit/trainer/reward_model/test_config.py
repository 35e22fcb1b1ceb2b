import pytest

from trainer.errors import TrainerError
from trainer.reward_model.config import parse


@pytest.mark.parametrize("pairs", [[], ["--pairs", "ratings"], ["--pairs=ratings"]])
def test_default_recipe(pairs):
    """Without own pairs and recipe, the packaged recipe trains on the ratings; flags take precedence."""
    run, reward, model = parse([*pairs, "--max_steps", "3"])
    assert (run.recipe, run.pairs, reward.max_steps) == ("ratings", "ratings", 3)
    assert model.model_name_or_path == "embedded:valence"


def test_own_pairs():
    """Own pairs begin from TRL's defaults, not from the recipe of the ratings."""
    run, reward, _ = parse(["--pairs", "mine.jsonl", "--model_name_or_path", "some/model"])
    assert (run.recipe, run.frozen_layers, reward.output_dir) == ("reward_model", 0, "runs/reward_model")
    assert reward.report_to in ("none", [])
    assert not reward.bf16


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--input", "nope"], "unknown --input 'nope'"),
        (["--heldout_share", "1"], "--heldout_share 1"),
        (["--rounds", "0"], "--rounds 0"),
        (["--eval_strategy", "steps"], "--eval_strategy"),
        (["--save_only_model", "true"], "--save_only_model"),
        (["--trust_remote_code", "true"], "--trust_remote_code"),
        (["--eos_token", "a"], "--eos_token"),
        (["--interpolation", "0"], "--interpolation 0: choose a number above 0, up to 1"),
        (["--interpolation", "0.5", "--use_peft", "true", "--merge_lora", "false"], "needs a whole model"),
        (["--load_in_8bit", "true"], "--load_in_8bit is not supported"),
        (["--config", "absent"], "cannot read the recipe"),
    ],
)
def test_unusable_settings(argv, message):
    """Settings that cannot work are refused in one sentence."""
    with pytest.raises(TrainerError, match=message):
        parse(argv)


def test_frozen_layers_of_an_adapter(capsys):
    """The recipe's frozen layers are left out with an adapter, which freezes all of them, and the log says so."""
    assert parse([])[0].frozen_layers > 0
    assert parse(["--use_peft", "true"])[0].frozen_layers == 0
    assert "frozen_layers has no effect with --use_peft true" in " ".join(capsys.readouterr().err.split())
