"""A reward model of TRL's RewardTrainer gives in TRL's RLOO the same rewards in process and behind the service."""

import json

import pytest
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification
from trl import RewardConfig, RewardTrainer, RLOOConfig, RLOOTrainer

from remote_rewards import remote_reward
from reward_service.settings import Settings
from tests.conftest import running_service
from tests.small_models import save_folder

pytestmark = pytest.mark.slow
SHORT = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "max_steps": 3}
NUMBERS = range(8)
STANDARD = [{"chosen": f"Q: {n} + 2? A: {n + 2}", "rejected": f"Q: {n} + 2? A: no idea."} for n in NUMBERS]
CHATS = [
    {
        "prompt": [{"role": "user", "content": f"What is {n} + 2?"}],
        "chosen": [{"role": "assistant", "content": str(n + 2)}],
        "rejected": [{"role": "assistant", "content": "no idea"}],
    }
    for n in NUMBERS
]
ASKED = {"text": [f"Q: {n} + 2? A:" for n in NUMBERS], "chat": [row["prompt"] for row in CHATS]}


def train_reward_model(pairs, folder):
    """Train a small reward model with TRL and save it as TRL does."""
    _, tokenizer = save_folder(folder / "base", LlamaForSequenceClassification, LlamaConfig, num_labels=1)
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=1),
        args=RewardConfig(str(folder), learning_rate=1e-2, per_device_train_batch_size=4, **SHORT),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(folder / "in_process"))
    return folder / "in_process"


class RecordedRLOO(RLOOTrainer):
    """RLOO that keeps the rewards of each completion."""

    def _calculate_rewards(self, *args, **kwargs):
        rewards = super()._calculate_rewards(*args, **kwargs)  # (completions, rewards)
        self.rewards = [*getattr(self, "rewards", []), *rewards.tolist()]
        return rewards


@pytest.mark.parametrize(("reading", "pairs"), [("chat", CHATS), ("text", STANDARD)])
def test_same_rewards(reading, pairs, policy, tmp_path):
    """For chats and for standard data, every completion of a training has the same two rewards."""
    model = train_reward_model(pairs, tmp_path)
    spec = {"kind": "regressor", "model": str(model), "input": reading, "backend": "torch", "dtype": "float32"}
    (tmp_path / "rewards.yaml").write_text(json.dumps({"rewards": {"judge": spec}}))
    with running_service(Settings(config=tmp_path / "rewards.yaml")) as url:
        trainer = RecordedRLOO(
            model=policy,
            reward_funcs=[str(model), remote_reward(url, "judge")],
            args=RLOOConfig(
                str(tmp_path / "rloo"),
                per_device_train_batch_size=8,
                num_generations=4,
                max_completion_length=12,
                learning_rate=1e-2,
                beta=0.0,
                logging_steps=1,
                **SHORT,
            ),
            train_dataset=Dataset.from_dict({"prompt": ASKED[reading]}),
        )
        trainer.train()
    here, there = zip(*trainer.rewards, strict=True)
    assert len(set(here)) > 12, "equality means nothing"
    assert there == pytest.approx(here, abs=1e-5)
