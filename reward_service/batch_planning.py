"""Plan batches from token lengths. Pure functions: no clock, no queue, no torch."""

from collections.abc import Collection, Iterable, Iterator, Sequence


def cost_tokens(real: int, texts: int, longest: int, padding_cost: float) -> float:
    """Return the cost of a batch: its real tokens, plus its padding tokens times their relative cost."""
    return real + padding_cost * (texts * longest - real)


def next_batch(
    lengths: Sequence[int],
    *,
    budget_tokens: int,
    max_items: int,
    padding_cost: float = 1.0,
    required: Collection[int] = (0,),
) -> list[int]:
    """Return the indices of the items of the next forward pass.

    `lengths` are token counts in queue order. The `required` items are always in; the items that need least padding
    beside them join. The batch costs at most `budget_tokens`, unless the required items alone cost more: an item over
    the budget is computed alone.
    """
    start = max(required, key=lengths.__getitem__)
    others = (index for index in range(len(lengths)) if index == start or index not in required)
    order = sorted(others, key=lambda index: (lengths[index], index))
    low = high = order.index(start)
    real, texts = sum(lengths[index] for index in required), len(required)
    while texts < max_items:
        texts += 1
        options = []  # (padding tokens of the batch with one more item on either side, that side)
        for side in (low - 1, high + 1):
            if 0 <= side < len(order):
                length, longest = lengths[order[side]], max(lengths[order[side]], lengths[order[high]])
                if cost_tokens(real + length, texts, longest, padding_cost) <= budget_tokens:
                    options.append((texts * longest - length, -side))
        if not options:
            break
        side = -min(options)[1]
        real += lengths[order[side]]
        low, high = min(low, side), max(high, side)
    return sorted({*required, *order[low : high + 1]})


def start_tags(lengths: Iterable[int], virtual_time: float, quantum: int) -> Iterator[float]:
    """Yield the start tag of each of one caller's texts: one tag per quantum of tokens, the next where that ends.

    So a small request finishes before the next one starts. If all were interleaved, none would finish before all did,
    and under overload none in time.
    """
    taken = 0
    for length in lengths:
        if taken and taken + length > quantum:
            virtual_time, taken = virtual_time + taken, 0
        yield virtual_time
        taken += length


def plan_batches(lengths: Sequence[int], budget_tokens: int, padding_cost: float = 1.0) -> list[list[int]]:
    """Group all items into batches within the budget: indices, shortest items first."""
    batches: list[list[int]] = []
    real = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        real += lengths[index]
        texts = len(batches[-1]) + 1 if batches else 1
        if batches and cost_tokens(real, texts, lengths[index], padding_cost) <= budget_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
            real = lengths[index]
    return batches
