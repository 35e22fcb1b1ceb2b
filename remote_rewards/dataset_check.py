"""Check before a run that its rewards can read the dataset, rather than in its first step.

In: what the rewards read, as the services describe it, and rows as TRL takes them. A column that is read must be JSON;
a prompt that a model reads must be text.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from remote_rewards.transport import encode
from shared.errors import UnreadablePrompt
from shared.schemas import RewardInfo, ServiceInfo

CHECKED_ROWS = 64
"""Number of rows that are checked: a dataset may be larger than memory."""
NOT_COLUMNS = {"prompt", "completion", "completion_ids"}
"""Keys of a row that TRL does not pass on as columns."""
IMAGE_COLUMNS = ("image", "images")
"""Columns whose pictures TRL puts into the prompts."""
MODEL_KINDS = {"classifier", "regressor", "similarity"}
"""Kinds of rewards that read text alone."""

Row = Mapping[str, Any]


def check_dataset(rewards: Iterable[tuple[RewardInfo, ServiceInfo]], dataset: Iterable[Row]) -> None:
    """Check the first rows of a dataset for each reward of a service. Raises as `check_rows`."""
    rows = list(islice(dataset, CHECKED_ROWS))
    for reward, service in rewards:
        check_rows(reward, {served.name: served for served in service.rewards}, rows)


def check_rows(reward: RewardInfo, served: Mapping[str, RewardInfo], rows: Sequence[Row]) -> None:
    """Raise `NotSerializable` or `UnreadablePrompt` for what a reward reads of the rows and cannot be sent or read."""
    names = dict.fromkeys(name for row in rows for name in row if name not in NOT_COLUMNS)
    columns = {
        name: [row.get(name) for row in rows] for name in names if reward.columns is None or name in reward.columns
    }
    encode({"columns": columns})
    if not reward.reads_prompts:
        return
    for model in models_reading_prompts(reward, served):
        for index, row in enumerate(rows):
            for kind in unreadable_parts(row):
                raise UnreadablePrompt(
                    f"the prompt in row {index} of the dataset has a part of the kind {kind!r}, and the reward "
                    f"{model.name!r} reads text alone: leave the part out, or use a reward that does not read prompts"
                )
    encode({"prompts": [[row.get("prompt"), *pictures(row)] for row in rows]})


def models_reading_prompts(reward: RewardInfo, served: Mapping[str, RewardInfo]) -> Iterator[RewardInfo]:
    """Yield the models that a reward asks, itself or as the parts of a composite, and that read the prompts."""
    if reward.kind in MODEL_KINDS and reward.reads_prompts:
        yield reward
    for part in reward.parts:
        if part in served:
            yield from models_reading_prompts(served[part], served)


def unreadable_parts(row: Row) -> Iterator[str]:
    """Yield the kinds of the parts of a row's prompt that are no text."""
    yield from ("image" for _ in pictures(row))
    prompt = row.get("prompt")
    for message in prompt if isinstance(prompt, Sequence) and not isinstance(prompt, str) else ():
        content = message.get("content")
        for part in content if isinstance(content, Iterable) and not isinstance(content, str) else ():
            if not isinstance(part.get("text"), str):
                yield str(part.get("type", "unknown"))


def pictures(row: Row) -> list[Any]:
    """Return the pictures that TRL puts into a row's prompt."""
    one, several = (row.get(name) for name in IMAGE_COLUMNS)
    return [*([] if one is None else [one]), *([] if several is None else several)]
