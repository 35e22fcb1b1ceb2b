"""A service with checks, columns and mathematical answers."""

import math_verify
import pytest

from remote_rewards import RewardClient
from reward_service.settings import Settings
from tests.conftest import running_service

CONFIG = r"""
rewards:
  format:
    kind: rule
    checks:
      - {name: thinks, check: regex, pattern: '(?s)^<think>.*</think>', points: 0.5}
      - {name: right, check: equals, column: answer, after: </think>, case: ignore, points: 1.0}
  correct: {kind: math, column: solution, timeout_s: 60, points: 1.0, otherwise: -1.0}
  hasty: {kind: math, column: solution, timeout_s: 4}
  thought: {kind: math, column: solution, after: </think>}
  both:
    kind: composite
    parts: {format: {weight: 1.0}, correct: {weight: 2.0}}
"""
HANGS = r"The answer is $9^{9^{9^{9}}}$."
ANSWERS = [
    (r"so $\frac{1}{2}$", "0.5"),
    (r"\boxed{x^2 + 2x + 1}", "$(x+1)^2$"),
    ("The answer is 42.", "$42$"),
    ("The answer is 41.", "$42$"),
    (r"$2\sqrt{3}$", r"$2\sqrt{3}$"),
    ("2", r"$2\sqrt{3}$"),
    (r"$x \in (1, 2)$", "$(1,2)$"),
    ("", "$1$"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of the service."""
    config = tmp_path_factory.mktemp("rules") / "rewards.yaml"
    config.write_text(CONFIG)
    with running_service(Settings(config=config)) as url, RewardClient(url) as client:
        yield client


def test_columns_and_parts(client):
    """Checks and mathematics read their columns, and a composite adds them."""
    texts = ["<think>easy</think> Paris $4$", "<think>\n</think>\nPARIS", "Paris"]
    result = client.score(
        texts, columns={"answer": ["Rome", "Paris", "Paris"], "solution": [4, "4", None]}, rewards=["format", "both"]
    )
    assert result.rewards["format"].scores == [0.5, 1.5, 0.0]
    assert result.rewards["both"].scores == [2.5, -0.5, None]
    assert result.rewards["both"].errors["2"].code == "not_applicable"


def test_info(client):
    """The service tells which columns its rewards read, and their ranges."""
    infos = {info.name: info for info in client.info().rewards}
    assert {name: (info.columns, info.range) for name, info in infos.items()} == {
        "format": (["answer"], (0.0, 1.5)),
        "correct": (["solution"], (-1.0, 1.0)),
        "hasty": (["solution"], (0.0, 1.0)),
        "thought": (["solution"], (0.0, 1.0)),
        "both": (["answer", "solution"], (-2.0, 3.5)),
    }


def test_missing_columns(client):
    """Without its column every item of a reward is an error that names the column."""
    result = client.score(["Paris"], rewards=["format", "correct"]).rewards
    errors = [result[name].errors["0"] for name in ("format", "correct")]
    assert [error.code for error in errors] == ["column_needed"] * 2
    assert "'answer'" in errors[0].message
    assert "'solution'" in errors[1].message


def test_math_verify(client):
    """A verdict is the one of math-verify called directly."""
    texts, solutions = zip(*ANSWERS, strict=True)
    parsed = [(math_verify.parse(solution), math_verify.parse(text)) for text, solution in ANSWERS]
    direct = [1.0 if math_verify.verify(solution, text) else -1.0 for solution, text in parsed]
    served = client.score(list(texts), columns={"solution": solutions}, rewards=["correct"]).rewards["correct"]
    assert served.scores == direct
    assert set(direct) == {1.0, -1.0}


def test_thinking_apart(client):
    """The answer of a message that has its thinking in a field of its own is compared as if a tag had closed it."""
    apart = [{"role": "assistant", "content": "It is 4.", "reasoning_content": "2 plus 2, or 5?"}]
    texts = [apart, "5?</think>It is 4.", "It is 4."]
    result = client.score(texts, columns={"solution": ["4"] * 3}, rewards=["thought"]).rewards["thought"]
    assert result.scores == [1.0, 1.0, 0.0]


def test_hanging_answer(client):
    """An answer that would be computed for ever costs only its own item, and the next call is served."""
    texts = ["It is 9.", HANGS, "It is 8."]
    result = client.score(texts, columns={"solution": ["9"] * 3}, rewards=["hasty"]).rewards["hasty"]
    assert result.scores == [1.0, None, 0.0]
    assert result.errors["1"].code == "function_timeout"
    assert client.score(["9"], columns={"solution": ["9"]}, rewards=["hasty"]).rewards["hasty"].scores == [1.0]
