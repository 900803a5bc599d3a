import os

import h5py
import numpy as np
import pytest

from protembed import checked_rows
from protembed.checked_rows import CheckedRows
from protembed.errors import CorruptStore
from protembed.hdf5 import create_contiguous
from protembed.seals import seal

ROWS, WIDTH = 60, 5
ORDERS = {
    "as they stand": [(0, 20), (20, 40)],
    "again": [(0, 30), (10, 5), (0, 60), (59, 1)],
    "backwards": [(40, 20), (20, 20), (0, 20)],
    "with gaps": [(3, 4), (30, 1), (50, 2)],
    "overlapping": [(0, 20), (15, 20), (30, 30)],
    "none": [],
}


@pytest.fixture(params=[0, 1, ROWS], ids="{} rows".format)
def sealed(request, tmp_path):
    with h5py.File(tmp_path / "file.h5", "w") as file:
        create_contiguous(file, "vectors", (request.param, WIDTH), np.float32)[...] = np.random.default_rng(0).standard_normal((request.param, WIDTH))
        seal(file, {})
    return tmp_path / "file.h5"


def after_reading(path, order):
    """The dataset, read in this order (of which there is what the file has), each time as h5py has it; its check is to come."""
    with h5py.File(path) as file:
        descriptor = os.open(path, os.O_RDONLY)
        rows, stored = CheckedRows(file["vectors"], descriptor), file["vectors"][:]
    for first, count in order:
        out = np.empty((max(0, min(count, len(stored) - first)), WIDTH), np.float32)
        rows.read(min(first, len(stored)), out)
        assert np.array_equal(out, stored[first : first + count])
    return rows


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_rows_that_are_read_in_any_order_are_those_of_the_checksum(sealed, order, monkeypatch):
    monkeypatch.setattr(checked_rows, "BLOCK_BYTES", 4 * WIDTH * 7)
    rows = after_reading(sealed, order)
    rows.check("file.h5")
    rows.check("file.h5")


@pytest.mark.parametrize("row", [0, 10, 33, ROWS - 1])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("sealed", [ROWS], indirect=True, ids=[""])
def test_a_changed_number_is_found_whether_its_row_was_read_or_not(sealed, order, row):
    with h5py.File(sealed, "r+") as file:
        file["vectors"][row, 2] += 1
    with pytest.raises(CorruptStore, match="file.h5: dataset vectors was damaged"):
        after_reading(sealed, order).check("file.h5")


@pytest.mark.parametrize("sealed", [ROWS], indirect=True, ids=[""])
def test_each_byte_of_a_file_that_is_read_as_it_stands_is_read_once(sealed, monkeypatch):
    read, seen = os.preadv, []
    monkeypatch.setattr(os, "preadv", lambda *arguments: seen.append(read(*arguments)) or seen[-1])
    after_reading(sealed, ORDERS["as they stand"]).check("file.h5")
    assert sum(seen) == 4 * WIDTH * ROWS
