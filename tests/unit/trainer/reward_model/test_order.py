from hypothesis import given
from hypothesis import strategies as st

from trainer.reward_model.trainer import LengthBucketSampler, bucketed_order

lengths = st.lists(st.integers(1, 50), max_size=200)


@given(lengths, st.integers(1, 8), st.text(max_size=3))
def test_order_is_a_permutation(lengths, size, seed):
    """Each pair is drawn once, in the same order by the same seed."""
    order = bucketed_order(lengths, size, seed)
    assert sorted(order) == list(range(len(lengths)))
    assert order == bucketed_order(lengths, size, seed)


def test_batches_have_similar_lengths():
    """Within a batch lengths are similar; batches come in random order."""
    lengths = [index % 40 for index in range(4000)]
    order = bucketed_order(lengths, 16, "0")
    batches = [[lengths[index] for index in order[start : start + 16]] for start in range(0, 4000, 16)]
    assert sum(max(batch) - min(batch) for batch in batches) / len(batches) < 3
    assert [max(batch) for batch in batches] != sorted(max(batch) for batch in batches)


def test_each_epoch_has_its_order():
    """The order depends on seed and epoch alone, so that a resumed run continues it."""
    sampler, resumed = (LengthBucketSampler(range(100), 4, seed=1) for _ in range(2))
    first = list(sampler)
    sampler.set_epoch(1)
    resumed.set_epoch(1)
    assert first != list(sampler) == list(resumed)
