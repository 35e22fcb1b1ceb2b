from hypothesis import given
from hypothesis import strategies as st

from reward_service.batching.cache import LogitsCache
from reward_service.settings import Settings

tokens = st.lists(st.integers(0, 60_000), min_size=1, max_size=4).map(tuple)


@given(st.lists(tokens, max_size=60), st.integers(0, 8))
def test_capacity(keys, most):
    """The cache never exceeds its capacity, and returns only what was put into it."""
    cache, put = LogitsCache(most), {}
    for number, key in enumerate(keys):
        put[key] = [float(number)]
        cache.put(key, put[key])
        assert len(cache) <= most
        assert cache.get(key) == (put[key] if most else None)
    assert all(cache.get(key) in (None, logits) for key, logits in put.items())


def test_lru_eviction():
    """The least recently used entry is evicted first."""
    cache = LogitsCache(2)
    cache.put((1,), [1.0])
    cache.put((2,), [2.0])
    cache.get((1,))
    cache.put((3,), [3.0])
    assert cache.get((2,)) is None
    assert cache.get((1,)) == [1.0]


def test_no_cache_across_api_keys():
    """With several API keys there is no cache, so that no timing tells one holder's texts to another."""
    keys = ["a-key-of-16-chars", "another-key-of-16"]
    assert Settings(api_keys=keys[:1], cache_size=9).cache_bound() == 9
    assert Settings(api_keys=keys, cache_size=9).cache_bound() == 0
