"""The code speaks the field's words: docstrings open with a standard verb, and no name is a retired one."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("remote_rewards", "reward_service", "shared", "trainer", "bench", "scripts")
INSTALLED = ROOT / "bench" / ".peers"
FILES = sorted(
    path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if not path.is_relative_to(INSTALLED)
)
VERBS = {"Give", "Had", "Let", "Say", "Tell"}
"""Docstrings say Return, Load or Raise instead."""
NAMES = set(
    """
    asked began_s begun chance course culprit kept lent multiples patience replies reply say seats sound spoilt stamps
    told latest_s left_s line_s others_s patience_s told_s until_s way within_s

    AT_ONCE Allowance Asked Asker BadAddress BadAnswer BadKey CannotBeSent FIRST_PAUSE_S LONGEST_BROKEN_S LONGEST_FULL_S
    LONGEST_PAUSE_S LONGEST_S LOOK_AGAIN_S Line Lines LoopThread MOST MOST_BYTES MOST_DOUBLINGS NoTurn ON_ITS_WAY_S
    Patience REFUSALS Replicas ServiceBroken ServiceRefused SeveralRevisions TRIES TooManyFailures TooSlow UnsafeAddress
    allowance asker broken_since_s closed_until_s first_answer full_until_s halvings passed_over readable_by_others

    ALWAYS ANOTHER_MODEL CacheUse CallerGone EachKeyOnce Ends FEWEST_TOKENS FEW_CHARS FEW_TEXTS FIRST_SHARE FROM_PADDING
    Fault HEADERS_S HOPELESS HURRY INSTEAD ImpatientProtocol LAST_S LATELY_S LONGEST_BATCH_S LONGEST_BESIDE_SMALL_S
    NothingToRead OVERTAKEN TRY_AGAIN_S UNREAD_S Unable WAITING WAIT_SHARE applies_to blind compute_politely
    compute_thread deadline_of eight_bits hurried in_turns_s keep_freed known_range leave_behind packed_bert
    put_in_integers raising scores_or_why set_by settle_heap turned_away unless_gone until_ended way_of without_upgrade

    ALONE HONOURED Had JUDGES JUMP JointClient PATIENCE_WITH_OTHERS_S Randomness SameOrder agreed agreed_now forget
    handshakes in_turn keep_last known_to_all lost_group measure_learned put_back shake_hands
    store_by_columns stored_by_rows stranger take_single_values STEADY TASTE UNSEEN contenders
    """.split()
)
"""Time is `deadline_s`, `remaining_s`, `started_s` and `delay_s`; what is scored is a completion, a text or an item."""
PREFIX = "refuse"
"""Functions check, validate or raise instead."""


def strings(tree):
    """Yield docstrings, those under a constant or a field, too."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text


def names(tree):
    """Yield the names of classes, functions, parameters, constants, variables and attributes that are defined."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_vocabulary(path):
    """No docstring opens with a retired verb, and nothing has a retired name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [text for text in strings(tree) if text.split(maxsplit=1)[0].strip(",:") in VERBS]
    plain = {name.strip("_") for name in [path.stem, *names(tree)]}
    assert not {name for name in plain if name in NAMES or name.startswith(PREFIX)}
