"""Which rows a caller means: one by id or number, or several by slice, ids, numbers or mask. Nothing is taken for what it may not be."""

import contextlib
import operator
from typing import Any, Callable, Sequence, Union

import numpy as np

# One id or row gives one record's vector; a slice, a list of ids, a list or array of rows, or a mask gives several.
Which = Union[str, int, slice, Sequence[str], Sequence[int], Sequence[bool], np.ndarray]


def rows_meant(which: Which, count: int, row_of: Callable[[str], int]) -> Union[int, slice, np.ndarray]:
    """A row, or what selects several of `count` rows; row_of: of an id. TypeError for what is no row, IndexError for a mask of another length."""
    if isinstance(which, slice):
        return which
    if isinstance(which, (str, bytes, int)) or not hasattr(which, "__iter__") or getattr(which, "ndim", 1) == 0:
        return _row(which, row_of)
    if isinstance(which, np.ndarray) and which.dtype.kind in "iu":
        return which
    items = list(which)
    if str(getattr(which, "dtype", "")).endswith("bool") or (items and all(isinstance(item, (bool, np.bool_)) for item in items)):
        mask = np.array(items, bool)
        if mask.shape != (count,):
            raise IndexError(f"a mask of {len(mask)} for {count} records")
        return np.flatnonzero(mask)
    return np.array([_row(item, row_of) for item in items], np.int64)


def _row(item: Any, row_of: Callable[[str], int]) -> int:
    if isinstance(item, str):
        return row_of(item)
    if hasattr(item, "__index__") and not isinstance(item, bool):  # numpy would take True for 1
        with contextlib.suppress(TypeError):  # of an array of several
            return operator.index(item)
    hint = "; decode it, or read ids with .asstr()" if isinstance(item, bytes) else ""
    raise TypeError(f"a row is a whole number or an id (str), not {item!r:.80}{hint}")
