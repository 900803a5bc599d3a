"""Lengths and a budget become packs. Pure, deterministic, standard library only; knows nothing of models or devices.

First-fit-decreasing: rows by falling length, each into the first pack that still has room. Filling one pack after the
other with the longest row that fits gives the very same packs (a pack takes exactly the rows that first-fit would offer
it, in the same order) and needs one binary search per row instead of a scan over all open packs.
Worst case 11/9 of the optimum plus 6/9 of a pack (Dosa 2007, "The tight bound of first fit decreasing").
"""

import math
from bisect import bisect_right
from typing import List, NamedTuple, Sequence


class Pack(NamedTuple):
    """What one forward pass takes."""

    rows: List[int]  # row numbers of the chunk, longest first
    tokens: int  # sum of their token counts


def plan_packs(token_counts: Sequence[int], max_tokens: int) -> List[Pack]:
    """Put every row into exactly one pack of at most `max_tokens` tokens; packs with the longest rows come first.

    token_counts: tokens of each row (residues + BOS + EOS), all >= 1.
    A row that alone exceeds the budget gets a pack to itself: it is never dropped and never cut here.
    Rows of equal length keep their order, so the plan depends on nothing but the arguments.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    waiting: dict = {}  # token count -> rows still to place, in reverse order (pop() gives the lowest row number)
    for row in range(len(token_counts) - 1, -1, -1):
        waiting.setdefault(token_counts[row], []).append(row)
    sizes = sorted(waiting)  # distinct token counts, rising
    packs = []
    while sizes:
        packs.append(_fill_pack(waiting, sizes, max_tokens))
    return packs


def _fill_pack(waiting: dict, sizes: List[int], max_tokens: int) -> Pack:
    rows: List[int] = []
    room = max(max_tokens, sizes[-1])  # the longest row is always taken
    budget = room
    index = len(sizes) - 1
    while index >= 0:
        size = sizes[index]
        take = min(room // size, len(waiting[size]))
        for _ in range(take):
            rows.append(waiting[size].pop())
        room -= take * size
        if not waiting[size]:
            del waiting[size], sizes[index]
        index = min(index, bisect_right(sizes, room)) - 1
    return Pack(rows, budget - room)


def balanced_budget(token_counts: Sequence[int], max_tokens: int) -> int:
    """The least budget found, at most `max_tokens`, that needs no more packs than `max_tokens` does.

    With data for 10.3 packs, eleven packs of 94 % cost what ten full ones and a rump cost, but they are of one size:
    the device's memory and kernels see the same shape in every pass, and the true budget is full.
    """
    if not token_counts:
        return max_tokens
    pack_count = len(plan_packs(token_counts, max_tokens))
    mean, longest = sum(token_counts) / pack_count, max(token_counts)
    for slack in (1.001, 1.003, 1.01, 1.02):
        budget = max(longest, math.ceil(mean * slack))
        if budget >= max_tokens:
            break
        if len(plan_packs(token_counts, budget)) == pack_count:
            return budget
    return max_tokens


def packing_efficiency(packs: Sequence[Pack], max_tokens: int) -> float:
    """Real tokens over the tokens that the packs could have held, 0..1; an oversized pack counts as its own budget."""
    offered = sum(max(max_tokens, pack.tokens) for pack in packs)
    return sum(pack.tokens for pack in packs) / offered if offered else 1.0
