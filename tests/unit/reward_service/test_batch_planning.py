from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from reward_service.batch_planning import cost_tokens, next_batch, plan_batches, start_tags

lengths = st.lists(st.integers(1, 600), min_size=1, max_size=80)


@given(lengths, st.integers(1, 5000), st.integers(1, 40))
def test_the_oldest_item_always_goes(lengths, budget, most):
    assert 0 in next_batch(lengths, budget_tokens=budget, max_items=most)


@given(lengths, st.integers(1, 5000), st.integers(1, 40))
def test_a_batch_fits_the_budget_unless_one_item_alone_does_not(lengths, budget, most):
    batch = next_batch(lengths, budget_tokens=budget, max_items=most)
    assert len(batch) <= most
    assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(lengths, st.integers(1, 5000), st.integers(1, 40))
def test_taking_batches_until_nothing_waits_takes_each_item_once(lengths, budget, most):
    waiting = list(enumerate(lengths))
    taken = []
    while waiting:
        batch = next_batch([length for _, length in waiting], budget_tokens=budget, max_items=most)
        taken += [waiting[i][0] for i in batch]
        waiting = [item for i, item in enumerate(waiting) if i not in set(batch)]
    assert sorted(taken) == list(range(len(lengths)))


@given(lengths, st.integers(1, 5000), st.integers(1, 40), st.sampled_from([0.0, 0.2, 1.0]))
def test_what_padding_costs_less_of_leaves_room_for_more(lengths, budget, most, padding_cost):
    batch = next_batch(lengths, budget_tokens=budget, max_items=most, padding_cost=padding_cost)
    real, longest = sum(lengths[i] for i in batch), max(lengths[i] for i in batch)
    assert len(batch) == 1 or cost_tokens(real, len(batch), longest, padding_cost) <= budget
    assert len(batch) >= len(next_batch(lengths, budget_tokens=budget, max_items=most))


@given(lengths, st.integers(1, 5000), st.integers(1, 40), st.data())
def test_what_goes_first_goes_whatever_its_length_and_others_only_as_they_fit(lengths, budget, most, data):
    indices = st.integers(0, min(len(lengths), most) - 1)
    first = {0, *data.draw(st.sets(indices))}
    batch = next_batch(lengths, budget_tokens=budget, max_items=most, required=first)
    assert first <= set(batch)
    assert len(batch) <= most
    assert len(batch) == len(first) or len(batch) * max(lengths[i] for i in batch) <= budget


def test_those_that_join_several_lengths_fill_up_below_the_longest():
    assert next_batch([10, 300, 290, 11, 20, 305], budget_tokens=1250, max_items=4, required={0, 1}) == [0, 1, 2, 5]


def test_items_of_like_length_go_together():
    assert next_batch([10, 300, 11, 9, 310], budget_tokens=40, max_items=8) == [0, 2, 3]


def test_items_of_the_firsts_own_length_go_before_shorter_ones():
    lengths = [100, 5, 100, 5, 100, 5, 100]
    assert next_batch(lengths, budget_tokens=400, max_items=8) == [0, 2, 4, 6]


def test_of_equal_items_those_whose_turn_is_nearer_go():
    assert next_batch([7] * 10, budget_tokens=28, max_items=8) == [0, 1, 2, 3]


def test_an_item_over_the_budget_travels_alone():
    assert next_batch([900, 10, 10], budget_tokens=100, max_items=8) == [0]


@given(lengths, st.integers(1, 5000))
def test_cutting_everything_takes_each_item_once_the_shortest_first_and_within_the_budget(lengths, budget):
    batches = plan_batches(lengths, budget)
    order = [index for batch in batches for index in batch]
    assert order == sorted(range(len(lengths)), key=lengths.__getitem__)
    assert all(len(batch) == 1 or len(batch) * lengths[batch[-1]] <= budget for batch in batches)


@given(lengths, st.integers(1, 5000), st.sampled_from([0.0, 0.2, 1.0]))
def test_a_batch_is_cut_where_the_next_text_would_cost_more_than_the_budget(lengths, budget, padding_cost):
    def cost(indices):
        chosen = [lengths[index] for index in indices]
        return cost_tokens(sum(chosen), len(chosen), max(chosen), padding_cost)

    batches = plan_batches(lengths, budget, padding_cost)
    assert all(len(batch) == 1 or cost(batch) <= budget for batch in batches)
    assert all(cost([*batch, following[0]]) > budget for batch, following in pairwise(batches))
    assert plan_batches(lengths, budget) == plan_batches(lengths, budget, 1.0)


def test_a_batch_is_cut_only_where_one_more_would_not_fit():
    assert plan_batches([3, 1, 2, 4, 3], 6) == [[1, 2], [0, 4], [3]]
    assert plan_batches([], 6) == []


def test_a_callers_turns_are_as_many_texts_as_fill_a_quantum_and_the_next_where_they_end():
    assert [*start_tags([4, 4, 2, 5, 5, 1, 30, 1], 100.0, 10)] == [100, 100, 100, 110, 110, 120, 121, 151]
    assert [*start_tags([11, 1], 0.0, 10)] == [0, 11]
