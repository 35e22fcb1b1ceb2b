from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from reward_service.batch_planning import cost_tokens, next_batch, plan_batches, start_tags

lengths = st.lists(st.integers(1, 600), min_size=1, max_size=80)


@given(lengths, st.integers(1, 5000), st.integers(1, 40))
def test_first_item_in_batch(lengths, budget, most):
    """The first item of the queue is always in the next batch."""
    assert 0 in next_batch(lengths, budget_tokens=budget, max_items=most)


@given(lengths, st.integers(1, 5000), st.integers(1, 40))
def test_batch_within_budget(lengths, budget, most):
    """A batch is within the budget, unless a single item exceeds it."""
    batch = next_batch(lengths, budget_tokens=budget, max_items=most)
    assert len(batch) <= most
    assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(lengths, st.integers(1, 5000), st.integers(1, 40))
def test_each_item_once(lengths, budget, most):
    """Planning until the queue is empty takes each item once."""
    waiting = list(enumerate(lengths))
    taken = []
    while waiting:
        batch = next_batch([length for _, length in waiting], budget_tokens=budget, max_items=most)
        taken += [waiting[i][0] for i in batch]
        waiting = [item for i, item in enumerate(waiting) if i not in set(batch)]
    assert sorted(taken) == list(range(len(lengths)))


@given(lengths, st.integers(1, 5000), st.integers(1, 40), st.sampled_from([0.0, 0.2, 1.0]))
def test_cheap_padding(lengths, budget, most, padding_cost):
    """The cheaper the padding, the more items fit into a batch."""
    batch = next_batch(lengths, budget_tokens=budget, max_items=most, padding_cost=padding_cost)
    real, longest = sum(lengths[i] for i in batch), max(lengths[i] for i in batch)
    assert len(batch) == 1 or cost_tokens(real, len(batch), longest, padding_cost) <= budget
    assert len(batch) >= len(next_batch(lengths, budget_tokens=budget, max_items=most))


@given(lengths, st.integers(1, 5000), st.integers(1, 40), st.data())
def test_required_items(lengths, budget, most, data):
    """Required items are always in; others join only within the budget."""
    indices = st.integers(0, min(len(lengths), most) - 1)
    first = {0, *data.draw(st.sets(indices))}
    batch = next_batch(lengths, budget_tokens=budget, max_items=most, required=first)
    assert first <= set(batch)
    assert len(batch) <= most
    assert len(batch) == len(first) or len(batch) * max(lengths[i] for i in batch) <= budget


def test_fill_below_longest():
    """Beside required items of several lengths, items join from the longest down."""
    assert next_batch([10, 300, 290, 11, 20, 305], budget_tokens=1250, max_items=4, required={0, 1}) == [0, 1, 2, 5]


def test_similar_lengths():
    """Items of similar length share a batch."""
    assert next_batch([10, 300, 11, 9, 310], budget_tokens=40, max_items=8) == [0, 2, 3]


def test_equal_length_first():
    """Items of the first one's length join before shorter ones."""
    lengths = [100, 5, 100, 5, 100, 5, 100]
    assert next_batch(lengths, budget_tokens=400, max_items=8) == [0, 2, 4, 6]


def test_queue_order_breaks_ties():
    """Of equally long items the first in the queue join."""
    assert next_batch([7] * 10, budget_tokens=28, max_items=8) == [0, 1, 2, 3]


def test_item_over_budget():
    """An item over the budget is computed alone."""
    assert next_batch([900, 10, 10], budget_tokens=100, max_items=8) == [0]


@given(lengths, st.integers(1, 5000))
def test_plan_batches(lengths, budget):
    """All items are planned once, shortest first, within the budget."""
    batches = plan_batches(lengths, budget)
    order = [index for batch in batches for index in batch]
    assert order == sorted(range(len(lengths)), key=lengths.__getitem__)
    assert all(len(batch) == 1 or len(batch) * lengths[batch[-1]] <= budget for batch in batches)


@given(lengths, st.integers(1, 5000), st.sampled_from([0.0, 0.2, 1.0]))
def test_plan_batches_is_greedy(lengths, budget, padding_cost):
    """A batch ends only where the next text would exceed the budget, padding cost included."""

    def cost(indices):
        chosen = [lengths[index] for index in indices]
        return cost_tokens(sum(chosen), len(chosen), max(chosen), padding_cost)

    batches = plan_batches(lengths, budget, padding_cost)
    assert all(len(batch) == 1 or cost(batch) <= budget for batch in batches)
    assert all(cost([*batch, following[0]]) > budget for batch, following in pairwise(batches))
    assert plan_batches(lengths, budget) == plan_batches(lengths, budget, 1.0)


def test_plan_batches_examples():
    """Examples, the empty one too."""
    assert plan_batches([3, 1, 2, 4, 3], 6) == [[1, 2], [0, 4], [3]]
    assert plan_batches([], 6) == []


def test_start_tags():
    """As many texts as fill a quantum share a start tag; the next tag is where they end."""
    assert [*start_tags([4, 4, 2, 5, 5, 1, 30, 1], 100.0, 10)] == [100, 100, 100, 110, 110, 120, 121, 151]
    assert [*start_tags([11, 1], 0.0, 10)] == [0, 11]
