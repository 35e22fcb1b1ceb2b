"""Resolve model names to local folders: a folder, a hub id, or `embedded:<name>`. Importing loads no torch."""

from shared.model_store.cache import cache_home
from shared.model_store.errors import ModelError
from shared.model_store.store import EMBEDDED_MODELS, EmbeddedModel, prepare_all, resolve

__all__ = ["EMBEDDED_MODELS", "EmbeddedModel", "ModelError", "cache_home", "prepare_all", "resolve"]
