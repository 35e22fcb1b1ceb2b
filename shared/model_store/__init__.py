"""Models by name: a folder, a hub id, or one made here from pinned packages. Importing loads no torch."""

from shared.model_store.cache import cache_home
from shared.model_store.errors import ModelError
from shared.model_store.store import EMBEDDED, Embedded, prepare_all, resolve

__all__ = ["EMBEDDED", "Embedded", "ModelError", "cache_home", "prepare_all", "resolve"]
