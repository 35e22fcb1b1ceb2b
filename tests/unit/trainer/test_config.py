import contextlib
import re

import pytest
import yaml
from trl import GRPOConfig, RLOOConfig

from trainer.config import parse
from trainer.errors import TrainerError
from trainer.recipe_files import read_recipe, recipe_path


@pytest.fixture
def banana_with(tmp_path):
    """Return a function that writes the banana recipe with other settings and returns its flags."""

    def write(encoding="utf-8", **settings):
        path = tmp_path / "mine.yaml"
        content = {**yaml.safe_load(recipe_path("banana").read_text()), **settings}
        path.write_text(yaml.safe_dump(content), encoding=encoding)
        return ["--config", str(path)]

    return write


def test_flags_override_the_recipe():
    """Flags take precedence over the recipe."""
    run, args, _ = parse(["--config", "banana", "--max_steps", "3", "--rewards", "banana_answer"])
    assert (args.max_steps, run.rewards) == (3, ["banana_answer"])


@pytest.mark.parametrize(
    ("recipe", "flags", "config_class"),
    [("rloo", [], RLOOConfig), ("grpo", [], GRPOConfig), ("rloo", ["--algorithm", "grpo"], GRPOConfig)],
)
def test_algorithm(banana_with, recipe, flags, config_class):
    """The algorithm of the flag or the recipe decides which of TRL's settings a run has."""
    run, args, _ = parse([*banana_with(algorithm=recipe), *flags])
    assert type(args) is config_class
    assert run.algorithm == config_class.__name__.removesuffix("Config").lower()


def test_key_of_another_algorithm(banana_with):
    """A key of a recipe that only another algorithm has is an error that names it."""
    with pytest.raises(TrainerError, match=r"loss_type is a setting of grpo, .* or add --algorithm grpo"):
        parse(banana_with(loss_type="dapo"))
    assert parse(banana_with(loss_type="grpo", algorithm="grpo"))[1].loss_type == "grpo"


@pytest.mark.parametrize(("algorithm", "beta", "steps"), [("rloo", 0.02, 5), ("dpo", 0.3, 7)])
def test_section(banana_with, algorithm, beta, steps):
    """A recipe's section of an algorithm takes precedence, and replaces what only other algorithms have."""
    section = {"beta": 0.3, "max_steps": 7, "completions": "a.jsonl"}
    flags = banana_with(beta=0.02, max_steps=5, dpo=section)
    run, args, _ = parse([*flags, "--algorithm", algorithm])
    assert (args.beta, args.max_steps) == (beta, steps)
    assert run.completions == (None if algorithm == "rloo" else "a.jsonl")
    with pytest.raises(TrainerError, match="unknown setting 'bteta'; did you mean 'beta'"):
        parse([*banana_with(dpo={"bteta": 1.0}), "--algorithm", "dpo"])
    with pytest.raises(TrainerError, match="the recipe's section dpo is not a mapping"):
        parse([*banana_with(dpo=1), "--algorithm", "dpo"])


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "dpo", "sft"])
def test_template_kwargs(banana_with, algorithm):
    """Every algorithm has the arguments of the chat template, as a mapping of a recipe or as JSON."""
    section = {algorithm: {"completions": "a"}} if algorithm in ("dpo", "sft") else {}
    recipe = banana_with(chat_template_kwargs={"thinking": False}, **section)
    flags = ["--chat_template_kwargs", '{"thinking": true}']
    for argv, thinking in (([], False), (flags, True)):
        args = parse([*recipe, "--algorithm", algorithm, *argv])[1]
        assert args.chat_template_kwargs == {"thinking": thinking}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--algorithm dpo", "--algorithm dpo learns from completions in a file: name it with --completions"),
        ("--algorithm dpo --completions a --min_score 1", "--min_score has no effect with --algorithm dpo"),
        ("--algorithm dpo --completions a --margin -1", "--margin -1: choose a number from 0 on"),
        ("--algorithm sft --completions a --margin 1", "--margin has no effect with --algorithm sft"),
        (
            "--algorithm sft --completions a --on_hack stop",
            "--on_hack has no effect with --algorithm sft: leave it out",
        ),
        ("--algorithm sft --completions a --packing true", "--packing is not supported here: leave it out"),
        ("--algorithm sft --completions a --trust_remote_code true", "--trust_remote_code is not supported here"),
        ("--algorithm sft --completions a --eval_strategy steps", "--eval_strategy and --eval_on_start are not"),
    ],
)
def test_wrong_offline_settings(flags, message):
    """A setting that DPO or SFT cannot have is an error before anything slow is done."""
    with pytest.raises(TrainerError, match=re.escape(message)):
        parse(["--model_name_or_path", "a", "--bf16", "false", *flags.split()])


@pytest.mark.parametrize(
    ("settings", "flags", "left_out"),
    [
        ({}, "--use_peft true", {"frozen_layers": 0}),
        ({"use_peft": True, "lora_r": 8}, "--use_peft false", {"lora_r": 16}),
        ({"sft": {"completions": "a"}, "on_hack": "stop", "margin": 1.0}, "--algorithm sft", {"on_hack": "warn"}),
        ({"completions": "a", "min_score": 1.0}, "", {"completions": None, "min_score": None}),
    ],
)
def test_unused_recipe_settings(banana_with, capsys, settings, flags, left_out):
    """A recipe's setting that has no effect in a run is left out and logged; a flag is an error."""
    run, _, model = parse([*banana_with(**settings), *flags.split()])
    for name, default in left_out.items():
        assert {**vars(run), **vars(model)}[name] == default
        assert f"the recipe's {name} has no effect with" in capsys.readouterr().err.replace("\n", " ")
        break
    with pytest.raises(TrainerError, match=f"--{name} has no effect with.*: leave it out"):
        parse([*banana_with(**settings), *flags.split(), f"--{name}", "2" if name != "on_hack" else "stop"])


def test_recipe_without_a_section(banana_with):
    """A recipe of another algorithm needs a section for the run's, which the error shows."""
    message = "is one for rloo and has no section for sft, which has no .*num_generations.*: add a section `sft: {"
    with pytest.raises(TrainerError, match=message):
        parse(["--config", "banana", "--algorithm", "sft", "--completions", "a"])
    assert parse([*banana_with(sft={"completions": "a"}), "--algorithm", "sft"])[0].completions == "a"


def test_unknown_key(tmp_path):
    """An unknown key is an error that suggests the nearest known one."""
    path = tmp_path / "mine.yaml"
    path.write_text("learning_rat: 1.0\n")
    with pytest.raises(TrainerError, match="'learning_rat'; did you mean 'learning_rate'"):
        parse(["--config", str(path)])


def test_missing_recipe():
    """A recipe that does not exist is an error that lists those of the package."""
    with pytest.raises(TrainerError, match=r"banana\.yaml"):
        read_recipe(recipe_path("bananna"))


@pytest.mark.parametrize("argv", [["--max_steps", "3", "--config"], ["--config="], ["--config", ""]])
def test_config_without_a_name(argv):
    """`--config` without a name is an error that lists the recipes of the package."""
    with pytest.raises(TrainerError, match=r"name a recipe after --config.*banana\.yaml"):
        parse(argv)


@pytest.mark.parametrize("argv", [["--max_steps=3", "--config=banana"], ["--config=banana", "--max_steps", "3"]])
def test_config_with_equals_sign(argv):
    """`--config=banana` equals `--config banana`."""
    run, args, _ = parse(argv)
    assert (run.recipe, args.max_steps) == ("banana", 3)


@pytest.mark.parametrize(
    ("key", "value", "parsed"),
    [
        ("rewards", "banana", ["banana"]),
        ("judges", "strict_success", ["strict_success"]),
        ("judges", None, []),
        ("eval_decodings", "greedy", ["greedy"]),
        ("reward_url", "http://here:1", ["http://here:1"]),
        ("reward_weights", 2, [2]),
    ],
)
def test_scalar_for_a_list(banana_with, key, value, parsed):
    """A recipe's single value counts as a list of one."""
    run, args, _ = parse(banana_with(**{key: value}))
    assert getattr(args if key == "reward_weights" else run, key) == parsed


def test_judges(banana_with):
    """A judge is a local one or a reward of the service; a reward that is trained on is no judge."""
    run, *_ = parse(banana_with(judges=["vader", "valence", "banana_answer", "vader"]))
    assert (run.local_judges, run.remote_judges) == (["vader"], ["valence"])


@pytest.mark.parametrize("judges", [None, "banana_answer"])
def test_keep_best_needs_judges(banana_with, judges):
    """The best checkpoint cannot be kept without judges that the run does not train on."""
    with pytest.raises(TrainerError, match="keep_best needs --judges that the run does not train on"):
        parse(banana_with(judges=judges, on_hack="keep_best"))


def test_keep_best_by_weight_0(banana_with):
    """A reward of weight 0 is a judge, by which the best checkpoint can be kept."""
    rewards = {"rewards": ["banana_answer", "relevance"], "reward_weights": [1, 0], "judges": None}
    parse(banana_with(**rewards, on_hack="keep_best", save_strategy="steps"))


def test_byte_order_mark(banana_with):
    """A recipe may begin with a byte order mark."""
    assert parse(banana_with(encoding="utf-8-sig", recipe="marked"))[0].recipe == "marked"


def test_recipe_not_utf_8(tmp_path):
    """A recipe that is not UTF-8 is an error."""
    path = tmp_path / "mine.yaml"
    path.write_text("question: Où ?", encoding="latin-1")
    with pytest.raises(TrainerError, match="is not UTF-8"):
        parse(["--config", str(path)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--num_generations 5", "must be divisible by num_generations"),
        ("--lerning_rate 1", "--lerning_rate"),
        ("--eval_strategy steps", "--eval_strategy and --eval_on_start are not supported"),
        ("--eval_on_start true", "--eval_strategy and --eval_on_start are not supported"),
        ("--eval_batch 0", "--eval_batch 0: choose a number above 0"),
        ("--max_minutes 0", "--max_minutes 0.0: choose a number above 0"),
        ("--eval_limit 0", "--eval_limit 0: evaluate on at least one prompt"),
        ("--eval_max_new_tokens 0", "--eval_max_new_tokens 0: choose"),
        ("--on_hack panic", "unknown --on_hack 'panic'; choose warn, stop, keep_best"),
        ("--on_hack keep_best", "needs checkpoints to choose from: add --save_strategy steps"),
        ("--eval_decodings beam", "unknown decoding 'beam' in --eval_decodings; choose greedy, sampled"),
        ("--rewards banana banana", "name at least one reward to train on, and each only once"),
        ("--reward_timeout_s -5", "--reward_timeout_s -5.0: choose"),
        ("--reward_timeout_s 0", "--reward_timeout_s 0.0: choose"),
        ("--reward_timeout_s nan", "--reward_timeout_s nan: choose"),
        ("--hedge_after_s -1", "--hedge_after_s -1.0: choose"),
        ("--interpolation 0", "--interpolation 0: choose a number above 0, up to 1"),
        ("--interpolation 1.5", "--interpolation 1.5: choose a number above 0, up to 1"),
        ("--interpolation 0.5 --use_peft true --merge_lora false", "needs a whole model, not an adapter"),
        ("--diversity_weight -1", "--diversity_weight -1: choose a number from 0 on"),
        ("--diversity_weight nan", "--diversity_weight nan: choose a number from 0 on"),
        ("--diversity_weight 1 --rewards diversity", "the service's has the same name: leave one out"),
        ("--hedge_after_s nan", "--hedge_after_s nan: choose"),
        ("--output_dir /dev/null/x", "/dev/null is not a writable folder; choose another"),
        ("--output_dir /dev/null", "/dev/null is not a writable folder; choose another"),
        ("--reward_url=", "no reward service is given"),
        ("--save_only_model true", "--save_only_model true makes checkpoints that cannot be resumed"),
        ("--algorithm ppo", "unknown --algorithm 'ppo'; choose rloo, grpo, dpo or sft"),
        ("--algorithm=", "unknown --algorithm ''; choose rloo, grpo, dpo or sft"),
        (
            "--algorithm dpo",
            "the recipe is one for rloo and has no section for dpo, which has no num_generations, max_completion_",
        ),
        ("--completions a.jsonl", "--completions has no effect with --algorithm rloo: leave it out"),
        ("--chat_template_kwargs thinking", "--chat_template_kwargs thinking is not a JSON object, such as '{"),
        ("--min_score 1", "--min_score has no effect with --algorithm rloo: leave it out"),
        ("--algo grpo", "write --algorithm grpo in full"),
        ("--loss_type dapo", "loss_type is a setting of grpo, and this run trains with rloo: leave it out, or add"),
        ("--algorithm grpo --normalize_advantages=true", "normalize_advantages is a setting of rloo, and this run"),
        ("--load_in_4bit true", "--load_in_4bit true makes weights that cannot be trained: add --use_peft true"),
        ("--bnb_4bit_quant_type fp4", "--bnb_4bit_quant_type has no effect without --load_in_4bit true: leave it out"),
        ("--lora_r 8", "--lora_r has no effect without --use_peft true"),
        ("--use_peft true --frozen_layers 2", "--frozen_layers has no effect with --use_peft true: leave it out"),
    ],
)
def test_wrong_settings(flags, message):
    """A setting that cannot work is an error before anything slow is done."""
    with pytest.raises(TrainerError, match=re.escape(message)):
        parse(["--config", "banana", *flags.split()])


@pytest.mark.parametrize("url", ["", " ", ","])
def test_empty_reward_url(monkeypatch, url):
    """An empty `REWARD_URL` is an error."""
    monkeypatch.setenv("REWARD_URL", url)
    with pytest.raises(TrainerError, match="no reward service is given: set REWARD_URL or --reward_url"):
        parse(["--config", "banana"])


@pytest.mark.parametrize("name", ["expect", "expect_gain"])
def test_bounds_as_flags(name):
    """Bounds can be given as YAML text on the command line; anything but a mapping to numbers is an error."""
    run, _, _ = parse(["--config", "banana", f"--{name}", '{"sampled.vader": 0.7}'])
    assert getattr(run, name) == {"sampled.vader": 0.7}
    for wrong in ("0.7", "sampled.vader", "{sampled.vader: high}", "{"):
        with pytest.raises(TrainerError, match=f"--{name} .* is not a mapping of scores to bounds, such as"):
            parse(["--config", "banana", f"--{name}", wrong])


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ("--num_iterations 2 --save_steps 3", True),
        ("--num_iterations 2 --save_steps 4", False),
        ("--num_iterations 2 --save_steps 500", False),  # none is saved
        ("--num_iterations 2 --save_steps 3 --save_strategy no", False),
        ("--steps_per_generation 4 --gradient_accumulation_steps 2 --save_steps 1", True),
        ("--steps_per_generation 4 --gradient_accumulation_steps 2 --save_steps 2", False),
        ("--save_steps 1", False),
        ("--save_steps 0.1", False),
        ("--max_steps -1 --num_iterations 2 --save_steps 3", True),
        ("--max_steps -1 --num_iterations 2 --save_steps 501", True),
        ("--max_steps -1 --num_iterations 2 --save_steps 0.1", True),
        ("--max_steps -1 --num_iterations 2 --save_steps 4", False),
        ("--max_steps -1 --save_steps 0.1", False),
        ("--algorithm grpo --num_iterations 2 --save_steps 3", True),
        ("--algorithm grpo --num_iterations 2 --save_steps 4", False),
    ],
)
def test_save_steps(flags, refused):
    """A checkpoint in the middle of a generation batch is refused: resumed, it would get other rewards."""
    argv = ["--config", "banana", "--max_steps", "20", "--save_strategy", "steps", *flags.split()]
    with pytest.raises(TrainerError, match="choose a multiple of 2") if refused else contextlib.nullcontext():
        parse(argv)


def test_every_step_is_logged(tmp_path):
    """Every step is logged by default, and any other setting is refused."""
    path = tmp_path / "mine.yaml"
    path.write_text("model_name_or_path: embedded:smollm2\nbf16: false\n")
    assert parse(["--config", str(path)])[1].logging_steps == 1
    for other in ("--logging_steps 10", "--logging_steps 0.5", "--logging_strategy epoch", "--logging_strategy no"):
        with pytest.raises(TrainerError, match="every step is logged, because the report needs it"):
            parse(["--config", str(path), *other.split()])


@pytest.mark.parametrize(
    ("flags", "environ"),
    [("--deepspeed zero2.json", {}), ("", {"ACCELERATE_USE_DEEPSPEED": "true"})],
)
def test_deepspeed_without_its_package(flags, environ, monkeypatch):
    """DeepSpeed without its package is refused, by setting or by launcher."""
    monkeypatch.setattr("trainer.sharding.find_spec", lambda name: None)
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(TrainerError, match="--deepspeed needs the package deepspeed: pip install deepspeed"):
        parse(["--config", "banana", *flags.split()])


def test_model_revision():
    """--model_revision is that of a hub id, as `org/model@revision` is, and refused for any other policy."""
    flags = ["--config", "banana", "--model_revision", "v1", "--model_name_or_path"]
    assert parse([*flags, "org/model"])[2].model_name_or_path == "org/model@v1"
    for name in ("embedded:smollm2", "org/model@v2", "."):
        with pytest.raises(TrainerError, match=f"--model_revision v1 is for a hub id without a revision, and {name}"):
            parse([*flags, name])


def test_vllm_without_its_package(monkeypatch):
    """Generation with vLLM is TRL's, and refused at once where the package is missing."""
    monkeypatch.setattr("trainer.settings_checks.is_vllm_available", lambda: True)
    assert parse(["--config", "banana", "--use_vllm", "true", "--vllm_mode", "server"])[1].vllm_mode == "server"
    monkeypatch.setattr("trainer.settings_checks.is_vllm_available", lambda: False)
    with pytest.raises(TrainerError, match="--use_vllm true needs the package vllm"):
        parse(["--config", "banana", "--use_vllm", "true"])


def test_quantization_without_bitsandbytes(monkeypatch):
    """A policy of 4 or 8 bits needs bitsandbytes; other commands than `train` need no adapter for it."""
    monkeypatch.setattr("trainer.quantization.is_bitsandbytes_available", lambda: True)
    assert parse(["--config", "banana", "--load_in_8bit", "true"], "reward-trainer evaluate")[2].load_in_8bit
    monkeypatch.setattr("trainer.quantization.is_bitsandbytes_available", lambda: False)
    with pytest.raises(TrainerError, match="--load_in_8bit true needs the package bitsandbytes: pip install"):
        parse(["--config", "banana", "--load_in_8bit", "true", "--use_peft", "true"])
