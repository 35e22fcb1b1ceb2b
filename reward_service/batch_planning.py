"""Decide what goes next into the model, and when. Pure: no clock, no queue, no torch."""

from collections.abc import Collection, Iterable, Iterator, Sequence


def cost_tokens(real: int, texts: int, longest: int, padding_cost: float) -> float:
    """Give what a batch costs: its real tokens, and those that pad each text to the longest, which may cost less."""
    return real + padding_cost * (texts * longest - real)


def next_batch(
    lengths: Sequence[int],
    *,
    budget_tokens: int,
    max_items: int,
    padding_cost: float = 1.0,
    required: Collection[int] = (0,),
) -> list[int]:
    """Give the indices of the items that go together in the next forward pass.

    `lengths` are token counts in order of their turns. Those of `required` always go; they are joined by those that add
    the least padding. A batch costs no more than `budget_tokens`, except that what is first goes whatever it costs: an
    item over the budget travels alone.
    """
    start = max(required, key=lengths.__getitem__)
    others = (index for index in range(len(lengths)) if index == start or index not in required)
    order = sorted(others, key=lambda index: (lengths[index], index))
    low = high = order.index(start)
    real, texts = sum(lengths[index] for index in required), len(required)
    while texts < max_items:
        texts += 1
        more = []  # tokens that pad the batch with one more on either side
        for side in (low - 1, high + 1):
            if 0 <= side < len(order):
                length, longest = lengths[order[side]], max(lengths[order[side]], lengths[order[high]])
                if cost_tokens(real + length, texts, longest, padding_cost) <= budget_tokens:
                    more.append((texts * longest - length, -side))
        if not more:
            break
        side = -min(more)[1]
        real += lengths[order[side]]
        low, high = min(low, side), max(high, side)
    return sorted({*required, *order[low : high + 1]})


def start_tags(lengths: Iterable[int], clock: float, quantum: int) -> Iterator[float]:
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


def plan_batches(lengths: Sequence[int], budget_tokens: int, padding_cost: float = 1.0) -> list[list[int]]:
    """Cut everything into batches of about one length within the budget: indices, the shortest texts first."""
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
