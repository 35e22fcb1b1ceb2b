"""Decide what goes next into the model, and when. Pure: no clock, no queue, no torch."""

from collections.abc import Iterable, Iterator, Sequence


def next_batch(lengths: Sequence[int], *, budget_tokens: int, max_items: int) -> list[int]:
    """Give the indices of the items that go together in the next forward pass.

    `lengths` are token counts in order of their turns. The first always goes, so nothing waits for ever; it is
    joined by those that add the least padding. A batch costs `items × longest`, because padding is computed too, and
    stays within `budget_tokens`, except that an item over the budget travels alone.
    """
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    low = high = order.index(0)
    while (count := high - low + 1) < max_items:
        longest = lengths[order[high]]
        below = longest - lengths[order[low - 1]] if low > 0 else None  # padding that one more on this side adds
        above = (lengths[order[high + 1]] - longest) * count if high + 1 < len(order) else None
        if above is not None and (count + 1) * lengths[order[high + 1]] > budget_tokens:
            above = None
        if below is not None and (count + 1) * longest > budget_tokens:
            below = None
        if below is None and above is None:
            break
        if above is None or (below is not None and below < above):
            low -= 1
        else:
            high += 1
    return sorted(order[low : high + 1])


def turns(lengths: Iterable[int], clock: float, quantum: int) -> Iterator[float]:
    """Give each of one caller's texts its turn: as many as fill a quantum of tokens now, as many again where they end.

    So a small request is answered whole before the next one begins. If all went on side by side, none would be done
    before all were, and under overload none in time.
    """
    taken = 0
    for length in lengths:
        if taken and taken + length > quantum:
            clock, taken = clock + taken, 0
        yield clock
        taken += length


def batches_of(lengths: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """Cut everything into batches of about one length within the budget: indices, the shortest texts first."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= budget_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
