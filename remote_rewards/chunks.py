"""Turn a call into the requests to send: what its rewards read, in chunks for the replicas and within their limits.

Pure functions. A call is never cut inside what one of its rewards compares.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from remote_rewards.transport import encode
from shared.errors import BadRequest
from shared.schemas import Limits, RewardInfo, Scope, ServiceInfo, strictest_scope

Columns = Mapping[str, Sequence[Any]]
Chunk = tuple[bytes, int]
"""The body of a request, and its number of completions."""
Piece = tuple[dict[str, Any], Sequence[int]]
"""A part of a request, and where it may be cut."""
TRAINER_STATE = "trainer_state"
MIN_CHUNK_TEXTS = 16
"""Fewest texts worth a request of their own, where the speed of the reward is unknown."""
MIN_CHUNK_S = 0.02
"""Shortest computation worth a request of its own, which costs client and service about a millisecond."""
ROW_CHARS = 16
"""What a text costs beside its characters, in characters: special tokens and padding."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the rewards of a call read, and what they compare."""

    rewards: tuple[str, ...]
    columns: frozenset[str] | None
    """None: any."""
    prompts: bool
    scope: Scope
    min_chunk_texts: float = field(default=MIN_CHUNK_TEXTS, compare=False)
    """Fewest texts worth a request of their own."""

    @classmethod
    def of(cls, info: ServiceInfo, rewards: Sequence[str] | None) -> "Reading":
        """Return what the named rewards read, by default the service's default ones. Unknown names are left out."""
        names = info.default if rewards is None else rewards
        infos: list[RewardInfo] = [reward for reward in info.rewards if reward.name in names]
        columns = [reward.columns for reward in infos]
        return cls(
            rewards=tuple(reward.name for reward in infos),
            columns=None if None in columns else frozenset(name for names in columns for name in names or ()),
            prompts=any(reward.reads_prompts for reward in infos),
            scope=strictest_scope(reward.scope for reward in infos),
            min_chunk_texts=min(map(min_chunk_texts, infos), default=MIN_CHUNK_TEXTS),
        )

    def reads(self, column: str) -> bool:
        """Return whether one of the rewards reads a column, `completion_ids` or `trainer_state`."""
        return self.columns is None or column in self.columns


@dataclass(frozen=True, slots=True)
class ScoreCall:
    """The arguments of one call."""

    completions: Sequence[Any]
    prompts: Sequence[Any] | None = None
    columns: Columns | None = None
    rewards: Sequence[str] | None = None
    details: bool = False
    trainer_state: Mapping[str, Any] | None = None

    def chunks(self, reading: Reading, limits: Limits, replicas: int = 1) -> list[Chunk]:
        """Encode what the rewards read, as one body or as several: one for each replica if that is worth it.

        Raise `BadRequest` if it is too large and must not be cut, and `NotSerializable` if JSON cannot represent it.
        """
        request = self.request(reading)
        cuts = allowed_cuts(self.prompts, len(self.completions), reading.scope)
        parts = min(replicas, math.ceil(len(self.completions) / reading.min_chunk_texts))
        try:
            return [
                chunk
                for part, inside in spread(request, cuts, parts)
                for chunk in split(
                    part, max_texts=limits.max_request_texts, max_bytes=limits.max_body_bytes, cuts=inside
                )
            ]
        except Indivisible as error:
            raise BadRequest(_refusal(reading, limits, error.count), status=413, code="too_large") from None

    def request(self, reading: Reading) -> dict[str, Any]:
        """Return the body of the whole call, without what no reward reads."""
        columns = {name: list(values) for name, values in (self.columns or {}).items() if reading.reads(name)}
        fields = {
            "completions": list(self.completions),
            "prompts": list(self.prompts) if self.prompts is not None and reading.prompts else None,
            "columns": columns or None,
            "rewards": None if self.rewards is None else list(self.rewards),
            "details": self.details or None,
            TRAINER_STATE: self.trainer_state if reading.reads(TRAINER_STATE) else None,
        }
        return {name: value for name, value in fields.items() if value is not None}


class Indivisible(Exception):
    """Completions that belong together do not fit into one request."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


def allowed_cuts(prompts: Sequence[Any] | None, count: int, scope: Scope) -> Sequence[int]:
    """Return the indices at which a call may be cut, in order: adjacent equal prompts are one group."""
    if scope == "completion":
        return range(1, count)
    if scope == "batch" or prompts is None:
        return ()
    keys = [repr(prompt) for prompt in prompts]
    return [index for index in range(1, count) if keys[index] != keys[index - 1]]


def min_chunk_texts(reward: RewardInfo) -> float:
    """Return the fewest texts that are worth a request of their own; infinity for a rule, which takes no time."""
    if reward.kind == "rule":
        return math.inf
    if reward.engine is None or reward.engine.texts_per_s is None:
        return MIN_CHUNK_TEXTS
    return max(1.0, reward.engine.texts_per_s * MIN_CHUNK_S)


def spread(request: dict[str, Any], cuts: Sequence[int], parts: int) -> list[Piece]:
    """Cut a request into at most so many parts of about as many characters. Return each with the cuts inside of it."""
    if parts <= 1 or not cuts:
        return [(request, cuts)]
    weights = [ROW_CHARS + _chars(completion) for completion in request["completions"]]
    for index, prompt in enumerate(request.get("prompts", ())[: len(weights)]):
        weights[index] += _chars(prompt)
    edges: list[int | None] = [0, *balanced_cuts(weights, cuts, parts), None]  # None: a list that is too long stays so
    pieces: list[Piece] = []
    for start, end in itertools.pairwise(edges):
        inside = [cut - (start or 0) for cut in cuts if (start or 0) < cut < (end or len(weights))]
        pieces.append((_slice(request, slice(start, end)), inside))
    return pieces


def balanced_cuts(weights: Sequence[int], cuts: Sequence[int], parts: int) -> list[int]:
    """Return at most `parts - 1` of the allowed cuts, between which the weights have about the same sum."""
    before = [0, *itertools.accumulate(weights)]
    chosen = set()
    for part in range(1, parts):
        target = before[-1] * part / parts
        position = bisect_left(cuts, target, key=before.__getitem__)
        nearest = cuts[max(0, position - 1) : position + 1]
        chosen.add(min(nearest, key=lambda cut, target=target: abs(before[cut] - target)))  # type: ignore[misc]
    return sorted(chosen)


def _chars(text: Any) -> int:
    return len(text) if isinstance(text, str) else len(repr(text))


def split(
    request: Mapping[str, Any], *, max_texts: int, max_bytes: int, cuts: Sequence[int] | None = None
) -> list[Chunk]:
    """Encode a request as one body or as several within the limits, in order, cut at `cuts` or, by default, anywhere.

    A single completion over the limit is sent alone, so that the service can report the error. Raise `Indivisible` if
    several are over the limit and must not be cut.
    """
    count = len(request["completions"])
    cuts = range(1, count) if cuts is None else cuts
    if count <= max_texts or count <= 1:
        body = encode(request)
        if len(body) <= max_bytes or count <= 1:
            return [(body, count)]
    if not cuts:
        raise Indivisible(count)
    position = min(bisect_left(cuts, count // 2), len(cuts) - 1)
    middle = cuts[position]
    left = split(_slice(request, slice(None, middle)), max_texts=max_texts, max_bytes=max_bytes, cuts=cuts[:position])
    after = range(1, count - middle) if isinstance(cuts, range) else [cut - middle for cut in cuts[position + 1 :]]
    right = split(_slice(request, slice(middle, None)), max_texts=max_texts, max_bytes=max_bytes, cuts=after)
    return left + right


def _slice(request: Mapping[str, Any], items: slice) -> dict[str, Any]:
    part = {**request, "completions": request["completions"][items]}
    if "prompts" in request:
        part["prompts"] = request["prompts"][items]
    if "columns" in request:
        part["columns"] = {name: values[items] for name, values in request["columns"].items()}
    return part


def _refusal(reading: Reading, limits: Limits, count: int) -> str:
    compared = "completions of a prompt" if reading.scope == "group" else "completions of a call"
    return (
        f"{count} completions do not fit into one request of at most {limits.max_request_texts} texts and "
        f"{limits.max_body_bytes} bytes, and must not be cut, since the {compared} are compared by one of the rewards "
        f"{', '.join(reading.rewards)}: declare the function `rows: independent` or `scope: group` in rewards.yaml if "
        f"that is right, or raise the service's MAX_REQUEST_TEXTS and MAX_BODY_BYTES"
    )
