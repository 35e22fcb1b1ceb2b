"""Serve a rule: each text is scored alone, so one that makes the rule fail costs only itself."""

import asyncio
import hashlib
import inspect
from collections.abc import Sequence

from reward_service.config import RuleSpec
from reward_service.errors import ConfigError
from reward_service.rewards import rules
from reward_service.rewards.base import Items, Scores
from shared.errors import did_you_mean
from shared.schemas import ItemError, RewardInfo

SOURCE = inspect.getsource(rules)
"""The whole module, because a rule reads its constants; as it is imported, whatever an upgrade writes to the file."""


class RuleReward:
    """A pure function over the completion's text; the score is the sum of its parts."""

    def __init__(self, name: str, spec: RuleSpec) -> None:
        if spec.function not in rules.RULES:
            known = ", ".join(sorted(rules.RULES))
            hint = did_you_mean(spec.function, set(rules.RULES))
            raise ConfigError(f"rewards.{name}: there is no rule {spec.function!r} (there are: {known}){hint}")
        self._rule = rules.RULES[spec.function]
        self.info = RewardInfo(
            name=name,
            kind=spec.kind,
            description=spec.description or inspect.getdoc(self._rule) or "",
            revision="rule:" + hashlib.sha256(f"{spec.function}\n{SOURCE}".encode()).hexdigest()[:16],
            range=rules.RANGES[spec.function],
        )

    async def score(self, items: Items) -> Scores:
        """Score on a thread, so that a long text does not hold up the event loop."""
        return await asyncio.to_thread(self._score, items.completions)

    def _score(self, texts: Sequence[str]) -> Scores:
        result = Scores(scores=[None] * len(texts), details=[None] * len(texts))
        for index, text in enumerate(texts):
            try:
                parts = self._rule(text)
            except Exception as error:  # a rule is somebody's code: whatever it raises concerns this text alone
                result.errors[index] = ItemError(code="rule_failed", message=f"{type(error).__name__}: {error}")
            else:
                result.scores[index], result.details[index] = sum(parts.values()), dict(parts)
        return result

    async def start(self) -> None:
        """A rule needs nothing."""

    async def stop(self) -> None:
        """A rule holds nothing."""
