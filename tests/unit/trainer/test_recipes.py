import re

import pytest
import yaml

from trainer.config import parse
from trainer.prompts import read_prompts, user_text
from trainer.recipe_files import recipe_path

RECIPES = ["banana", "optimist", "stages", "banana_tutorial", "optimist_tutorial"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid(name):
    """Every recipe of the package is parsed without an unknown key."""
    run, args, model = parse(["--config", name])
    assert run.recipe == name
    assert args.output_dir == f"runs/{name}"
    assert model.model_name_or_path == "embedded:smollm2"


@pytest.mark.parametrize("name", ["optimist", "stages"])
@pytest.mark.parametrize("algorithm", ["dpo", "sft"])
def test_sections(name, algorithm):
    """A recipe's sections of the offline algorithms learn from sampled completions, in run folders of their own."""
    run, args, model = parse(["--config", name, "--algorithm", algorithm])
    assert run.completions == "runs/samples/completions.jsonl"
    assert (args.output_dir, args.max_steps) == (f"runs/{name}_{algorithm}", -1)
    assert model.model_name_or_path == "embedded:smollm2"


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_has_a_question(name):
    """Every recipe states the question that it answers."""
    assert yaml.safe_load(recipe_path(name).read_text())["question"].endswith("?")


@pytest.mark.parametrize(
    ("name", "batch", "accumulation", "rate", "steps", "length", "temperature"),
    [("banana_tutorial", 2, 2, 1e-5, 60, 64, 0.9), ("optimist_tutorial", 4, 1, 2e-5, 80, 64, 1.0)],
)
def test_tutorial_hyperparameters(name, batch, accumulation, rate, steps, length, temperature):
    """The tutorial's recipes keep its hyperparameters."""
    _, args, _ = parse(["--config", name])
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (batch, accumulation)
    assert (args.learning_rate, args.max_steps, args.num_generations) == (rate, steps, 4)
    assert (args.max_completion_length, args.temperature) == (length, temperature)


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


@pytest.mark.parametrize("task", ["banana", "optimist"])
def test_heldout_prompts_are_disjoint(task):
    """Held-out prompts share no text and no eight words in a row with the training prompts."""
    train = [user_text(row["prompt"]) for row in read_prompts(f"recipe:{task}_train.jsonl")]
    heldout = [user_text(row["prompt"]) for row in read_prompts(f"recipe:{task}_heldout.jsonl")]
    assert len(set(train)) >= 200
    assert len(set(heldout)) == 200
    assert not {tuple(words(prompt)) for prompt in train} & {tuple(words(prompt)) for prompt in heldout}
    grams = [{tuple(w[i : i + 8]) for w in map(words, side) for i in range(len(w) - 7)} for side in (train, heldout)]
    assert not grams[0] & grams[1]
