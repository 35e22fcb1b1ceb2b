import os
from types import SimpleNamespace

import pytest
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from transformers.integrations.deepspeed import (
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)

from trainer.config import parse
from trainer.errors import TrainerError
from trainer.sharding import EFFICIENT_LOADING, check_sharding, sharded_by, whole_weights

BY_FSDP = ["--config", "banana", "--fsdp"]
TWO = {"WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("settings", "environ", "name"),
    [
        ({}, {}, None),
        ({"fsdp": True}, {}, "FSDP"),
        ({"deepspeed": "zero2.json"}, {}, "DeepSpeed"),
        ({}, {"ACCELERATE_USE_FSDP": "true"}, "FSDP"),
        ({}, {"ACCELERATE_USE_DEEPSPEED": "True"}, "DeepSpeed"),
        ({}, {"ACCELERATE_USE_FSDP": "false"}, None),
    ],
)
def test_sharded_by(settings, environ, name):
    """A setting or accelerate's launcher shards a policy."""
    assert sharded_by(SimpleNamespace(**{"fsdp": None, "deepspeed": None, **settings}), environ) == name


@pytest.mark.parametrize(
    ("flags", "environ", "message"),
    [
        ([], {}, "FSDP shards a policy over processes, and this is one"),
        (
            ["--on_hack", "keep_best", "--save_strategy", "steps", "--save_steps", "5"],
            TWO,
            "keep_best cannot load a checkpoint into a policy sharded by FSDP: choose stop",
        ),
    ],
)
def test_refused_settings(flags, environ, message):
    """What a sharded policy cannot have is refused before anything slow, with what to do."""
    run, args, _ = parse([*BY_FSDP, *flags])
    with pytest.raises(TrainerError, match=message):
        check_sharding(args, run.on_hack, environ)


@pytest.mark.parametrize("gathers", [True, False])
def test_shards_of_zero3(gathers):
    """DeepSpeed's third stage must save whole weights: the evaluation after training reads them."""
    zero = HfDeepSpeedConfig({"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": gathers}})
    args = SimpleNamespace(fsdp=None, deepspeed="zero3.json", hf_deepspeed_config=zero)
    if gathers:
        check_sharding(args, "warn", TWO)
    else:
        with pytest.raises(TrainerError, match="set stage3_gather_16bit_weights_on_model_save to true"):
            check_sharding(args, "warn", TWO)


def test_whole_weights(monkeypatch):
    """Inside the block transformers loads every weight in every process; afterwards its settings are as before."""
    monkeypatch.setenv(EFFICIENT_LOADING, "true")
    zero = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}})
    set_hf_deepspeed_config(zero)
    try:
        with whole_weights(SimpleNamespace(hf_deepspeed_config=zero)):
            assert (os.environ[EFFICIENT_LOADING], is_deepspeed_zero3_enabled()) == ("false", False)
        assert (os.environ[EFFICIENT_LOADING], is_deepspeed_zero3_enabled()) == ("true", True)
    finally:
        unset_hf_deepspeed_config()
