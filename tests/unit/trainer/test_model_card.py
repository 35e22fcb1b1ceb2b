import dataclasses

import yaml

from trainer.model_card import base_model, render
from trainer.run_folder import Run


def evaluation(score):
    records = [{"prompt": str(n), "completion": "a b", "scores": {"joy": score}} for n in range(6)]
    return {"step": 4, "decodings": {"greedy": {"temperature": 0.0, "max_new_tokens": 5, "samples": records}}}


def run(**settings):
    rewards = {
        "rewards": [{"name": "joy", "kind": "rule", "weight": 0.5, "revision": "rule:1"}],
        "judges": [{"name": "vader", "kind": "local"}],
        "revisions": {"joy": "rule:1"},
        **({"completions": settings.pop("completions")} if "completions" in settings else {}),
    }
    config = {"question": "Can it?", "algorithm": "dpo", "beta": 0.1, **settings}
    return Run(config, [], [], rewards, evaluation(0.25), evaluation(1.0), {})


def test_card():
    """The card has rewards with weights and revisions, the scores before and after, and the settings."""
    card = render("somebody/joyful", run(), "Qwen/Qwen2.5-0.5B-Instruct")
    header = yaml.safe_load(card.split("---")[1])
    assert header["base_model"] == "Qwen/Qwen2.5-0.5B-Instruct"
    assert header["tags"] == ["trl", "dpo", "reward-trainer"]
    assert "Can it? A policy trained from `Qwen/Qwen2.5-0.5B-Instruct` with TRL's DPO" in card
    assert "| joy | rule | 0.5 | rule:1 |" in card
    assert "| vader | local | a judge | — |" in card
    assert "| joy | 0.25" in card
    assert "- `beta`: 0.1" in card


def test_kl():
    """The card says how far the policy has moved, if that was measured."""
    measured = dataclasses.replace(run(), after={**evaluation(1.0), "kl": 0.314})
    assert ", 4 steps, to a KL divergence of 0.31 nats a token.\n" in render("x", measured, "a/b")
    assert ", 4 steps.\n" in render("x", run(), "a/b")


def test_base_model(tmp_path):
    """A model card names only a model of the hub as the base."""
    assert base_model("Qwen/Qwen2.5-0.5B-Instruct") == {"base_model": "Qwen/Qwen2.5-0.5B-Instruct"}
    assert base_model("Qwen/Qwen2.5-0.5B@v1") == {"base_model": "Qwen/Qwen2.5-0.5B"}
    assert base_model("embedded:smollm2") == base_model(str(tmp_path)) == base_model(None) == {}


def test_completions():
    """The card of an offline algorithm says what chose its completions."""
    described = {"rows": 9, "hash": "12ab", "chosen_by": "joy", "revision": "rule:1"}
    card = render("x", run(completions=described), "a/b")
    assert "from 9 rows of completions (sha256 12ab), chosen by `joy`, revision rule:1." in card
    card = render("x", run(completions={**described, "chosen_by": None}), "a/b")
    assert "chosen by no reward." in card
