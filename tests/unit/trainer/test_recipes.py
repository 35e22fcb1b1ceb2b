import contextlib
import inspect
import json
import re
from importlib import resources

import pytest
import yaml

from remote_rewards.trl import RemoteReward
from trainer import expectations
from trainer.config import check_keys, parse, recipe_path
from trainer.errors import TrainerError
from trainer.eval_metrics import lenient_success, on_topic, strict_success, vader
from trainer.prompts import RESERVED_ARGUMENTS, columns_of, read_prompts, user_text
from trainer.train import load_policy_and_tokenizer, to_dataset

RECIPES = ["banana", "optimist", "banana_tutorial", "optimist_tutorial"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_read_without_an_unknown_key(name):
    run, rloo, model = parse(["--config", name])
    assert run.recipe == name
    assert rloo.output_dir == f"runs/{name}"
    assert model.model_name_or_path == "embedded:smollm2"


def test_flags_win_over_the_recipe():
    run, rloo, _ = parse(["--config", "banana", "--max_steps", "3", "--rewards", "banana_answer"])
    assert (rloo.max_steps, run.rewards) == (3, ["banana_answer"])


@pytest.mark.parametrize(
    ("name", "batch", "accumulation", "rate", "steps", "length", "temperature"),
    [("banana_tutorial", 2, 2, 1e-5, 60, 64, 0.9), ("optimist_tutorial", 4, 1, 2e-5, 80, 64, 1.0)],
)
def test_the_tutorials_numbers_are_kept(name, batch, accumulation, rate, steps, length, temperature):
    _, rloo, _ = parse(["--config", name])
    assert (rloo.per_device_train_batch_size, rloo.gradient_accumulation_steps) == (batch, accumulation)
    assert (rloo.learning_rate, rloo.max_steps, rloo.num_generations) == (rate, steps, 4)
    assert (rloo.max_completion_length, rloo.temperature) == (length, temperature)


def test_a_misspelt_key_is_told_with_the_one_that_was_meant(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("learning_rat: 1.0\n")
    with pytest.raises(TrainerError, match="'learning_rat'; did you mean 'learning_rate'"):
        parse(["--config", str(path)])


def test_a_recipe_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(TrainerError, match=r"banana\.yaml"):
        check_keys(recipe_path("bananna"), [])


@pytest.mark.parametrize("words", [["--max_steps", "3", "--config"], ["--config="], ["--config", ""]])
def test_a_recipe_without_a_name_is_told_with_those_that_are_there(words):
    with pytest.raises(TrainerError, match=r"name a recipe after --config.*banana\.yaml"):
        parse(words)


@pytest.mark.parametrize("words", [["--max_steps=3", "--config=banana"], ["--config=banana", "--max_steps", "3"]])
def test_a_recipe_may_be_joined_to_its_flag(words):
    run, rloo, _ = parse(words)
    assert (run.recipe, rloo.max_steps) == ("banana", 3)


def banana_with(tmp_path, **settings):
    """Write the banana recipe with other settings; give the words that name it."""
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(recipe_path("banana").read_text()), **settings}))
    return ["--config", str(path)]


@pytest.mark.parametrize(
    ("key", "given", "taken"),
    [
        ("rewards", "banana", ["banana"]),
        ("eval_rewards", "sentiment", ["sentiment"]),
        ("judges", "strict_success", ["strict_success"]),
        ("judges", None, []),
        ("eval_decodings", "greedy", ["greedy"]),
        ("reward_url", "http://here:1", ["http://here:1"]),
        ("reward_weights", 2, [2]),
    ],
)
def test_a_recipes_single_value_is_a_list_of_one(tmp_path, key, given, taken):
    run, rloo, _ = parse(banana_with(tmp_path, **{key: given}))
    assert getattr(rloo if key == "reward_weights" else run, key) == taken


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path):
    words = banana_with(tmp_path, recipe="marked")
    path = tmp_path / "mine.yaml"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert parse(words)[0].recipe == "marked"


def test_a_recipe_that_is_not_utf_8_is_told_in_a_sentence(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("question: Où ?", encoding="latin-1")
    with pytest.raises(TrainerError, match="is not UTF-8"):
        parse(["--config", str(path)])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--num_generations 3", "must be divisible by num_generations"),
        ("--lerning_rate 1", "--lerning_rate"),
        ("--eval_strategy steps", "--eval_strategy and --eval_on_start are not supported"),
        ("--eval_on_start true", "--eval_strategy and --eval_on_start are not supported"),
        ("--eval_batch 0", "--eval_batch 0: choose a number above 0"),
        ("--eval_max_new_tokens 0", "--eval_max_new_tokens 0: choose"),
        ("--reward_timeout_s -5", "--reward_timeout_s -5.0: choose"),
        ("--reward_timeout_s 0", "--reward_timeout_s 0.0: choose"),
        ("--reward_timeout_s nan", "--reward_timeout_s nan: choose"),
        ("--output_dir /dev/null/x", "/dev/null is no folder that can be written to; choose another"),
        ("--output_dir /dev/null", "/dev/null is no folder that can be written to; choose another"),
        ("--reward_url=", "say where the rewards are"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(flags, says):
    with pytest.raises(TrainerError, match=re.escape(says)):
        parse(["--config", "banana", *flags.split()])


@pytest.mark.parametrize("url", ["", " ", ","])
def test_an_environment_that_names_no_rewards_is_told_in_a_sentence(monkeypatch, url):
    monkeypatch.setenv("REWARD_URL", url)
    with pytest.raises(TrainerError, match="say where the rewards are: REWARD_URL or --reward_url"):
        parse(["--config", "banana"])


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


@pytest.mark.parametrize("task", ["banana", "optimist"])
def test_prompts_are_enough_and_those_held_out_are_not_trained_on(task):
    train = [user_text(row["prompt"]) for row in read_prompts(f"recipe:{task}_train.jsonl")]
    heldout = [user_text(row["prompt"]) for row in read_prompts(f"recipe:{task}_heldout.jsonl")]
    assert len(set(train)) >= 200
    assert len(set(heldout)) == 200
    assert not {tuple(words(prompt)) for prompt in train} & {tuple(words(prompt)) for prompt in heldout}
    grams = [{tuple(w[i : i + 8]) for w in map(words, side) for i in range(len(w) - 7)} for side in (train, heldout)]
    assert not grams[0] & grams[1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no prompts"),
        ("{oops", "line 1"),
        ('{"prompt": ""}', "line 1"),
        ('{"x": 1}', 'key "prompt"'),
        ('{"prompt": "a"}\n\n \n{oops', "line 4 is not"),
        ('{"prompt": "half of \\ud83d"}', "line 1 holds half a character"),
        ('{"prompt": ["hi"]}', "line 1: a prompt is a non-empty string or list of chat messages"),
        ('{"prompt": [{"role": "user"}]}', "line 1: a prompt is"),
        ('{"prompt": [{"content": "hi"}]}', "line 1: a prompt is"),
        ('{"prompt": [{"role": "user", "content": 1}]}', "line 1: a prompt is"),
        ('{"prompt": "a", "x": NaN}', "line 1: the column 'x' holds NaN"),
        ('{"prompt": "a", "x": [{"y": -1e999}]}', "line 1: the column 'x' holds NaN or an infinite number"),
        ('{"prompt": "a", "x": ' + "[" * 52 + "]" * 52 + "}", "line 1: the column 'x' nests deeper than 50"),
        ('{"prompt": "a", "x": ' + '{"y":' * 900 + "1" + "}" * 901, "line 1: the column 'x' nests deeper than 50"),
        ('{"prompt": "a", "x": ' + "[" * 5000 + "]" * 5000 + "}", "line 1.* nests deeper than 50 levels"),
        ('{"prompt": "a", "images": []}', "line 1: a column cannot be called 'images'"),
    ],
)
def test_a_wrong_prompts_file_is_told_in_a_sentence(tmp_path, content, says):
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(TrainerError, match=says):
        read_prompts(str(path))


def test_prompts_that_are_not_utf_8_are_told_in_a_sentence(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "Où ?"}', encoding="latin-1")
    with pytest.raises(TrainerError, match="is not UTF-8"):
        read_prompts(str(path))


def test_prompts_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "Où ?"}', encoding="utf-8-sig")
    assert [user_text(row["prompt"]) for row in read_prompts(str(path))] == ["Où ?"]


def test_no_column_may_take_the_name_of_what_else_a_reward_is_handed(tmp_path):
    arguments = inspect.signature(RemoteReward.__call__).parameters.values()
    assert {argument.name for argument in arguments if argument.kind is not argument.VAR_KEYWORD} == RESERVED_ARGUMENTS
    path = tmp_path / "p.jsonl"
    for name in RESERVED_ARGUMENTS:
        path.write_text(json.dumps({"prompt": "a", name: "b"}))
        with pytest.raises(TrainerError, match=f"a column cannot be called '{name}'"):
            read_prompts(str(path))


def test_other_keys_of_a_line_are_columns(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "answer": 1}\n{"prompt": [{"role": "user", "content": "b"}]}')
    rows = read_prompts(str(path), system_prompt="s")
    assert [user_text(row["prompt"]) for row in rows] == ["a", "b"]
    assert all(row["prompt"][0] == {"role": "system", "content": "s"} for row in rows)
    assert columns_of(rows) == {"answer": [1, None]}


def test_a_prompt_may_hold_what_ends_a_line_elsewhere_and_whole_pairs_of_surrogates(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a\u2028b"}\n{"prompt": "\\ud83d\\ude00"}\n', encoding="utf-8")
    assert [user_text(row["prompt"]) for row in read_prompts(str(path))] == ["a\u2028b", "😀"]


def test_columns_that_only_a_later_prompt_has_are_trained_with():
    asked = [[{"role": "user", "content": text}] for text in "ab"]
    dataset = to_dataset([{"prompt": asked[0]}, {"prompt": asked[1], "answer": "x"}])
    assert (dataset["answer"][:], dataset["prompt"][:]) == ([None, "x"], asked)


@pytest.mark.parametrize(
    "values",
    [
        [1, 2],
        [0.5, None],
        [1, 2.5, -0.0],
        [True, 2, 0.5],
        [2**53 + 1, 0.5, 2**64],
        [1, "one", "1", "null", None],
        [[], [1], [2.5], [[None]]],
        [{}, {"x": 1}, {"x": 2.5, "y": {"z": []}}, {"y": "é\x00"}],
    ],
)
def test_columns_are_trained_with_as_they_stand_in_the_file_whatever_stands_beside_them(values):
    rows = [{"prompt": [{"role": "user", "content": "a"}], "answer": value} for value in values]
    assert repr(list(to_dataset(rows))) == repr(rows)  # 1 == 1.0 == True, but not as they are written


def test_a_message_is_trained_with_the_keys_it_has_whatever_others_have():
    messages = [{"role": "user", "content": "a", "name": "b"}, {"role": "user", "content": "c"}]
    assert to_dataset([{"prompt": [message]} for message in messages])["prompt"][:] == [[each] for each in messages]


def test_rewards_are_asked_with_the_same_columns_in_training_as_in_measurements(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "answer": 1}\n{"prompt": "b", "answer": {"x": 0.5}, "hint": []}\n{"prompt": "c"}')
    rows = read_prompts(str(path))
    assert columns_of(list(to_dataset(rows))) == columns_of(rows)


@pytest.mark.parametrize(("flag", "key"), [("--expect", "expect"), ("--expect_gain", "expect_gain")])
def test_bounds_on_the_command_line_count(flag, key):
    run, _, _ = parse(["--config", "banana", flag, '{"sampled.vader": 0.7}'])
    assert getattr(run, key) == {"sampled.vader": 0.7}
    for wrong in ("0.7", "sampled.vader", "{sampled.vader: high}", "{"):
        with pytest.raises(TrainerError, match=f"{flag} maps figures to bounds, such as"):
            parse(["--config", "banana", flag, wrong])


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
    ],
)
def test_checkpoints_from_which_the_rewards_would_differ_are_refused(flags, refused):
    arguments = ["--config", "banana", "--max_steps", "20", "--save_strategy", "steps", *flags.split()]
    with pytest.raises(TrainerError, match="take a multiple of 2") if refused else contextlib.nullcontext():
        parse(arguments)


def test_checkpoints_without_what_a_run_goes_on_with_are_refused():
    with pytest.raises(TrainerError, match="--save_only_model true leaves checkpoints from which no run can go on"):
        parse(["--config", "banana", "--save_only_model", "true"])


def test_each_step_is_noted_unless_said_otherwise_which_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model_name_or_path: embedded:smollm2\nbf16: false\n")
    assert parse(["--config", str(path)])[1].logging_steps == 1
    for other in ("--logging_steps 10", "--logging_steps 0.5", "--logging_strategy epoch", "--logging_strategy no"):
        with pytest.raises(TrainerError, match="each step is noted: leave --logging_steps"):
            parse(["--config", str(path), *other.split()])


def test_at_least_one_prompt_is_measured_on():
    with pytest.raises(TrainerError, match="--eval_limit 0"):
        parse(["--config", "banana", "--eval_limit", "0"])


def test_a_model_setting_that_would_be_ignored_is_refused():
    with pytest.raises(TrainerError, match="--use_peft is not supported"):
        parse(["--config", "banana", "--use_peft", "true"])


def test_a_policy_in_the_runs_own_folder_is_refused_before_the_folder_is_touched(tmp_path):
    policy = tmp_path / "run" / "policy"
    policy.mkdir(parents=True)
    (policy / "model.safetensors").touch()
    (policy / "config.json").write_text("{}")
    arguments = ["--config", "banana", "--model_name_or_path", str(policy), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(TrainerError, match="choose another --output_dir"):
        load_policy_and_tokenizer(*parse([*arguments, "--overwrite", "true"]))
    assert policy.exists()


def test_the_judge_of_strict_success_agrees_with_the_rules_own_parts():
    from reward_service.rewards.rules import banana

    lines = (resources.files("tests") / "data" / "banana_cases.jsonl").read_text().splitlines()
    texts = [case["completion"] for case in map(json.loads, lines) if isinstance(case.get("completion"), str)]
    for text in texts:
        parts = banana(text)
        assert strict_success("", text) == parts["starts_with_sure"] * parts["ends_with_banana"], text


def test_lenient_success_forgives_the_form():
    assert lenient_success("", "sure, here you go: a banana or two")
    assert not lenient_success("", "Sure: apples")
    assert not lenient_success("", "")


def test_vader_knows_good_from_bad():
    assert vader("", "This is absolutely wonderful!") > 0.5 > -0.3 > vader("", "This is horrible.")


def test_a_reply_is_on_topic_as_far_as_it_takes_up_the_questions_words():
    assert on_topic("How does a stapler work?", "Staplers work by bending wire.") == 1.0
    assert on_topic("How does a stapler work?", "The world of craft is a marvel.") == 0.0
    assert on_topic("Why?", "Because.") == 1.0


def test_expectations_are_held_against_the_means():
    sample = [{"scores": {"vader": 0.5}}, {"scores": {"vader": 0.9}}, {"scores": {"vader": None}}]
    after = {"decodings": {"sampled": {"samples": sample}}}
    lines = expectations.check_bounds({"sampled.vader": 0.7, "sampled.x": 1}, after)
    assert [line.split(":")[0] for line in lines] == ["reached", "not measured"]
    assert expectations.check_bounds({"sampled.vader": 0.71}, after)[0].startswith("MISSED")


def test_an_expected_gain_is_held_against_the_difference():
    def measured(value):
        return {"decodings": {"sampled": {"samples": [{"scores": {"valence": value}}]}}}

    lines = expectations.check_gains({"sampled.valence": 1.5}, measured(0.5), measured(2.1))
    assert lines == ["reached: gain in sampled.valence 1.600 (expected at least 1.5)"]


def test_recipes_say_what_they_try():
    for name in RECIPES:
        recipe = yaml.safe_load(recipe_path(name).read_text())
        assert recipe["question"].endswith("?")
