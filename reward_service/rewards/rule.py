"""Score with a rule: each text is scored alone, so a text on which a check fails has no effect on the others."""

import asyncio
import functools
import hashlib
import importlib.metadata
import inspect
import json
import unicodedata

from reward_service.rewards import checks, patterns, text_measures
from reward_service.rewards.base import Items, Reward, Scores, column_errors, finite_range
from reward_service.rewards.checks import NotApplicable, compile_check
from reward_service.specs import RuleSpec
from reward_service.text import answer_apart
from shared.schemas import ItemError, RewardInfo

LIBRARIES = ("google-re2", "jsonschema-rs", "pydantic-core")


class RuleReward(Reward):
    """A list of checks of the completion's text. The score is the sum of their points, in their order."""

    def __init__(self, name: str, spec: RuleSpec) -> None:
        self._checks = [(check.name, check.column, check.points) for check in map(compile_check, spec.checks)]
        self._after = [
            (check.after, compile_check(check.model_copy(update={"after": None})))
            for check in spec.checks
            if check.after is not None
        ]
        lows, highs = zip(*(check.bounds for check in spec.checks), strict=True)
        self.info = RewardInfo(
            name=name,
            kind=spec.kind,
            description=spec.description,
            revision=f"rule:{revision(spec)}",
            range=finite_range((sum(lows), sum(highs))),
            columns=sorted({column for _, column, _ in self._checks if column is not None}),
            reads_prompts=False,
        )

    async def score(self, items: Items) -> Scores:
        """Score on a thread, so that a long text does not hold up the event loop."""
        if failed := column_errors(self.info, items):
            return failed
        return await asyncio.to_thread(self.score_texts, items)

    def score_texts(self, items: Items) -> Scores:
        """Score every text, with the columns that the checks read."""
        result = Scores(scores=[None] * len(items), details=[None] * len(items))
        checks = [(name, points, items.columns[column] if column else None) for name, column, points in self._checks]
        for index, text in enumerate(items.completions):
            try:
                parts = {name: points(text, column and column[index]) for name, points, column in checks}
                if self._after:
                    parts |= self._parts_of_answer(items, index)
            except NotApplicable as reason:
                result.errors[index] = ItemError(code="not_applicable", message=f"{self.info.name} {reason}")
            except Exception as error:  # whatever a check raises concerns this text alone
                result.errors[index] = ItemError(code="rule_failed", message=f"{type(error).__name__}: {error}")
            else:
                result.scores[index], result.details[index] = sum(parts.values()), dict(parts)
        return result

    def _parts_of_answer(self, items: Items, index: int) -> dict[str, float]:
        """Return the points of those checks that read after a tag which the completion does not need."""
        parts: dict[str, float] = {}
        for tag, check in self._after:
            answer = answer_apart(items.chats[index], tag) if items.chats else None
            if answer is not None:
                value = items.columns[check.column][index] if check.column else None
                parts[check.name] = check.points(answer, value)
        return parts

    @property
    def accepts_canary(self) -> bool:
        """Return whether a text without columns can be scored."""
        return not self.info.columns


def revision(spec: RuleSpec) -> str:
    """Hash the checks, their code, and the versions of what they compute with."""
    content = spec.model_dump(mode="json", by_alias=True, include={"checks"})
    return hashlib.sha256(f"{json.dumps(content, sort_keys=True)}\n{_code()}".encode()).hexdigest()[:16]


@functools.cache
def _code() -> str:
    """Return the source and the versions. Read once: an upgrade may change the files later."""
    sources = [inspect.getsource(module) for module in (checks, patterns, text_measures)]
    versions = [importlib.metadata.version(library) for library in LIBRARIES]
    return "\n".join([*sources, *versions, unicodedata.unidata_version])
