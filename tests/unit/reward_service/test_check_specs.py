"""A mistake in a check is reported in one sentence that names the key as it stands in the file."""

import pytest

from reward_service.config import read_config
from reward_service.errors import ConfigError


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ("[]", "rewards.judge.checks: List should have at least 1 item"),
        ("{check: json, points: 1}", "rewards.judge.checks: Input should be a valid list"),
        (
            "[{check: start_with}]",
            "rewards.judge.checks.0: there is no check 'start_with'; did you mean 'starts_with'?",
        ),
        ("[{text: a, points: 1}]", "rewards.judge.checks.0: `check` is missing"),
        ("[{check: json, points: 1}, {check: contains, txet: a}]", "unknown key rewards.judge.checks.1.txet; did you"),
        ("[{check: json, shema: {}, points: 1}]", "unknown key rewards.judge.checks.0.shema; did you mean 'schema'?"),
        ("[{check: length, unit: words, case: ignore, max: 1}]", "unknown key rewards.judge.checks.0.case"),
        ("[{check: contains, text: yes, points: 1}]", "rewards.judge.checks.0.text.0: a text is needed here"),
        ("[{check: contains, text: '', points: 1}]", "rewards.judge.checks.0.text.0: String should have at least 1"),
        ("[{check: contains, text: [], points: 1}]", "rewards.judge.checks.0.text: Value should have at least 1 item"),
        ("[{check: contains, text: a}]", "rewards.judge.checks.0: say what it gives: points if it holds"),
        ("[{check: contains, points: 1}]", "rewards.judge.checks.0: give either text or the column that holds it"),
        ("[{check: equals, text: a, column: a, points: 1}]", "rewards.judge.checks.0: give either text or the column"),
        ("[{check: json, points: .inf}]", "rewards.judge.checks.0.points: Input should be a finite number"),
        ("[{check: length, unit: words, max: 3}]", "say what it gives: points or otherwise, with min or max; or a f"),
        ("[{check: length, unit: words, points: 3}]", "say what it gives: points or otherwise, with min or max; or a"),
        ("[{check: length, unit: words, min: 3, max: 2, points: 1}]", "min is 3, above max, which is 2"),
        ("[{check: length, unit: words, factor: 1, points: 1}]", "factor gives points in proportion: it excludes min"),
        ("[{check: length, unit: words, max: 1, points: 1, up_to: 3}]", "up_to applies to factor alone; use max"),
        ("[{check: length, unit: tokens, factor: 1}]", "checks.0.unit: Input should be 'words', 'characters' or 'sent"),
        ("[{check: script, script: klingon, factor: 1}]", "rewards.judge.checks.0.script.0: Input should be 'arabic'"),
        ("[{check: json, points: 1}, {check: json, points: 2}]", "two checks are called 'json'; give each a name"),
        ("[{check: number, column: a, tolerance: -1, points: 1}]", "checks.0.tolerance: Input should be greater"),
        ("[{check: json, schema: {type: objekt}, points: 1}]", "checks.0.schema: this is no JSON schema: "),
        ("[{check: json, schema: {$ref: 'http://127.0.0.1/a'}, points: 1}]", "this is no JSON schema: "),
        ("[{check: json, schema: {pattern: '(?=a)'}, points: 1}]", "this is no JSON schema: "),
    ],
)
def test_wrong_checks(tmp_path, checks, message):
    """A wrong check keeps the configuration from being read."""
    assert message in error(tmp_path, checks)


@pytest.mark.parametrize(
    "pattern", ["(a)\\1", "(?=a)b", "(?<!a)b", "(", "*a", "[b-a]", "\\p{Klingon}", "(a{999}){999}"]
)
def test_refused_patterns(tmp_path, pattern):
    """A pattern that RE2 cannot match is refused with the reason, and with the way out."""
    message = error(tmp_path, f"[{{check: regex, pattern: '{pattern}', points: 1}}]")
    assert "rewards.judge.checks.0.pattern: RE2, which never backtracks, cannot match" in message
    assert "can be a reward function" in message


def error(folder, checks):
    (folder / "rewards.yaml").write_text(f"rewards: {{judge: {{kind: rule, checks: {checks}}}}}")
    with pytest.raises(ConfigError) as caught:
        read_config(folder / "rewards.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)
