import re

import httpx
import pytest

PAGES = ["/", "/docs"]


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_self_contained(rules_url, path):
    """A page loads nothing from other hosts."""
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", httpx.get(rules_url + path).text)


@pytest.mark.parametrize("path", PAGES)
def test_content_security_policy(rules_url, path):
    """The content security policy allows only the scripts of the page, by hash."""
    policy = httpx.get(rules_url + path).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/=]{44}'", policy)
    assert "unsafe" not in policy


def test_pages_escape_text(rules_url):
    """Pages insert responses as text, never as markup."""
    for path in PAGES:
        assert "innerHTML" not in httpx.get(rules_url + path).text
