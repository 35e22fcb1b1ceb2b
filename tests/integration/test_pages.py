"""The pages and their files over HTTP; tests/integration/test_browser.py opens them in Chromium."""

import gzip
import re

import httpx
import pytest

from reward_service.pages import FILES, PAGES


def referenced(html):
    return re.findall(r"""(?:src|href)=["']?([^"' >]+)""", html)


@pytest.mark.parametrize("path", PAGES)
def test_page_references_own_files(rules_url, path):
    """A page refers to nothing but paths of the service, and each of them answers."""
    for reference in referenced(httpx.get(rules_url + path).text):
        assert not re.match(r"(\w+:)?//", reference)
        assert httpx.get(httpx.URL(rules_url + path).join(reference)).status_code == 200


@pytest.mark.parametrize("path", PAGES)
def test_content_security_policy(rules_url, path):
    """The content security policy allows only the scripts that the page names, by a number used once."""
    first, second = (httpx.get(rules_url + path) for _ in range(2))
    directives = dict(part.split(" ", 1) for part in first.headers["Content-Security-Policy"].split("; "))
    assert directives["default-src"] == "'none'"
    assert {directives[name] for name in ("style-src", "connect-src")} == {"'self'"}
    assert {directives[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    nonce = re.fullmatch(r"'nonce-([\w-]{20,})'", directives["script-src"]).group(1)
    assert first.text.count("<script") == first.text.count(f'<script nonce="{nonce}" ')
    assert nonce not in second.text + second.headers["Content-Security-Policy"]
    assert first.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", FILES)
def test_file_headers(rules_url, path):
    """Each file has a media type that the browser must not guess, and is asked for again only if it has changed."""
    response = httpx.get(rules_url + path)
    assert response.headers["Content-Type"].startswith(("text/", "image/svg"))
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-cache"
    again = httpx.get(rules_url + path, headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.head(rules_url + path).headers["ETag"] == response.headers["ETag"]


def test_file_compression(rules_url):
    """A file is sent compressed to those who accept that, and plain to the others."""
    url = f"{rules_url}/static/swagger-ui-bundle.js"
    with httpx.stream("GET", url, headers={"Accept-Encoding": "gzip"}) as response:
        compressed = b"".join(response.iter_raw())
    plain = httpx.get(url, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert gzip.decompress(compressed) == plain.content
    assert len(compressed) < len(plain.content) / 3


@pytest.mark.parametrize(
    "path", ["__init__.py", "../app.py", "%2e%2e/app.py", "..%2fapp.py", "playground.html", "swagger-ui.css.map", ""]
)
def test_nothing_else_is_served(rules_url, path):
    """Only the listed files have a path: there is no folder to climb out of."""
    assert httpx.get(httpx.URL(f"{rules_url}/static/{path}")).status_code == 404


def test_own_scripts_insert_text_only(rules_url):
    """No script of ours turns data into markup or code."""
    for path, (package, name) in FILES.items():
        if package == "reward_service.pages" and name.endswith(".js"):
            script = httpx.get(rules_url + path).text
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script
            )
