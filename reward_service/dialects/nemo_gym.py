"""NeMo Gym's format, versions 0.4 to 0.7: a resources server with `POST /verify` and `POST /seed_session`.

The agent posts its row with the policy's response, and trains on `reward` of the same object. It retries connections,
but no status: a full queue makes the request wait.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ConfigDict, FiniteFloat
from pydantic_core import to_json
from starlette.responses import Response

from reward_service.dialects.base import Dialect, InfoRoute, Query, ScoreRoute, json_response
from reward_service.dialects.foreign import DETAIL_RESPONSES, only_reward, render_detail
from reward_service.request_body import parse_json
from shared.schemas import JSON, ContentPart, Message, RewardInfo, ScoreRequest, ScoreResponse, ServiceInfo, Wire


class Extensible(Wire):
    """Base of objects with fields of the trainer's own, which are returned."""

    model_config = ConfigDict(extra="allow")


class Item(Extensible):
    """An item of an OpenAI response's input or output: a message if it has a role."""

    role: str | None = None
    content: str | list[ContentPart] | None = None


class CreateParams(Extensible):
    """What the policy was asked."""

    input: str | list[Item]


class PolicyResponse(Extensible):
    """What the policy answered: an OpenAI response."""

    output: list[Item]


class VerifyRequest(Extensible):
    """One rollout. Function rewards get all other fields of the row as columns."""

    responses_create_params: CreateParams
    response: PolicyResponse


class VerifyResponse(VerifyRequest):
    """The request with its reward."""

    reward: FiniteFloat


class SeedSessionResponse(Wire):
    """Nothing: the service keeps no sessions."""


def parse(body: bytes, query: Query) -> tuple[ScoreRequest, VerifyRequest]:
    """Parse a body; the context is the rollout, which is returned."""
    rollout = parse_json(VerifyRequest, body)
    prompt = rollout.responses_create_params.input
    request = ScoreRequest(
        completions=[messages(item for item in rollout.response.output if item.role == "assistant")],
        prompts=[prompt if isinstance(prompt, str) else messages(prompt)],
        columns={name: [value] for name, value in (rollout.model_extra or {}).items()},
    )
    return request, rollout


def messages(items: Iterable[Item]) -> list[Message]:
    """Return the messages among the items, each with its text."""
    return [Message(role=item.role, content=text_or_parts(item.content)) for item in items if item.role is not None]


def text_or_parts(content: str | list[ContentPart] | None) -> str | list[ContentPart] | None:
    """Return the text of a message, its parts joined; the parts if one of them, such as a picture, has no text."""
    if not isinstance(content, list):
        return content
    texts = [part.text for part in content if part.text is not None]
    return "".join(texts) if len(texts) == len(content) else content


def render(response: ScoreResponse, rollout: VerifyRequest, rewards: Mapping[str, RewardInfo]) -> Response:
    """Render the rollout with its reward."""
    _, (score,) = only_reward(response, rewards)
    content: dict[str, Any] = {**rollout.model_dump(exclude_unset=True), "reward": score}
    return Response(to_json(content, inf_nan_mode="null"), media_type=JSON)


def render_session(info: ServiceInfo, query: Query) -> Response:
    """Render an empty session."""
    return json_response(SeedSessionResponse())


DIALECT = Dialect(
    name="nemo_gym",
    routes=(
        ScoreRoute(
            path="/verify",
            name="nemo_gym_verify",
            description="Score a rollout for NeMo Gym.",
            parse=parse,
            render=render,
            request_model=VerifyRequest,
            response_model=VerifyResponse,
            example={
                "responses_create_params": {"input": [{"role": "user", "content": "What colour is it?"}]},
                "response": {
                    "output": [
                        {
                            "type": "message",
                            "role": "assistant",
                            "content": [{"type": "output_text", "text": "Sure: it is yellow banana"}],
                        }
                    ]
                },
            },
            waits_when_full=True,
        ),
        InfoRoute(
            path="/seed_session",
            name="nemo_gym_seed_session",
            description="Start a session for NeMo Gym, for which the service keeps nothing.",
            render=render_session,
            response_model=SeedSessionResponse,
            method="POST",
        ),
    ),
    render_error=render_detail,
    error_responses=DETAIL_RESPONSES,
    sends_keys=False,
)
