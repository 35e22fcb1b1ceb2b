"""Score a policy's completions with the service, apart from a training step.

Failures of rewards from which nothing is learned, the watched ones, are logged and stop nothing, as in training.
"""

from collections.abc import Collection, Mapping, Sequence

from remote_rewards import RewardClient
from remote_rewards.failure_budget import exceeds_budget, failed_items
from shared.errors import FailureBudgetExceeded, RewardError
from shared.schemas import ItemError, RewardScores
from trainer.display import log
from trainer.prompts import Row, columns_of


def request_scores(
    client: RewardClient,
    rows: Sequence[Row],
    completions: Sequence[str],
    *,
    rewards: Sequence[str],
    watched: Collection[str],
    revisions: Mapping[str, str] | None,
    failure_budget: float,
    details: bool = False,
) -> tuple[dict[str, RewardScores], dict[str, RewardError]]:
    """Return the scores of one completion for each row by reward, and why watched rewards have none.

    Raises `FailureBudgetExceeded` if too many completions have no score, `RevisionChanged` for another revision.
    """
    messages = [[{"role": "assistant", "content": text}] for text in completions]  # as in training
    prompts, columns = [row["prompt"] for row in rows], columns_of(rows)

    def request(names: Sequence[str]) -> dict[str, RewardScores]:
        return client.score(messages, prompts, columns, rewards=names, details=details, revisions=revisions).rewards

    learned = [name for name in rewards if name not in watched]
    results = request(learned) if learned else {}
    for name, reward in results.items():
        check_failure_budget(name, reward, failure_budget)
    failures: dict[str, RewardError] = {}
    for name in rewards:
        if name in watched:
            try:
                results |= request([name])
            except RewardError as error:
                log(f"no scores of {name}, which is only watched: {error}")
                failures[name] = error
    return results, failures


def no_scores(count: int, revision: str, error: RewardError) -> RewardScores:
    """Return the scores of a reward whose call has failed: none, each with the reason."""
    reason = ItemError(code="call_failed", message=str(error))
    return RewardScores(scores=[None] * count, revision=revision, errors={str(index): reason for index in range(count)})


def check_failure_budget(name: str, reward: RewardScores, budget: float) -> None:
    """Raise `FailureBudgetExceeded` if more completions failed than allowed: their mean would not be the policy's."""
    failed = list(failed_items([reward]).values())
    if exceeds_budget([(len(failed), len(reward.scores))], budget):
        raise FailureBudgetExceeded(
            f"{len(failed)} of {len(reward.scores)} completions have no {name!r} score, more than {budget:.0%} "
            f"allowed; {failed[0].code}: {failed[0].message}"
        )
