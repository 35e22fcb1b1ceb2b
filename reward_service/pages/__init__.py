"""The HTML pages: each self-contained in one file, with a content security policy that allows nothing else."""

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from starlette.responses import HTMLResponse

INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def page(name: str) -> HTMLResponse:
    """Return a page with its content security policy."""
    content = _content(name)
    headers = {
        "Content-Security-Policy": policy(content),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return HTMLResponse(content, headers=headers)


@cache
def _content(name: str) -> str:
    return resources.files("reward_service.pages").joinpath(f"{name}.html").read_text(encoding="utf-8")


@cache
def policy(content: str) -> str:
    """Return a policy that allows the scripts and styles of a page, by hash, and requests to its origin."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, body in INLINE.findall(content):
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    allowed = "; ".join(f"{kind}-src {' '.join(digests)}" for kind, digests in hashes.items())
    return f"default-src 'none'; connect-src 'self'; {allowed}; base-uri 'none'; frame-ancestors 'none'"
