import pytest

from reward_service.config import DialectOptions, build_order, read_config
from reward_service.errors import ConfigError


def config(tmp_path, text):
    path = tmp_path / "rewards.yaml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def test_packaged_rewards():
    """The rewards of the package are those that the documentation names."""
    assert {"banana", "sentiment", "valence", "optimism", "banana_answer"} <= set(read_config(None).rewards)


def test_build_order(tmp_path):
    """The parts of a composite are built before it."""
    rewards = config(
        tmp_path,
        "rewards:\n  sum: {kind: composite, parts: {a: {}}}\n  a: {kind: function, object: 'm:f'}\n",
    )
    assert build_order(rewards) == ["a", "sum"]


def test_function_shorthand(tmp_path):
    """A string stands for a function reward."""
    mine = config(tmp_path, 'rewards: {mine: "package.module:object"}').rewards["mine"]
    assert (mine.kind, mine.object) == ("function", "package.module:object")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rewards: {a: {kind: rule, chekcs: []}}", "did you mean 'checks'"),
        ("rewards: {a: {kind: rle, checks: []}}", "rewards.a: there is no kind 'rle'; did you mean 'rule'"),
        ("rewards: {}", "rewards"),
        ("rewards: [", "is not YAML"),
        (
            "rewards: {a: {kind: composite, parts: {b: {}}}, bb: {kind: function, object: 'm:f'}}",
            "did you mean 'bb'",
        ),
        (
            "rewards: {a: {kind: composite, parts: {b: {}}}, b: {kind: composite, parts: {a: {}}}}",
            "depend on each other",
        ),
        ("default: [x]\nrewards: {a: {kind: function, object: 'm:f'}}", "default names 'x'"),
        ("rewards:\n  a: {kind: function, object: 'm:f'}\n  a: {kind: function, object: 'm:f'}", "duplicate key 'a'"),
        ("rewards: {a: {kind: function, object: 'm:f', description: 2024-02-30}}", "day is out of range"),
        ("rewards: {a: {kind: classifier, model: m, labels: {x: .inf}}}", "finite"),
        ("rewards: {a: {kind: regressor, model: m, scale: .nan}}", "finite"),
        ("rewards: {a: {kind: function, object: 'm:f', range: [1, 0]}}", "the lower end comes first.*got \\[1, 0\\]"),
        ("rewards: {a: {kind: function, object: 'm:f', range: [0, .nan]}}", "neither is NaN"),
        ("rewards: {'A b': {kind: function, object: 'm:f'}}", "pattern"),
        ("rewards: {a: {kind: function, object: 'm:f', aliases: [a]}}", "two rewards have the name 'a'"),
        ("dialects: {a: {opne: true}}\nrewards: {a: {kind: function, object: 'm:f'}}", "did you mean 'open'"),
        ("dialects: {a: {end_of_turn: ['']}}\nrewards: {a: {kind: function, object: 'm:f'}}", "end_of_turn"),
    ],
)
def test_wrong_configuration(tmp_path, text, message):
    """A wrong configuration is reported in one sentence."""
    with pytest.raises(ConfigError, match=message) as caught:
        config(tmp_path, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("reward: {}", "did you mean 'rewards'?"),
        ("rewards: {a: {kind: regressor, model: m, scal: 2}}", "did you mean 'scale'?"),
        ("rewards: {a: {kind: rule, checks: [], scal: 2}}", ""),
        ("rewards: {rule: {kind: classifier, model: m, labels: {P: 1}, lables: {}}}", "did you mean 'labels'?"),
        ("rewards: {a: {kind: composite, parts: {rule: {wieght: 1}}}}", "did you mean 'weight'?"),
        ("rewards: {a: {kind: composite, parts: {rule: {labels: 1}}}}", ""),
        ("rewards: {a: {kind: composite, parts: {b: {}}, gates: [{at_most: 1}]}}", "did you mean 'at_least'?"),
        ("rewards: {a: {kind: composite, parts: {b: {}}, weight: 1}}", ""),
    ],
)
def test_hint_is_of_the_same_kind(tmp_path, text, hint):
    """The hint for an unknown key is a key that is allowed in its place, or there is none."""
    with pytest.raises(ConfigError, match="unknown key") as caught:
        config(tmp_path, text)
    assert str(caught.value).partition("; ")[2] == hint


def test_missing_file(tmp_path):
    """A missing configuration file is a `ConfigError`."""
    with pytest.raises(ConfigError, match="No such file"):
        read_config(tmp_path / "nowhere.yaml")


def test_yaml_anchors_and_merges(tmp_path):
    """YAML's anchors and merge keys work."""
    text = (
        "rewards: {a: &rule {kind: function, object: 'm:f'}, b: {<<: *rule, object: 'm:g'}, c: *rule,"
        " sum: {kind: composite, parts: {a: &half {weight: 0.5}, b: &no {<<: *half, weight: 0},"
        " c: {<<: *no, clip: [0, 1]}}}}"
    )
    rewards = config(tmp_path, text).rewards
    assert [rewards[name].object for name in "abc"] == ["m:f", "m:g", "m:f"]
    assert rewards["sum"].parts["c"].model_dump() == {"description": "", "weight": 0.0, "clip": (0.0, 1.0)}


def test_subset(tmp_path):
    """A subset holds the named rewards and what they are made of, and the defaults among them, or else the first."""
    text = (
        "default: [b]\nrewards:\n"
        "  top: {kind: composite, parts: {sum: {}}, gates: [{reward: b, at_least: 0, otherwise: 0}]}\n"
        "  sum: {kind: composite, parts: {a: {}}}\n  a: 'm:a'\n  b: 'm:b'\n  c: 'm:c'\n"
    )
    whole = config(tmp_path, text)
    assert whole.subset([]) is whole
    assert (list(whole.subset(["top"]).rewards), whole.subset(["top"]).default) == (["top", "sum", "a", "b"], ["b"])
    assert (list(whole.subset(["c", "a"]).rewards), whole.subset(["c", "a"]).default) == (["a", "c"], ["c"])
    with pytest.raises(ConfigError, match=r"there is no reward 'summ' \(there are: top, .*\); did you mean 'sum'\?"):
        whole.subset(["summ"])


def test_other_names(tmp_path):
    """A reward's other names are its aliases and its model, which several rewards may share."""
    text = "rewards: {a: {kind: regressor, model: m, aliases: [x, m]}, b: {kind: regressor, model: m}}"
    assert config(tmp_path, text).other_names() == {"x": ["a"], "m": ["a", "b"]}


@pytest.mark.parametrize(
    ("dialects", "options"),
    [
        ("[a, b]", {"a": DialectOptions(), "b": DialectOptions()}),
        (
            "{a: , b: {open: true, end_of_turn: [</s>]}}",
            {"a": DialectOptions(), "b": DialectOptions(open=True, end_of_turn=("</s>",))},
        ),
        ("[]", {}),
        ("", None),
    ],
)
def test_dialects(tmp_path, dialects, options):
    """`dialects` is a list of names or a mapping to options; without it, all are served."""
    read = config(tmp_path, f"dialects: {dialects}\nrewards: {{a: {{kind: function, object: 'm:f'}}}}").dialects
    assert read == options


@pytest.mark.parametrize("label", ["yes", "no", "on", "off", "0", "null", "1.5", "2024-01-01", "~"])
def test_labels_are_names(tmp_path, label):
    """A label called yes, no, on or 0 is that name, not what YAML makes of the word."""
    file = tmp_path / "rewards.yaml"
    file.write_text(f"rewards: {{judge: {{kind: classifier, model: m, labels: {{{label}: 1.0, '*': 0.0}}}}}}")
    assert dict(read_config(file).rewards["judge"].labels) == {label: 1.0, "*": 0.0}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{kind: classifier, model: m, labels: {a: 1}, value: mean}", "rewards.judge.value: "),
        ("{kind: classifier, model: m, labels: {a: 1}, after: no}", "rewards.judge.after: a text is needed here"),
        ("{kind: classifier, model: m, labels: {a: 1}, gate: 1}", "unknown key rewards.judge.gate"),
        ("{kind: regressor, model: m, turns: last, input: chat}", "turns does not apply to input: chat"),
        ("{kind: regressor, model: m, end: true}", "end applies to input: text alone"),
        ("{kind: regressor, model: m, truncate: prompt}", "truncate: prompt needs an input that reads the prompt"),
        ("{kind: regressor, model: m, system: fold}", "template_args and system apply to input: chat alone"),
    ],
)
def test_sentences(tmp_path, spec, message):
    """An error names the key as it stands in the file, and what to do."""
    file = tmp_path / "rewards.yaml"
    file.write_text(f"rewards: {{judge: {spec}}}")
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert message in str(caught.value)
    assert "classifier.value" not in str(caught.value)
