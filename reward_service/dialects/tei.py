"""The format of Text Embeddings Inference (TEI), version 1.9: `POST /predict` and `GET /info`.

`"t"` and `["t"]` are one text, `["a", "b"]` is one pair, and `[["t1"], ["t2"]]` is a batch. huggingface_hub's
`InferenceClient` sends `parameters`, too, and reads the first element of a batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, RootModel, StrictBool, StrictInt, model_validator
from starlette.requests import HTTPConnection
from starlette.responses import Response

from reward_service.dialects.base import Dialect, InfoRoute, Query, ScoreRoute, json_response
from reward_service.dialects.outputs import Activation, LabelValue, best_first, check_not_truncated, outputs
from reward_service.errors import (
    BadJson,
    InternalError,
    InvalidRequest,
    NotReady,
    Overloaded,
    RewardServiceError,
    UnknownReward,
    sanitize,
)
from reward_service.problem_details import PROBLEM_RESPONSES, retry_after_header
from reward_service.request_body import parse_json
from shared.schemas import JSON, RewardInfo, ScoreRequest, ScoreResponse, ServiceInfo, Wire


class EmptyInputs(InvalidRequest):
    """There is no text."""

    status = 400


def _check_inputs(value: Any) -> Any:
    """Raise `ValueError` for a list of more than two strings, with the form of a batch."""
    if isinstance(value, list) and len(value) > 2 and all(isinstance(item, str) for item in value):
        raise ValueError('a list of strings is one text or one pair; a batch of texts is [["t1"], ["t2"], …]')
    return value


TextOrPair = Annotated[list[str], Field(min_length=1, max_length=2)]
Batch = Annotated[list[TextOrPair], Field(min_length=1, fail_fast=True)]
Inputs = Annotated[str | Annotated[list[str], Field(max_length=2)] | Batch, BeforeValidator(_check_inputs)]


class PredictParameters(Wire):
    """Options of huggingface_hub's client."""

    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    """How to turn logits into scores. Default: as the model's configuration says."""
    top_k: StrictInt | None = Field(None, ge=1)
    """Return only so many labels."""


class PredictRequest(Wire):
    """Texts or pairs to classify."""

    inputs: Inputs
    """A text, a pair, or a batch of either. The second of a pair is scored as the completion of the first."""
    raw_scores: StrictBool = False
    """Whether to return logits."""
    truncate: StrictBool | None = None
    """Whether a text may be cut to what the reward reads. False refuses a longer one; by default it is cut."""
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None
    """Which end is cut is set in the reward's configuration; `Left` is refused for a text that is cut."""
    parameters: PredictParameters | None = None
    """Options of huggingface_hub's client; the response is then a batch."""

    @model_validator(mode="after")
    def _check_batch(self) -> Self:
        if len({len(item) for item in self.inputs if isinstance(item, list)}) > 1:
            raise ValueError("inputs has texts and pairs: send them in requests of their own")
        return self


class Prediction(Wire):
    """A label with its score."""

    score: float
    label: str


class PredictResponse(RootModel[list[Prediction] | list[list[Prediction]]]):
    """The labels of a text, best first; for a batch, a list of those."""


class ClassifierLabels(Wire):
    """The labels of a classifier."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class PredictModelType(Wire):
    """What the model is: a classifier, also with one label."""

    classifier: ClassifierLabels


class InfoResponse(Wire):
    """One reward: the default one, or that of `?reward=`."""

    version: str
    sha: str | None = None
    docker_label: str | None = None
    model_id: str
    model_sha: str | None = None
    model_dtype: str
    model_type: PredictModelType
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None = None
    max_client_batch_size: int
    tokenization_workers: int = 1


class PredictError(Wire):
    """Why there are no scores."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a response depends on besides the scores."""

    batch: bool
    pairs: bool
    activation: Activation
    top_k: int | None
    truncate: bool
    from_left: bool


def parse(body: bytes, query: Query) -> tuple[ScoreRequest, Wanted]:
    """Parse a body: a text is a completion, a pair is a prompt and a completion."""
    request = parse_json(PredictRequest, body)
    inputs = request.inputs
    if inputs == []:
        raise EmptyInputs("inputs is empty")
    batch = not isinstance(inputs, str) and isinstance(inputs[0], list)
    items = inputs if batch else [[inputs] if isinstance(inputs, str) else inputs]
    pairs = len(items[0]) == 2
    parameters = request.parameters or PredictParameters()
    wanted = Wanted(
        batch=batch or request.parameters is not None,
        pairs=pairs,
        activation="none" if request.raw_scores else parameters.function_to_apply or "model",
        top_k=parameters.top_k,
        truncate=request.truncate is not False,
        from_left=(request.truncation_direction or "").lower() == "left",
    )
    prompts = [item[0] for item in items] if pairs else None
    return ScoreRequest(prompts=prompts, completions=[item[-1] for item in items]), wanted


def render(response: ScoreResponse, wanted: Wanted, rewards: Mapping[str, RewardInfo]) -> Response:
    """Render each text's labels, best first."""
    result = outputs(response, rewards, wanted.activation)
    if wanted.pairs and not result.reward.reads_prompts:
        raise InvalidRequest(
            f'{result.reward.name} reads single texts, and ["a", "b"] is one pair; a batch is [["a"], ["b"]]'
        )
    if not wanted.truncate or wanted.from_left:
        check_not_truncated(response)
    texts = [_predictions(items[: wanted.top_k]) for items in best_first(result)]
    return json_response(PredictResponse(texts if wanted.batch else texts[0]))


def _predictions(items: list[LabelValue]) -> list[Prediction]:
    return [Prediction(score=item.score, label=item.label) for item in items]


def render_info(info: ServiceInfo, query: Query) -> Response:
    """Render a reward as TEI describes its model."""
    name = query.get("reward", info.default[0])
    reward = next((reward for reward in info.rewards if reward.name == name), None)
    if reward is None:
        raise UnknownReward(f"there is no reward {name[:80]!r}; GET /v1/rewards lists them")
    labels = reward.labels or [reward.name]
    longest_tokens = reward.max_tokens or info.limits.max_body_bytes
    return json_response(
        InfoResponse(
            version=info.version,
            model_id=reward.name,
            model_sha=reward.revision,
            model_dtype=reward.engine.dtype if reward.engine else "float64",
            model_type=PredictModelType(
                classifier=ClassifierLabels(
                    id2label={str(index): label for index, label in enumerate(labels)},
                    label2id={label: index for index, label in enumerate(labels)},
                )
            ),
            max_concurrent_requests=info.limits.max_queue_texts,
            max_input_length=longest_tokens,
            max_batch_tokens=longest_tokens,
            max_client_batch_size=info.limits.max_request_texts,
        )
    )


def render_error(error: RewardServiceError, connection: HTTPConnection) -> Response:
    """Render an error with TEI's type and status: 424 if scores could not be computed."""
    status, kind = error.status, "Validation"
    match error:
        case EmptyInputs():
            kind = "Empty"
        case BadJson():
            status = 422
        case Overloaded():
            kind = "Overloaded"
        case NotReady():
            kind = "Unhealthy"
        case InternalError():
            kind = "Backend"
        case _ if status >= 500:
            status, kind = 424, "Backend"
    content = PredictError.model_validate({"error": sanitize(str(error)), "error_type": kind}).model_dump_json()
    return Response(content, status, retry_after_header(error), JSON)


ERROR: dict[str, Any] = {"description": "Error", "model": PredictError}
DIALECT = Dialect(
    name="tei",
    routes=(
        ScoreRoute(
            path="/predict",
            name="tei_predict",
            description="Classify texts or pairs, as Text Embeddings Inference does.",
            parse=parse,
            render=render,
            request_model=PredictRequest,
            response_model=PredictResponse,
            example={"inputs": [["Sure: it is yellow banana"], ["I do not know"]], "raw_scores": False},
        ),
        InfoRoute(
            path="/info",
            name="tei_info",
            description="Describe the default reward, or that of ?reward=, as Text Embeddings Inference does.",
            render=render_info,
            response_model=InfoResponse,
        ),
    ),
    render_error=render_error,
    error_responses=dict.fromkeys([*PROBLEM_RESPONSES, 424], ERROR),
)
