"""The table of all paths of the service: added to FastAPI's router, and looked up by the middlewares before routing."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.types import Scope

from reward_service.dialects.base import Dialect, ScoreRoute


class Access(Enum):
    """Who may call a path."""

    OPEN = "open"
    """Everyone."""
    API_KEY = "api_key"
    """The holders of an API key, or everyone if there are no keys."""
    ADMIN = "admin"
    """The holder of the admin key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteEntry:
    """One path."""

    path: str
    dialect: Dialect
    """Renders the errors of the path."""
    access: Access = Access.API_KEY
    quiet: bool = False
    """Whether requests are logged at DEBUG only: polled by probes, scrapers and browsers."""
    scoring: ScoreRoute[Any] | None = None


class RouteTable:
    """All paths, by their exact text. `default` renders errors on unknown paths, which those of a dialect that the
    configuration leaves out (`is_served`) are, too."""

    def __init__(self, router: APIRouter, default: Dialect, is_served: Callable[[Dialect], bool]) -> None:
        self.default, self._is_served = default, is_served
        self._router = router
        self._entries: dict[str, RouteEntry] = {}

    def add(self, entry: RouteEntry, endpoint: Callable[..., Any], **options: Any) -> None:
        """Add a path with its endpoint; `options` are those of FastAPI's `add_api_route`."""
        if entry.path in self._entries:
            raise ValueError(f"two routes have the path {entry.path}")
        self._entries[entry.path] = entry
        self._router.add_api_route(entry.path, endpoint, **options)

    def find_for(self, scope: Scope) -> RouteEntry | None:
        """Return the entry of a request's path, or None."""
        return self.find(route_path(scope))

    def find(self, path: str) -> RouteEntry | None:
        """Return the entry of a path, or None. FastAPI's routes also match a path with a newline at its end."""
        entry = self._entries.get(path.strip())
        return entry if entry is not None and self._is_served(entry.dialect) else None

    def check_served(self, dialect: Dialect) -> None:
        """Raise the same error as for an unknown path if the configuration leaves the dialect out."""
        if not self._is_served(dialect):
            raise HTTPException(404)

    def dialect_of(self, scope: Scope) -> Dialect:
        """Return the dialect that renders the errors of a request."""
        entry = self.find_for(scope)
        return self.default if entry is None else entry.dialect


def route_path(scope: Scope) -> str:
    """Return the path of a request without the prefix at which the service is mounted, ASGI's `root_path`."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path
