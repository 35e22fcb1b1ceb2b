"""The service's pages: a playground at `/`, the API's documentation at `/docs`, and the files that they load.

Every file has a fixed path. The browser loads nothing from anywhere else, and runs only the scripts that a page names.
"""

import gzip
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

OWN, SWAGGER_UI = "reward_service.pages", "fastapi_swagger.resources"
SCRIPTS = ("api", "compare", "dom", "inputs", "playground", "results", "rewards", "snippets", "statistics")
PAGES = {"/": "playground.html", "/docs": "docs.html"}
FILES: dict[str, tuple[str, str]] = {
    **{f"/static/{name}": (OWN, name) for name in ("icon.svg", "theme.css", "playground.css", "docs.css", "docs.js")},
    **{f"/static/{name}.js": (OWN, f"{name}.js") for name in SCRIPTS},
    **{f"/static/{name}": (SWAGGER_UI, name) for name in ("swagger-ui.css", "swagger-ui-bundle.js")},
}
"""Package and name of the file behind each path."""
MEDIA_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self'; connect-src 'self'; img-src 'self'{images}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


@dataclass(frozen=True)
class StaticFile:
    """A file as it is sent, with what its headers say."""

    content: bytes
    compressed: bytes
    media_type: str
    etag: str


def page_endpoints() -> Mapping[str, Callable[[Request], Response]]:
    """Return the endpoint of each page and of each file that a page loads, by path."""
    pages = {path: partial(page_response, path) for path in PAGES}
    return pages | {path: partial(file_response, path) for path in FILES}


def page_response(path: str, _: Request) -> Response:
    """Return a page whose scripts, and no others, may run: they carry a number that is made for this response."""
    nonce = secrets.token_urlsafe(16)
    if path == "/docs":
        policy = POLICY.format(nonce=nonce, images=" data:")  # icons in Swagger UI's style sheet
    else:
        policy = POLICY.format(nonce=nonce, images="") + "; require-trusted-types-for 'script'"  # refuses innerHTML
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store"}
    return HTMLResponse(read(OWN, PAGES[path]).replace(b"{nonce}", nonce.encode()), headers=HEADERS | headers)


def file_response(path: str, request: Request) -> Response:
    """Return the file behind a path, or 304 where the browser has it. It is compressed if the request allows that."""
    file = load(path)
    headers = HEADERS | {
        "ETag": file.etag,
        "Cache-Control": "no-cache",  # ask each time, so that the files of two versions never mix
        "Vary": "Accept-Encoding",
    }
    if request.headers.get("If-None-Match") == file.etag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        return Response(file.compressed, headers=headers | {"Content-Encoding": "gzip"}, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)


@cache
def load(path: str) -> StaticFile:
    """Load the file behind a path."""
    content = read(*FILES[path])
    return StaticFile(
        content=content,
        compressed=gzip.compress(content, mtime=0),
        media_type=MEDIA_TYPES[path.rpartition(".")[2]],
        etag=f'W/"{hashlib.sha256(content).hexdigest()[:32]}"',  # weak: compressed or not
    )


@cache
def read(package: str, name: str) -> bytes:
    """Read a file of a package, once."""
    return resources.files(package).joinpath(name).read_bytes()
