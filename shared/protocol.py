"""Paths, headers and limits of the wire. Names only: no behaviour, no dependencies."""

from typing import Final

SERVICE: Final = "remote-rewards"
"""What `GET /v1/rewards` calls itself; a client that reads anything else is talking to something else."""

SCORE_PATH: Final = "/v1/score"
REWARDS_PATH: Final = "/v1/rewards"
LIVE_PATH: Final = "/health/live"
READY_PATH: Final = "/health/ready"
HEALTH_PATH: Final = "/health"
METRICS_PATH: Final = "/metrics"
RELOAD_PATH: Final = "/admin/reload"

JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"

REQUEST_ID_HEADER: Final = "X-Request-Id"
TIMEOUT_HEADER: Final = "X-Request-Timeout-Ms"
"""The caller's remaining time in milliseconds: relative, so that no two clocks need agree."""

NAME_PATTERN: Final = r"^[a-z0-9_.-]{1,64}$"
"""What a reward may be called."""

DEFAULT_PORT: Final = 8088
