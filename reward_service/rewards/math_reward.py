"""Score whether a mathematical answer is right. Worker processes compare, and are killed when they hang."""

import hashlib
import importlib.metadata
import json

from reward_service.rewards.base import Items, Reward, Scores, column_errors
from reward_service.rewards.function import FunctionReward
from reward_service.specs import FunctionSpec, MathSpec
from reward_service.text import after_last, answer_apart
from shared.schemas import RewardInfo

FUNCTION = "reward_service.rewards.math_answers:math_answers"
LIBRARIES = ("math-verify", "latex2sympy2-extended", "sympy")


class MathReward(Reward):
    """`points` for a right answer, `otherwise` for a wrong one, nothing where the column holds no mathematics."""

    accepts_canary = False  # it needs the column

    def __init__(self, name: str, spec: MathSpec) -> None:
        self._spec = spec
        function = FunctionSpec(
            object=FUNCTION, rows="independent", timeout_s=spec.timeout_s, workers=spec.workers, columns=["gold"]
        )
        self._verdicts = FunctionReward(name, function)
        self.info = RewardInfo(
            name=name,
            kind=spec.kind,
            description=spec.description,
            revision=f"math:{revision(spec, self._verdicts.info.revision)}",
            range=(min(spec.points, spec.otherwise), max(spec.points, spec.otherwise)),
            columns=[spec.column],
            reads_prompts=False,
        )

    async def score(self, items: Items) -> Scores:
        """Compare every answer; one that takes too long costs only its own item."""
        if failed := column_errors(self.info, items):
            return failed
        tag, chats = self._spec.after, items.chats or items.completions
        apart = [answer_apart(chat, tag) for chat in chats]
        texts = [
            after_last(text, tag) if answer is None else answer
            for text, answer in zip(items.completions, apart, strict=True)
        ]
        columns = {"gold": items.columns[self._spec.column]}
        verdicts = Items(completions=texts, chats=texts, columns=columns, deadline_s=items.deadline_s)
        result = await self._verdicts.score(verdicts)
        for index, verdict in enumerate(result.scores):
            if verdict is not None:
                result.scores[index] = self._spec.points if verdict else self._spec.otherwise
                result.details[index] = {"correct": verdict}
        return result

    async def stop(self) -> None:
        """End the worker processes."""
        await self._verdicts.stop()


def revision(spec: MathSpec, function_revision: str) -> str:
    """Hash what decides a score: the configuration, the code, and the versions of the libraries that compare."""
    keys = spec.model_dump(mode="json", include={"column", "after", "points", "otherwise"})
    versions = [importlib.metadata.version(library) for library in LIBRARIES]
    content = json.dumps([keys, function_revision, versions], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
