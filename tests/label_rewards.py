"""Rewards with labels, logits and token counts worked out by hand, and an application that serves them."""

import asyncio
import contextlib

import httpx

from reward_service.app import create_app
from reward_service.errors import Overloaded
from reward_service.rewards.base import Reward, Scores
from reward_service.settings import Settings
from shared.schemas import ItemError, RewardInfo

KEY = "a-key-of-many-letters"


class LabelReward(Reward):
    """Reads words as tokens, 10 at most. The logits are (-words, words), the score is the second one's probability."""

    healthy = True
    overloaded = False

    def __init__(self, name, kind="classifier", activation="softmax", labels=("NEGATIVE", "POSITIVE")):
        known = {"description": "", "revision": "1", "max_tokens": 10, "reads_prompts": False}
        self.info = RewardInfo(name=name, kind=kind, labels=labels, activation=activation, **known)

    def check_deadline(self, deadline_s):
        if self.overloaded:
            raise Overloaded("a backlog", retry_after_s=7.0)

    async def score(self, items):
        result = Scores(scores=[], details=[None] * len(items))
        for index, text in enumerate(items.completions):
            words = text.split()
            result.tokens.append(min(10, len(words)))
            result.logits.append([-1.0 * len(words), 1.0 * len(words)])
            result.scores.append(None if text == "null" else 0.25 * len(words))
            if text == "null":
                result.errors[index] = ItemError(code="backend_failed", message="it broke")
            elif len(words) > 10:
                result.truncated.append(index)
        return result


class RuleLike(LabelReward):
    """A reward without a model."""

    async def score(self, items):
        result = await super().score(items)
        result.logits, result.tokens, result.truncated = [], [], []
        return result


def label_rewards():
    """Return one reward of each sort: labels, several labels at once, one value with and without a model."""
    return {
        "mood": LabelReward("mood"),
        "tags": LabelReward("tags", activation="sigmoid"),
        "rating": LabelReward("rating", kind="regressor", activation="sigmoid", labels=["LABEL_0"]),
        "length": RuleLike("length", kind="rule", activation=None, labels=[]),
    }


@contextlib.asynccontextmanager
async def serving_labels(rewards=None, **settings):
    """Serve the rewards in this process; yield an HTTP client."""
    app = create_app(Settings(**settings), rewards or label_rewards())
    ready = asyncio.Event()
    app.state.lifecycle.on_ready = ready.set
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.state.lifecycle.running(), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        await ready.wait()
        yield client
