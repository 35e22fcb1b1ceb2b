"""vLLM's format, version 0.33: `POST /classify` and `GET /v1/models`. verl's reward loop calls it, too.

`use_activation: false` asks for logits. With `text` instead of `input` the response has SGLang's form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, RootModel, StrictBool, StrictInt, model_validator
from starlette.requests import HTTPConnection
from starlette.responses import Response

from reward_service.dialects.base import Dialect, InfoRoute, Query, ScoreRoute, json_response
from reward_service.dialects.classification import ClassifyResponse, error_status, render_classes
from reward_service.dialects.openai_errors import OPENAI_ERROR, openai_error
from reward_service.dialects.outputs import Activation, Input, check_truncation
from reward_service.dialects.sglang import TextScore, render_texts
from reward_service.errors import RewardServiceError
from reward_service.problem_details import PROBLEM_RESPONSES
from reward_service.request_body import parse_json
from shared.schemas import Message, RewardInfo, ScoreRequest, ScoreResponse, ServiceInfo, Wire

DEFAULTS: dict[str, Any] = {
    "normalize": None,
    "chat_template": None,
    "chat_template_kwargs": {},
    "add_generation_prompt": False,
    "continue_final_message": False,
    "image_data": None,
    "video_data": None,
    "audio_data": None,
}
"""Fields that change the result and cannot be honoured, with the one value that is accepted besides null."""


class ClassifyRequest(Wire):
    """Texts, or one conversation, to classify."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    """A reward's name, alias or model. Default: the service's default reward."""
    input: Input | None = None
    """One text or several."""
    text: Input | None = None
    """One text or several, in place of `input`, for scores in SGLang's form."""
    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1)] | None = None
    """A conversation; its last message, the assistant's, is scored."""
    use_activation: StrictBool | None = None
    """Whether to return probabilities, as by default, or logits."""
    truncate_prompt_tokens: StrictInt | None = Field(None, ge=-1)
    """Accepted where no text has more tokens; the configuration of the reward says what it reads. -1 means that."""

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if [self.input, self.text, self.messages].count(None) != 2:
            raise ValueError("send one of input, messages and text")
        if self.messages is not None and self.messages[-1].role != "assistant":
            raise ValueError("messages must end with the assistant's, which is scored")
        tokens = {"add_special_tokens": self.messages is None}  # a chat template writes its own
        for name, default in {**DEFAULTS, **tokens}.items():
            value = (self.__pydantic_extra__ or {}).get(name)
            if value is not None and value != default:
                raise ValueError(f"{name} is not supported; leave it out")
        return self


class ClassifyReply(RootModel[ClassifyResponse | TextScore | list[TextScore]]):
    """Labels with their values; for a request with `text`, scores in SGLang's form."""


class Model(Wire):
    """A reward."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "remote-rewards"
    root: str
    parent: str | None = None
    max_model_len: int | None = None


class ModelList(Wire):
    """The rewards."""

    object: Literal["list"] = "list"
    data: list[Model]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a response depends on besides the scores."""

    model: str | None
    activation: Activation
    limit_tokens: int | None
    sglang: bool
    """Whether the response has SGLang's form."""
    one: bool
    """Whether the request has one text, not a list."""


def parse(body: bytes, query: Query) -> tuple[ScoreRequest, Wanted]:
    """Parse a body: each text is a completion; a conversation is a prompt and a completion."""
    request = parse_json(ClassifyRequest, body)
    limit_tokens = None if request.truncate_prompt_tokens == -1 else request.truncate_prompt_tokens
    texts = request.input if request.text is None else request.text
    wanted = Wanted(
        model=request.model,
        activation="none" if request.use_activation is False else "model",
        limit_tokens=limit_tokens,
        sglang=request.text is not None,
        one=isinstance(texts, str),
    )
    names = None if request.model is None else [request.model]
    if request.messages is not None:
        *prompt, completion = request.messages
        return ScoreRequest(prompts=[prompt], completions=[[completion]], rewards=names), wanted
    return ScoreRequest(completions=[texts] if isinstance(texts, str) else list(texts or []), rewards=names), wanted


def render(response: ScoreResponse, wanted: Wanted, rewards: Mapping[str, RewardInfo]) -> Response:
    """Render the values of each text; in SGLang's form, the scores."""
    if wanted.sglang:
        return render_texts(response, rewards, one=wanted.one)
    classes = render_classes(response, rewards, wanted.model, wanted.activation)
    if wanted.limit_tokens is not None:
        check_truncation(response, wanted.limit_tokens)
    return classes


def render_models(info: ServiceInfo, query: Query) -> Response:
    """Render the rewards as models."""
    models = [Model(id=reward.name, root=reward.name, max_model_len=reward.max_tokens) for reward in info.rewards]
    return json_response(ModelList(data=models))


def render_error(error: RewardServiceError, connection: HTTPConnection) -> Response:
    """Render an error in OpenAI's form."""
    return openai_error(error, error_status(error, connection))


DIALECT = Dialect(
    name="vllm",
    routes=(
        ScoreRoute(
            path="/classify",
            name="vllm_classify",
            description="Classify texts, as vLLM does.",
            parse=parse,
            render=render,
            request_model=ClassifyRequest,
            response_model=ClassifyReply,
            example={"model": None, "input": ["Sure: it is yellow banana"], "use_activation": False},
        ),
        InfoRoute(
            path="/v1/models",
            name="vllm_models",
            description="List the rewards as models.",
            render=render_models,
            response_model=ModelList,
        ),
    ),
    render_error=render_error,
    error_responses=dict.fromkeys(PROBLEM_RESPONSES.keys() - {422}, OPENAI_ERROR),
)
