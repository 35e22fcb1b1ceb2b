from hypothesis import given
from hypothesis import strategies as st

from reward_service.cache import Reading, ReadingCache
from reward_service.settings import Settings


@given(st.lists(st.text(max_size=3), max_size=60), st.integers(0, 8))
def test_it_never_holds_more_than_it_may_and_gives_back_only_what_was_put(texts, most):
    cache, put = ReadingCache(most), {}
    for number, text in enumerate(texts):
        cache.put(text, Reading([float(number)], False))
        put[text] = [float(number)]
        assert len(cache) <= most
        found = cache.get(text)
        assert (found is not None and found.logits == put[text]) or most == 0


def test_what_was_not_asked_for_longest_goes_first():
    cache = ReadingCache(2)
    cache.put("a", Reading([1.0], False))
    cache.put("b", Reading([2.0], False))
    cache.get("a")
    cache.put("c", Reading([3.0], False))
    assert cache.get("b") is None
    assert cache.get("a") is not None


def test_texts_that_utf8_cannot_hold_are_told_apart():
    cache = ReadingCache(2)
    cache.put("\ud800", Reading([1.0], False))
    assert cache.get("\ud801") is None


def test_holders_of_different_keys_share_no_cache():
    keys = ["a-key-of-16-chars", "another-key-of-16"]
    assert Settings(api_keys=keys[:1], cache_texts=9).cache_bound() == 9
    assert Settings(api_keys=keys, cache_texts=9).cache_bound() == 0
