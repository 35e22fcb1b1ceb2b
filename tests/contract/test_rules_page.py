"""The page on rules: what it tells users to write is what the service reads."""

import asyncio
import re
from pathlib import Path

import pytest
import yaml

from reward_service.check_specs import CHECKS, Check, Measure
from reward_service.config import RewardsConfig
from reward_service.rewards.base import Items
from reward_service.rewards.rule import RuleReward

PAGE = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \|.*\| `(\{.*\})` \|$", PAGE, flags=re.MULTILINE))
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
COLUMNS = {"answer": ["4"]}


@pytest.mark.parametrize("check", CHECKS)
def test_samples(check):
    """Every check has a row with a sample that scores a text."""
    sample = yaml.safe_load(ROWS[check])
    assert sample["check"] == check
    config = RewardsConfig.model_validate({"rewards": {"judge": {"kind": "rule", "checks": [sample]}}})
    result = asyncio.run(RuleReward("judge", config.rewards["judge"]).score(Items(["It is 4."], columns=COLUMNS)))
    assert result.scores[0] is not None


def test_keys_are_described():
    """The page describes every key of every check."""
    common = {*Check.model_fields, *Measure.model_fields, "case"}
    own = {field.alias or key for check in CHECKS.values() for key, field in check.model_fields.items()} - common
    first_column = {key for row in re.findall(r"^\| (`.*?) \|", PAGE, flags=re.MULTILINE) for key in row.split("`")}
    assert common <= first_column
    assert not {key for key in own - {"check"} if not re.search(rf"`{key}\b", PAGE)}


def test_example():
    """The rule that opens the page has the details that the page shows."""
    config = RewardsConfig.model_validate(yaml.safe_load(EXAMPLES[0]))
    text = "<think>Two and two, as everybody who counts on fingers knows, are</think> 4"
    result = asyncio.run(RuleReward("a", config.rewards["answer_format"]).score(Items([text], columns=COLUMNS)))
    details = str(result.details[0]).replace("'", '"')
    assert details in " ".join(PAGE.split())
    assert RewardsConfig.model_validate(yaml.safe_load(EXAMPLES[1])).rewards["correct"].kind == "math"
