"""SGLang's format, version 0.5: `POST /v1/embeddings`, whose one number is the score, and `POST /v1/classify`.

SGLang's own `/classify`, with `text` instead of `input`, has the path of vLLM's; `vllm.py` parses it. verl's reward
loop calls `/v1/embeddings`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import RootModel, StrictInt, field_validator
from starlette.requests import HTTPConnection
from starlette.responses import Response

from reward_service.dialects.base import Dialect, Query, ScoreRoute, json_response
from reward_service.dialects.classification import ClassifyResponse, Usage, error_status, render_classes, usage
from reward_service.dialects.foreign import only_reward
from reward_service.dialects.openai_errors import error_info
from reward_service.dialects.outputs import Input, token_counts
from reward_service.errors import RewardServiceError
from reward_service.problem_details import PROBLEM_RESPONSES, retry_after_header
from reward_service.request_body import parse_json
from shared.schemas import JSON, RewardInfo, ScoreRequest, ScoreResponse, Wire


class TextsRequest(Wire):
    """Texts to score."""

    model: str | None = None
    """A reward's name, alias or model. Default: the service's default reward."""
    input: Input
    """One text or several."""


class EmbeddingsRequest(TextsRequest):
    """Texts to score. Numbers are sent as floats, whatever `encoding_format` says, which OpenAI's clients accept."""

    dimensions: StrictInt | None = None
    """Not supported: a score is one number."""

    @field_validator("dimensions")
    @classmethod
    def _check_dimensions(cls, dimensions: int | None) -> int | None:
        if dimensions not in (None, 1):
            raise ValueError("a score is one number; leave dimensions out")
        return dimensions


class Embedding(Wire):
    """The score of one text."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float]
    """The score, alone."""


class EmbeddingsResponse(Wire):
    """The score of each text, in order."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: Usage


class MetaInfo(Wire):
    """About one text."""

    id: str
    prompt_tokens: int


class TextScore(Wire):
    """The score of one text, in SGLang's own form."""

    embedding: list[float]
    meta_info: MetaInfo


class TextScores(RootModel[TextScore | list[TextScore]]):
    """The score of a text, or a list of those for a list."""


class SGLangError(Wire):
    """Why there are no scores."""

    object: Literal["error"] = "error"
    message: str
    type: str
    param: str | None = None
    code: int


def parse(body: bytes, query: Query) -> tuple[ScoreRequest, str | None]:
    """Parse a body of `/v1/classify`."""
    return _score_request(parse_json(TextsRequest, body))


def parse_embeddings(body: bytes, query: Query) -> tuple[ScoreRequest, str | None]:
    """Parse a body of `/v1/embeddings`."""
    return _score_request(parse_json(EmbeddingsRequest, body))


def _score_request(request: TextsRequest) -> tuple[ScoreRequest, str | None]:
    texts = [request.input] if isinstance(request.input, str) else request.input
    names = None if request.model is None else [request.model]
    return ScoreRequest(completions=list(texts), rewards=names), request.model


def render(response: ScoreResponse, model: str | None, rewards: Mapping[str, RewardInfo]) -> Response:
    """Render each text's softmax over the labels."""
    return render_classes(response, rewards, model, "softmax")


def render_embeddings(response: ScoreResponse, model: str | None, rewards: Mapping[str, RewardInfo]) -> Response:
    """Render each text's score as an embedding of one dimension."""
    info, scores = only_reward(response, rewards)
    data = [Embedding(index=index, embedding=[score]) for index, score in enumerate(scores)]
    tokens = usage(token_counts(response))
    return json_response(EmbeddingsResponse(model=model or info.name, data=data, usage=tokens))


def render_texts(response: ScoreResponse, rewards: Mapping[str, RewardInfo], *, one: bool) -> Response:
    """Render scores in SGLang's own form, of a list of texts or of one text."""
    _, scores = only_reward(response, rewards)
    texts = [
        TextScore(embedding=[score], meta_info=MetaInfo(id=f"{response.request_id}-{index}", prompt_tokens=tokens))
        for index, (score, tokens) in enumerate(zip(scores, token_counts(response), strict=True))
    ]
    return json_response(TextScores(texts[0] if one else texts))


def render_error(error: RewardServiceError, connection: HTTPConnection) -> Response:
    """Render an error in the form of SGLang's OpenAI-compatible routes."""
    info = error_info(error, error_status(error, connection))
    return Response(SGLangError(**info.model_dump()).model_dump_json(), info.code, retry_after_header(error), JSON)


ERROR: dict[str, Any] = {"description": "Error", "model": SGLangError}
DIALECT = Dialect(
    name="sglang",
    routes=(
        ScoreRoute(
            path="/v1/embeddings",
            name="sglang_embeddings",
            description="Score texts, as SGLang's embeddings of a reward model are.",
            parse=parse_embeddings,
            render=render_embeddings,
            request_model=EmbeddingsRequest,
            response_model=EmbeddingsResponse,
            example={"model": None, "input": ["Sure: it is yellow banana"]},
        ),
        ScoreRoute(
            path="/v1/classify",
            name="sglang_classify",
            description="Classify texts with a classifier, as SGLang does: always by the softmax.",
            parse=parse,
            render=render,
            request_model=TextsRequest,
            response_model=ClassifyResponse,
            example={"model": None, "input": ["Sure: it is yellow banana"]},
        ),
    ),
    render_error=render_error,
    error_responses=dict.fromkeys(PROBLEM_RESPONSES.keys() - {422}, ERROR),
)
