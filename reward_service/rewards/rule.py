"""Score with a rule: each text is scored alone, so a text that makes the rule fail has no effect on the others."""

import asyncio
import functools
import hashlib
import inspect
from collections.abc import Sequence

from reward_service.errors import ConfigError
from reward_service.rewards import rules
from reward_service.rewards.base import Items, Reward, Scores
from reward_service.specs import RuleSpec
from shared.errors import did_you_mean
from shared.schemas import ItemError, RewardInfo


class RuleReward(Reward):
    """A pure function of the completion's text. The score is the sum of its named parts."""

    def __init__(self, name: str, spec: RuleSpec) -> None:
        if spec.function not in rules.RULES:
            known = ", ".join(sorted(rules.RULES))
            hint = did_you_mean(spec.function, set(rules.RULES))
            raise ConfigError(f"rewards.{name}: there is no rule {spec.function!r} (there are: {known}){hint}")
        rule = rules.RULES[spec.function]
        self._function = rule.function
        self.info = RewardInfo(
            name=name,
            kind=spec.kind,
            description=spec.description or inspect.getdoc(rule.function) or "",
            revision="rule:" + hashlib.sha256(f"{spec.function}\n{_rules_source()}".encode()).hexdigest()[:16],
            range=rule.range,
            columns=[],
            reads_prompts=False,
        )

    async def score(self, items: Items) -> Scores:
        """Score on a thread, so that a long text does not hold up the event loop."""
        return await asyncio.to_thread(self._score, items.completions)

    def _score(self, texts: Sequence[str]) -> Scores:
        result = Scores(scores=[None] * len(texts), details=[None] * len(texts))
        for index, text in enumerate(texts):
            try:
                parts = self._function(text)
            except Exception as error:  # whatever a rule raises concerns this text alone
                result.errors[index] = ItemError(code="rule_failed", message=f"{type(error).__name__}: {error}")
            else:
                result.scores[index], result.details[index] = sum(parts.values()), dict(parts)
        return result


@functools.cache
def _rules_source() -> str:
    """Return the source of all rules, since they share constants. Read once: an upgrade may change the file later."""
    return inspect.getsource(rules)
