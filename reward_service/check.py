"""`reward-service check`: is each configured model the one that its users think it is? Run it before a training.

For each model reward: its class and outputs, an example of the text that it reads, how far the engine's scores are from
transformers' own, whether it computes in batches, and with preference pairs the share that it orders right. For a
similarity: its class and pooling, the two texts, and the same of its cosines.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reward_service.backends import engines
from reward_service.backends.base import TOKEN_MASK, Backend, Encoded, Logits, ModelInput, Tokens
from reward_service.backends.benchmark import Measurement
from reward_service.backends.model_folder import ModelFolder
from reward_service.config import RewardsConfig, error_sentence
from reward_service.errors import ConfigError, RewardServiceError, naming, translating
from reward_service.rewards.comparing import TO_PROMPT, Compared, prefixes_for, read_compared
from reward_service.rewards.loading import engine_for, open_model
from reward_service.rewards.reading import check_template, last_chars, read_items
from reward_service.rewards.similarity import cosine
from reward_service.rewards.values import ModelSpec, check_labels, score_from_logits
from reward_service.scorer import to_items
from reward_service.settings import Settings
from reward_service.specs import ClassifierSpec, RegressorSpec, SimilaritySpec, TextModelSpec
from shared.schemas import ScoreRequest, Text
from shared.text import without_common_turns

SHOWN_CHARS, SHOWN_TOKENS = 600, 24
PROMPT = "What is a stapler?"
COMPLETIONS = ["It joins sheets of paper with a small metal clip.", "No.", "I would rather not say. " * 12]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two completions of one prompt, the better one first."""

    prompt: Text | None
    chosen: Text
    rejected: Text


def check(config: RewardsConfig, settings: Settings, pairs: Sequence[Pair] = ()) -> Iterator[str]:
    """Yield the lines of the report. Raise `ConfigError` for the first model that cannot be served exactly."""
    models = {name: spec for name, spec in config.rewards.items() if isinstance(spec, TextModelSpec)}
    if not models:
        yield "no reward of the configuration has a model: there is nothing to check"
    for name, spec in models.items():
        with naming(name), translating(ConfigError, spec.model):
            if isinstance(spec, SimilaritySpec):
                yield from check_similarity(name, spec, settings, pairs)
            elif isinstance(spec, ClassifierSpec | RegressorSpec):
                yield from check_model(name, spec, settings, pairs)


def check_model(name: str, spec: ModelSpec, settings: Settings, pairs: Sequence[Pair]) -> Iterator[str]:
    """Yield the lines about one model."""
    folder = open_model(name, spec)
    check_labels(name, spec, folder)
    check_template(name, spec, folder.template)
    yield f"{name}: {spec.kind} {spec.model}"
    yield f"  model     {folder.head.class_name or folder.config.model_type}, outputs: {', '.join(folder.labels)}"
    completion = f"{spec.after or ''}{COMPLETIONS[0]}"
    example = encode(spec, folder, [PROMPT], [completion])[0]
    reading = read(spec, folder, [PROMPT], [completion])[0]
    yield f"  reads     {_shown(reading.text)}" + ("" if reading.second is None else f" | {_shown(reading.second)}")
    yield f"  tokens    {len(example.tokens)} of {folder.max_tokens}: {_token_texts(folder, example.tokens)}"
    measurement = engine_for(spec, folder, settings)
    backend = engines.load(measurement.engine, folder, settings.cores())
    tokens = [item.tokens for item in encode(spec, folder, [PROMPT] * 3, _completions(spec))]
    together, alone = _forward(backend, tokens, measurement.batched), [*map(engines.load_torch(folder).alone, tokens)]
    yield _engine_line(measurement)
    yield f"  parity    scores are within {_deviation(spec, folder, together, alone):.2g} of transformers' alone"
    if pairs:
        yield f"  pairs     {_accuracy(partial(_scores, spec, folder, backend), pairs)}"


def check_similarity(name: str, spec: SimilaritySpec, settings: Settings, pairs: Sequence[Pair]) -> Iterator[str]:
    """Yield the lines about one encoder. Preference pairs have prompts, and not the columns that it may read."""
    folder = open_model(name, spec)
    assert folder.sentence is not None
    yield f"{name}: {spec.kind} {spec.model}"
    yield f"  model     {folder.head.class_name or folder.config.model_type}, pooling: {folder.sentence.pooling}"
    compared = compare(spec, folder, [PROMPT] * 3, _completions(spec))
    texts = [*(completion for completion, _ in compared), compared[0][1]]
    tokens = [item.tokens for item in folder.encode(texts)]
    yield f"  reads     {_shown(texts[0])} | {_shown(texts[-1])}"
    yield f"  tokens    {len(tokens[0])} of {folder.max_tokens}: {_token_texts(folder, tokens[0])}"
    measurement = engine_for(spec, folder, settings)
    backend = engines.load(measurement.engine, folder, settings.cores())
    together, alone = _forward(backend, tokens, measurement.batched), [*map(engines.load_torch(folder).alone, tokens)]
    yield _engine_line(measurement)
    rows = zip(together, alone, strict=True)
    deviation = max(abs(cosine(row, together[-1]) - cosine(other, alone[-1])) for row, other in rows)
    yield f"  parity    scores are within {deviation:.2g} of transformers' alone"
    if pairs and spec.to == TO_PROMPT:
        yield f"  pairs     {_accuracy(partial(_cosines, spec, folder, backend), pairs)}"


def compare(
    spec: SimilaritySpec, folder: ModelFolder, others: Sequence[Text], completions: Sequence[Text]
) -> list[tuple[str, str]]:
    """Return the two texts that are compared of each item. Raise the item's `RewardServiceError`."""
    assert folder.sentence is not None
    columns = {} if spec.to == TO_PROMPT else {spec.to: list(others)}
    items = to_items(ScoreRequest(completions=list(completions), prompts=list(others), columns=columns))
    prefixes, lower_case = prefixes_for(spec, folder.sentence), folder.sentence.lower_case
    texts = []
    for item in read_compared(spec, items, prefixes, lower_case=lower_case):
        if not isinstance(item, Compared):
            raise item
        texts.append(item.texts)
    return texts


def read(
    spec: ModelSpec, folder: ModelFolder, prompts: Sequence[Text], completions: Sequence[Text]
) -> list[ModelInput]:
    """Return what the model reads of each item. Raise the item's `RewardServiceError`."""
    items = to_items(ScoreRequest(completions=list(completions), prompts=list(prompts)))
    inputs = []
    for reading in read_items(spec, items, folder.template, folder.end_token, folder.encoder.fits):
        if not isinstance(reading, ModelInput):
            raise reading
        inputs.append(last_chars(reading, spec.last_chars))
    return inputs


def encode(spec: ModelSpec, folder: ModelFolder, prompts: Sequence[Text], completions: Sequence[Text]) -> list[Encoded]:
    """Return the tokens that the model reads of each item. Raise the item's `RewardServiceError`."""
    encoded = []
    for item in folder.encoder.encode(read(spec, folder, prompts, completions)):
        if not isinstance(item, Encoded):
            raise item
        encoded.append(item)
    return encoded


def read_pairs(path: Path) -> list[Pair]:
    """Read preference pairs, one JSON object a line: `chosen`, `rejected` and, unless they contain it, `prompt`.

    Raises `ConfigError` that names the line.
    """
    pairs = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the pairs in {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                pairs.append(_pair(json.loads(line)))
            except ValidationError as error:
                raise ConfigError(f"{path}, line {number}: {error_sentence(error)}") from error
            except (ValueError, TypeError, KeyError) as error:
                raise ConfigError(
                    f"{path}, line {number} is no pair: it needs `chosen` and `rejected`, and `prompt` unless they "
                    f"contain it ({type(error).__name__}: {error})"
                ) from error
    if not pairs:
        raise ConfigError(f"{path} holds no pairs: write one JSON object a line, with `chosen` and `rejected`")
    return pairs


def _pair(row: dict[str, Any]) -> Pair:
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    if prompt is None and isinstance(chosen, list) and isinstance(rejected, list):
        shared, chosen, rejected = without_common_turns(chosen, rejected)
        prompt = shared or None
    checked = ScoreRequest(completions=[chosen, rejected], prompts=None if prompt is None else [prompt, prompt])
    return Pair(checked.prompts[0] if checked.prompts else None, *checked.completions)


def _accuracy(scores: Callable[[Pair], Sequence[float]], pairs: Sequence[Pair]) -> str:
    right = ties = 0
    failures: list[RewardServiceError] = []
    for pair in pairs:
        try:
            chosen, rejected = scores(pair)
        except RewardServiceError as error:
            failures.append(error)
            continue
        right, ties = right + (chosen > rejected), ties + (chosen == rejected)
    scored = len(pairs) - len(failures)
    if not scored:
        raise ConfigError(f"none of the pairs can be read: {failures[0]}; see 'What is read' in docs/models.md")
    line = f"{right} of {scored} ordered right ({right / scored:.1%})"
    return line + (f", {ties} equal" if ties else "") + (f", {len(failures)} cannot be read" if failures else "")


def _scores(spec: ModelSpec, folder: ModelFolder, backend: Backend, pair: Pair) -> list[float]:
    prompt = "" if pair.prompt is None else pair.prompt
    encoded = encode(spec, folder, [prompt, prompt], [pair.chosen, pair.rejected])
    logits = [backend.forward([item.tokens])[0] for item in encoded]
    return [score_from_logits(spec, folder.labels, row, folder.multi_label)[0] for row in logits]


def _cosines(spec: SimilaritySpec, folder: ModelFolder, backend: Backend, pair: Pair) -> list[float]:
    prompt = "" if pair.prompt is None else pair.prompt
    compared = compare(spec, folder, [prompt, prompt], [pair.chosen, pair.rejected])
    rows = [_forward(backend, [item.tokens for item in folder.encode(texts)], batched=False) for texts in compared]
    return [cosine(completion, other) for completion, other in rows]


def _forward(backend: Backend, texts: Sequence[Tokens], batched: bool) -> list[Logits]:
    batches = [texts] if batched else [[text] for text in texts]
    return engines.forward_all(backend, batches)


def _engine_line(measurement: Measurement) -> str:
    return f"  engine    {measurement.engine}, {'in batches' if measurement.batched else 'one text at a time'}"


def _completions(spec: TextModelSpec) -> list[str]:
    return [f"{spec.after or ''}{completion}" for completion in COMPLETIONS]


def _deviation(spec: ModelSpec, folder: ModelFolder, rows: Iterable[Logits], alone: Iterable[Logits]) -> float:
    def score(logits: Logits) -> float:
        return score_from_logits(spec, folder.labels, logits, folder.multi_label)[0]

    return max(abs(score(row) - score(other)) for row, other in zip(rows, alone, strict=True))


def _shown(text: str) -> str:
    return json.dumps(text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…", ensure_ascii=False)


def _token_texts(folder: ModelFolder, tokens: Tokens) -> str:
    texts = folder.token_texts([token & TOKEN_MASK for token in tokens])
    shown = texts if len(texts) <= SHOWN_TOKENS else [*texts[: SHOWN_TOKENS // 2], "…", *texts[-SHOWN_TOKENS // 2 :]]
    return " ".join(shown)
