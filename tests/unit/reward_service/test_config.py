import pytest

from reward_service.config import build_order, read_config
from reward_service.errors import ConfigError


def config(tmp_path, text):
    path = tmp_path / "rewards.yaml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def test_the_package_serves_what_the_documentation_names():
    served = read_config(None).rewards
    assert {"banana", "sentiment", "valence", "optimism", "banana_answer"} <= set(served)


def test_parts_are_built_before_sums(tmp_path):
    found = config(
        tmp_path,
        "rewards:\n  sum: {kind: composite, parts: {a: {}}}\n  a: {kind: rule, function: banana}\n",
    )
    assert build_order(found) == ["a", "sum"]


def test_a_function_can_be_named_in_short(tmp_path):
    assert (
        config(tmp_path, 'rewards: {mine: "package.module:object"}').rewards["mine"].object == "package.module:object"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rewards: {a: {kind: rule, functoin: banana}}", "did you mean 'function'"),
        ("rewards: {a: {kind: rle, function: banana}}", "rewards.a"),
        ("rewards: {}", "rewards"),
        ("rewards: [", "is not YAML"),
        (
            "rewards: {a: {kind: composite, parts: {b: {}}}, bb: {kind: rule, function: banana}}",
            "did you mean 'bb'",
        ),
        (
            "rewards: {a: {kind: composite, parts: {b: {}}}, b: {kind: composite, parts: {a: {}}}}",
            "each other",
        ),
        ("default: [x]\nrewards: {a: {kind: rule, function: banana}}", "default names 'x'"),
        ("rewards:\n  a: {kind: rule, function: banana}\n  a: {kind: rule, function: banana}", "'a' is there twice"),
        ("rewards: {a: {kind: rule, function: banana, description: 2024-02-30}}", "day is out of range"),
        ("rewards: {a: {kind: classifier, model: m, labels: {x: .inf}}}", "finite"),
        ("rewards: {a: {kind: regressor, model: m, scale: .nan}}", "finite"),
        ("rewards: {a: {kind: function, object: 'm:f', range: [1, 0]}}", "the lower end comes first.*not \\[1, 0\\]"),
        ("rewards: {a: {kind: function, object: 'm:f', range: [0, .nan]}}", "neither is NaN"),
        ("rewards: {'A b': {kind: rule, function: banana}}", "pattern"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_sentence(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says) as caught:
        config(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "nowhere.yaml")


def test_yaml_may_say_a_thing_once_and_refer_to_it(tmp_path):
    text = (
        "rewards: {a: &rule {kind: rule, function: content_words}, b: {<<: *rule, function: banana}, c: *rule,"
        " sum: {kind: composite, parts: {a: &half {weight: 0.5}, b: &no {<<: *half, weight: 0},"
        " c: {<<: *no, clip: [0, 1]}}}}"
    )
    found = config(tmp_path, text).rewards
    assert [found[name].function for name in "abc"] == ["content_words", "banana", "content_words"]
    assert found["sum"].parts["c"].model_dump() == {"description": "", "weight": 0.0, "clip": (0.0, 1.0)}
