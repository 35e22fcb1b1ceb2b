import re

import httpx
import pytest

PAGES = ["/", "/docs"]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_needs_nothing_from_elsewhere(rules_url, path):
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", httpx.get(rules_url + path).text)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_its_own_script_alone(rules_url, path):
    policy = httpx.get(rules_url + path).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/=]{44}'", policy)
    assert "unsafe" not in policy


def test_a_page_writes_what_it_is_told_as_text_not_as_markup(rules_url):
    for path in PAGES:
        assert "innerHTML" not in httpx.get(rules_url + path).text
