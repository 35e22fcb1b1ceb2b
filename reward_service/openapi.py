"""The OpenAPI document: FastAPI's, with the bodies that the dialects parse themselves."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from reward_service.dialects.base import Dialect, ScoreRoute
from shared import schemas


def build_document(app: FastAPI, dialects: Sequence[Dialect]) -> dict[str, Any]:
    """Return the OpenAPI document with the bodies of all scoring routes."""
    routes = [route for dialect in dialects for route in dialect.routes if isinstance(route, ScoreRoute)]
    models = [(route.request_model, "validation") for route in routes]
    refs, definitions = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    document = app.openapi()
    document["components"]["schemas"] |= definitions["$defs"]
    document["components"]["securitySchemes"] = {"api_key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{}, {"api_key": []}]  # whether a service has keys is not in the document
    for route in routes:
        media = {"schema": refs[route.request_model, "validation"], "example": route.example}
        document["paths"][route.path]["post"]["requestBody"] = {"required": True, "content": {schemas.JSON: media}}
    return document
