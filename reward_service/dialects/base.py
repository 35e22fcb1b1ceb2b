"""The seam for wire formats: what the file of one format defines.

A dialect converts between its own bodies and the native models of `shared.schemas`; it knows nothing of rewards, queues
or the server. Keys, deadlines, limits, metrics and the OpenAPI document work the same on the routes of every dialect.
`foreign.py` has what formats of other servers share.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.responses import Response

from reward_service.errors import RewardServiceError
from shared import schemas
from shared.schemas import RewardInfo, ScoreRequest, ScoreResponse, ServiceInfo

Query = Mapping[str, str]
Context = TypeVar("Context")
Documented = Mapping[int | str, dict[str, Any]]
"""OpenAPI's response objects by status."""


@dataclass(frozen=True, kw_only=True)
class ScoreRoute(Generic[Context]):
    """A POST route that scores texts.

    It scores with one reward: `?reward=` of the URL, else the name in the request's `rewards`, else the default. An
    alias or a reward's `model` is a name, too; the response has the reward's own name.
    """

    path: str
    name: str
    description: str
    parse: Callable[[bytes, Query], tuple[ScoreRequest, Context]]
    """Converts a body to a request and to what `render` needs besides; see `request_body.parse_json`."""
    render: Callable[[ScoreResponse, Context, Mapping[str, RewardInfo]], Response]
    """Converts the scores to a response; the mapping describes the rewards, by name. A format without null raises a
    `RewardServiceError` for a missing score."""
    request_model: type[BaseModel]
    response_model: Any
    example: Any
    """A request body for the OpenAPI document."""
    waits_when_full: bool = False
    """Wait for a place in the queue, up to the deadline, instead of answering `Overloaded`."""
    decodes_special_tokens: bool = False
    """Whether the clients' texts have special tokens. End-of-turn markers are then removed from a completion's end."""
    several_rewards: bool = False
    """Score with all rewards that the request names, by their own names."""


@dataclass(frozen=True, kw_only=True)
class InfoRoute:
    """A route that describes the service. A body is ignored."""

    path: str
    name: str
    description: str
    render: Callable[[ServiceInfo, Query], Response]
    response_model: Any
    method: str = "GET"
    open: bool = False
    """Whether the route needs no API key."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A wire format: its routes and the form of its errors."""

    name: str
    routes: tuple[ScoreRoute[Any] | InfoRoute, ...]
    render_error: Callable[[RewardServiceError, HTTPConnection], Response]
    """Converts any error on a path of this dialect, also those raised before the body is read. Chooses the status, too.

    The connection has the request's path, query and headers, and its id in `state.request_id`.
    """
    error_responses: Documented = field(default_factory=dict)
    """The errors of the scoring routes for the OpenAPI document."""
    sends_keys: bool = True
    """Whether the format's client can send an API key. If not, the 401 names the option `open` of the configuration."""


def json_response(model: BaseModel) -> Response:
    """Return a model as a JSON response."""
    return Response(model.model_dump_json(), media_type=schemas.JSON)
