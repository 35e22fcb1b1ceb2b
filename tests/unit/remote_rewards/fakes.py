"""A client without a network, whose rewards score every completion 1.0."""

import asyncio

from shared.schemas import ItemError, RewardScores, ScoreResponse, Timing


def scores_of(completions, codes=None, revision="r"):
    """Return 1.0 for each completion, and an error of the code that `codes` has for it, if any."""
    codes = codes or {}
    errors = {
        str(index): ItemError(code=codes[completion], message="it broke")
        for index, completion in enumerate(completions)
        if completion in codes
    }
    scores = [None if str(index) in errors else 1.0 for index in range(len(completions))]
    return RewardScores(scores=scores, revision=revision, errors=errors)


class FakeClient:
    """`codes` has, by reward, the error code of each completion that it fails on. Notes the rewards of each request."""

    timeout_s = 10.0

    def __init__(self, codes=None, revisions=(), error=None):
        self.codes, self.revisions, self.error = codes or {}, list(revisions), error
        self.retries = 0
        self.requests = []

    def run(self, call):
        return asyncio.run(call)

    async def ascore(self, completions, prompts, columns, rewards, *, revisions, trainer_state=None):
        self.requests.append(rewards)
        revision = self.revisions.pop(0) if self.revisions else "r"
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        scores = {name: scores_of(completions, self.codes.get(name), revision) for name in rewards}
        return ScoreResponse(rewards=scores, request_id="", timing=Timing(queue_ms=0.0, compute_ms=0.0))
