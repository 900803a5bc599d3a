"""Rows of a chunk to vectors, whatever the device does: out of memory, non-finite numbers, a sequence that always fails.

Knows packs and rows; does not know what a model is (it is given a function) nor where vectors are kept.
"""

from itertools import chain
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set

import torch

from protembed.batch import Batch
from protembed.device import on_device
from protembed.errors import Transient, first_line
from protembed.layout import SPECIAL_TOKENS, Flag
from protembed.packing import Pack, balanced_budget, packing_efficiency, plan_packs
from protembed.underway import Underway, Vectors

Embed = Callable[[List[int]], Vectors]

SURELY_FITTING = 1024  # tokens, where nothing at all came through: then it is not the sequence
LESS_MEMORY = "use a device with more memory, or --long_sequences window or truncate"


class _Pass(NamedTuple):
    rows: List[int]
    underway: Underway


class Embedder:
    """Embeds rows pack by pack.

    residues: per row, how many the model gets to see. begin: one forward pass over some rows. embed_fp32: the same in single
    precision, to its end, for rows whose numbers left the range of half precision; None when `begin` already is. max_tokens:
    pack budget.
    """

    def __init__(self, residues: Sequence[int], begin: Callable[[List[int]], Underway], embed_fp32: Optional[Embed], max_tokens: int):
        self.residues, self.begin, self.embed_fp32 = residues, begin, embed_fp32
        self.token_counts = [count + SPECIAL_TOKENS for count in residues]
        self._plan_for(max_tokens)
        self.failed: Dict[int, str] = {}
        self._alone_too_large: Dict[int, str] = {}  # of them those without memory
        self._longest_through = 0  # tokens of a sequence
        self.forward_passes = self.tokens = self.out_of_memory = 0
        self.device_seconds = 0.0  # in forward passes

    def _plan_for(self, max_tokens: int) -> None:
        """Pack all rows, done or not: a resumed run must pack as the uninterrupted one did."""
        self.max_tokens = max_tokens
        self.pack_tokens = balanced_budget(self.token_counts, max_tokens)
        self.packs: List[Pack] = plan_packs(self.token_counts, self.pack_tokens)

    def efficiency(self) -> float:
        """Real tokens over the budget of the plan."""
        return packing_efficiency(self.packs, self.pack_tokens)

    def figures(self) -> Dict[str, float]:
        """For the chunk's metrics."""
        counted = ("forward_passes", "tokens", "max_tokens", "pack_tokens", "out_of_memory", "device_seconds")
        return dict({name: getattr(self, name) for name in counted}, packs=len(self.packs), packing_efficiency=self.efficiency())

    def run(self, missing: Set[int]) -> Iterator[Batch]:
        """Embed the rows of `missing`, pack by pack; those that cannot be embedded end up in `failed` with the reason.

        While the device works on one pack, the next is made ready and queued.
        """
        waiting: List[_Pass] = []
        for begun in chain(self._passes(set(missing)), self._second_tries()):
            waiting.append(begun)
            while len(waiting) > 1 or (waiting and on_device(waiting[0].underway.is_ready)):
                yield self._end(waiting.pop(0))
        for begun in waiting:
            yield self._end(begun)

    def _passes(self, missing: Set[int]) -> "Iterator[_Pass]":
        while missing:
            for pack in self.packs:
                rows = [row for row in pack.rows if row in missing]
                if not rows:
                    continue
                begun = self._begin(rows)
                if begun is None:
                    missing.difference_update(self.failed)
                    break  # the budget is smaller now: plan again
                missing.difference_update(rows)
                yield begun

    def _second_tries(self) -> "Iterator[_Pass]":
        """Of rows that had no memory alone, when all others are through: somebody else may have had it for a while."""
        for row, reason in list(self._alone_too_large.items()):
            begun, tokens = self._begin([row]), self.token_counts[row]
            if begun:
                del self.failed[row]
                yield begun
            elif tokens <= (self._longest_through or SURELY_FITTING):
                raise Transient(f"out of memory with {tokens} tokens alone in a pack ({reason}); that many should fit: something else takes the memory")

    def _begin(self, rows: List[int]) -> "Optional[_Pass]":
        """Queue one pass over some rows; None when the device has no memory for it (the budget is then halved, or the row failed)."""
        self.forward_passes += 1
        try:
            begun = _Pass(rows, on_device(self.begin, rows))
            self._longest_through = max(self._longest_through, *(self.token_counts[row] for row in rows))
            return begun
        except torch.OutOfMemoryError as error:
            reason = first_line(error)
        self.out_of_memory += 1
        self._make_room(rows, reason)  # not above: the error holds on to the tensors of the pass
        return None

    def _end(self, begun: "_Pass") -> Batch:
        """Wait for a pass and take what came out well."""
        vectors, seconds = on_device(begun.underway.result)
        self.device_seconds += seconds
        self.tokens += sum(self.token_counts[row] for row in begun.rows)
        return self._finite(begun.rows, vectors)

    def _make_room(self, rows: List[int], reason: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            getattr(torch._C, "_host_emptyCache", lambda: None)()  # pinned memory, by a name that is torch's own
        if len(rows) == 1:
            self._alone_too_large[rows[0]] = reason
            self.failed[rows[0]] = f"out of memory with {self.token_counts[rows[0]]} tokens alone in a pack ({reason}); {LESS_MEMORY}"
        else:
            self._plan_for(max(1, sum(self.token_counts[row] for row in rows) // 2))

    def _batch(self, rows: List[int], vectors: Vectors, flag: int = 0) -> Batch:
        residues = torch.tensor([self.residues[row] for row in rows])
        return Batch(torch.tensor(rows), torch.full((len(rows),), flag, dtype=torch.uint8), residues, vectors)

    def _finite(self, rows: List[int], vectors: Vectors) -> Batch:
        """The rows that came out well, at once or in fp32."""
        batch = self._batch(rows, vectors)
        fine = batch.finite()
        if fine.all():
            return batch
        again = (self._again_in_fp32(row) for row in batch.rows[~fine].tolist())
        return Batch.joined([batch.of_rows(fine), *filter(None, again)])

    def _again_in_fp32(self, row: int) -> Optional[Batch]:
        if self.embed_fp32 is not None:
            self.forward_passes += 1
            try:
                batch = self._batch([row], on_device(self.embed_fp32, [row]), Flag.FP32_RERUN)
            except torch.OutOfMemoryError as error:
                self.failed[row] = f"the model gives numbers that are not finite, and has no memory for single precision ({first_line(error)})"
                return None
            if batch.finite().all():
                return batch
        self.failed[row] = "the model gives numbers that are not finite, in single precision too"
        return None
