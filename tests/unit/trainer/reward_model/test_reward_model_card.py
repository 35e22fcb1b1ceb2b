import pytest

from trainer.reward_model.model_card import render

SETTINGS = {
    "model": {"model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct", "use_peft": False},
    "merge_lora": True,
    "pairs": "pairs.jsonl",
    "max_length": None,
    "num_train_epochs": 3.0,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-4,
    "seed": 42,
}


@pytest.mark.parametrize(("max_steps", "length"), [(200, "200 steps"), (-1, "3 epochs")])
def test_length_of_training(max_steps, length):
    """The card says how long the training was: in steps where they end it, else in epochs; and names the base model."""
    metrics = {
        "held_out": {"pairs": 0},
        "neutral": 0.0,
        "trained_on": {"pairs": 9, "truncated": 0, "left_out": 0},
        "seconds": {"train": 1.0},
        "machine": {"threads": 1},
    }
    spec = {"kind": "regressor", "model": "/runs/mine", "input": "completion"}
    card = render("somebody/mine", metrics, {**SETTINGS, "max_steps": max_steps}, spec)
    assert f"{length} in batches of 8, learning rate 0.0001" in card
    assert card.startswith("---\nbase_model: Qwen/Qwen2.5-0.5B-Instruct\nlibrary_name: transformers\n")
