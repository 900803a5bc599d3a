"""check_h5.py on real results: damaged bit by bit and byte by byte, and on files that are whole but cannot be."""

import random
import re
import shutil
import sys
from collections import Counter

import h5py
import numpy as np
import pytest

from protembed.seals import dataset_names, seal
from tests.conftest import run_inside, run_script
from tests.crash import FULL, in_processes
from tests.results import small_result

DAMAGES = {"flip": 4000 if FULL else 60, "cut": 1000 if FULL else 20}  # of each of two files


@pytest.fixture(scope="module")
def chunk(result):
    return max(result.parent.parent.glob("vectors/*.h5"), key=lambda path: path.stat().st_size)


def resealed(path, folder, change, **attributes):
    """A copy that was changed by somebody who knows how to seal."""
    copy = shutil.copy(path, folder / path.name)
    with h5py.File(copy, "r+") as file:
        change(file)
        seal(file, attributes)
    return copy


def refused(code, says, *arguments):
    done = run_script("check_h5.py", *arguments, check=False)
    complaint = [line for line in done.stderr.splitlines() if line.startswith("check_h5.py: ")]
    assert (done.returncode, len(complaint), "Traceback" in done.stderr) == (code, 1, False), done.stderr
    assert says in complaint[0]


def test_good_files_are_exit_0_and_said_to_be_whole(result, chunk):
    done = run_script("check_h5.py", result, chunk, "--ledger", result.parent / "ledger.tsv")
    assert "embeddings.h5 is whole: 16 records, model hostile.pt" in done.stderr and f"{chunk.name} is whole" in done.stderr


def test_a_file_of_an_older_version_is_not_called_damaged(result, tmp_path):
    with h5py.File(shutil.copy(result, tmp_path / "old.h5"), "r+") as file:
        del file["flags"].attrs["xxh3_128"]
    refused(68, "dataset flags has no checksum, or that of an older version", tmp_path / "old.h5")


def content(path):
    """All that a reader can get from a file, as text."""
    with h5py.File(path) as file:
        parts = {name: file[name][()] for name in [*dataset_names(file), *({"embeddings"} & set(file))]}
        data = {name: part.tolist() if part.dtype.kind == "O" else (part.dtype.str, part.shape, part.tobytes()) for name, part in parts.items()}
        return repr((sorted(data.items()), sorted((name, str(value)) for name, value in file.attrs.items())))


@pytest.mark.parametrize("which", ["result", "chunk"])
def test_a_bit_flipped_anywhere_is_refused_or_changes_nothing_that_can_be_read(which, request, tmp_path, say):
    damage_and_check(request.getfixturevalue(which), tmp_path, say, "flip")


@pytest.mark.parametrize("which", ["result", "chunk"])
def test_a_file_cut_anywhere_is_refused(which, request, tmp_path, say):
    tally = damage_and_check(request.getfixturevalue(which), tmp_path, say, "cut")
    assert tally["harmless"] == 0


def places(path, kind):
    """Bits to damage: anywhere, but every second flip outside of the vectors, which are most of a file."""
    drawn, taken = random.Random(0), set()
    with h5py.File(path) as file:
        for name in dataset_names(file):
            start = file[name].id.get_offset() if name.startswith("representations") else None
            taken |= set(range(start, start + file[name].nbytes)) if start else set()
    others = [byte for byte in range(path.stat().st_size) if byte not in taken]
    for number in range(DAMAGES[kind]):
        byte = drawn.choice(others) if kind == "flip" and number % 2 else drawn.randrange(path.stat().st_size)
        yield number, byte * 8 + drawn.randrange(8)


def damage_and_check(path, tmp_path, say, kind):
    run_inside("check_h5.py", path)
    script, whole, golden = sys.modules["check_h5"], path.read_bytes(), content(path)
    script.SECONDS = 2

    def check(case):
        number, bit = case
        target = tmp_path / f"{number}.h5"
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        target.write_bytes(damaged if kind == "flip" else whole[: bit // 8])
        complaints = tmp_path / f"{number}.txt"
        with open(complaints, "w", buffering=1) as sys.stderr:
            codes = []
            code = script.exit_code_of("check_h5.py", lambda: codes.append(script.judge(target, ""))) or codes[0]
        assert code in (0, 67, 68, 69), (bit, code, complaints.read_text())
        said = [line for line in complaints.read_text().splitlines() if line.startswith("check_h5.py: ")]
        assert len(said) == (code != 0), (bit, said)
        assert code or content(target) == golden, f"bit {bit} went unnoticed"
        target.unlink()
        complaints.unlink()
        with open(tmp_path / ("refused" if code else "harmless"), "a") as tally:
            tally.write(".")

    in_processes(check, places(path, kind))
    tally = Counter({name: (tmp_path / name).stat().st_size for name in ("refused", "harmless") if (tmp_path / name).exists()})
    assert tally.total() == DAMAGES[kind] and tally["refused"] > DAMAGES[kind] / 4
    say(f"{path.name}, {kind}: {dict(tally)}")
    return tally


def put(dataset, row, value):
    def change(file):
        file[dataset][row] = value

    return change


def swap_offsets(file):
    file["offsets"][1:3] = file["offsets"][1:3][::-1]


def drop(name):
    def change(file):
        del file[name]

    return change


def link_last_mean(file):
    del file["embeddings"]
    file["embeddings"] = file["representations/3/mean"]


CANNOT_BE = {
    "an id twice": (68, "protein3 stands there more than once", put("sequence_ids", 7, "protein3")),
    "offsets that fall": (68, "offsets do not rise from 0", swap_offsets),
    "an unknown flag": (68, "a flag that format 1.0 does not have", put("flags", 2, 128)),
    "a repeat that is not flagged": (68, "row 14 is wrongly flagged, or not, as duplicate", put("flags", 14, 0)),
    "a cut that is not flagged": (68, "row 0 is wrongly flagged, or not, as truncated", put("flags", 0, 0)),
    "windows that were none": (68, "row 5 is wrongly flagged, or not, as windowed", put("flags", 5, 8)),
    "means of another layer": (68, "/embeddings is not the lowest layer's mean", link_last_mean),
    "no number": (68, "representations/3/per_tok holds a number that is not finite", put("representations/3/per_tok", 5, np.nan)),
    "a missing dataset": (68, "its recipe makes", drop("representations/3/mean")),
    "rows that are not counted": (69, "rows are missing", lambda file: file.attrs.update(n_skipped=3)),
    "fewer rows than counted": (69, "16 rows, but n_records 17, n_embedded 17", lambda file: file.attrs.update(n_embedded=17, n_records=17)),
    "a recipe of another identity": (67, "its recipe is not that of its identity", lambda file: file.attrs.update(identity="0" * 32)),
    "another format": (68, "format 2.0; this version reads 1.0", None),
}


@pytest.mark.parametrize("what", CANNOT_BE)
def test_a_sealed_file_that_cannot_be_is_refused_with_what_is_wrong(result, tmp_path, what):
    code, says, change = CANNOT_BE[what]
    bad = resealed(result, tmp_path, change or (lambda file: None))
    if change is None:
        with h5py.File(bad, "r+") as file:
            file.attrs["format_version"] = "2.0"
    refused(code, says, bad)


def test_an_attribute_that_was_changed_is_refused(result, tmp_path):
    bad = shutil.copy(result, tmp_path)
    with h5py.File(bad, "r+") as file:
        file.attrs["model"] = "esm2_t33_650M_UR50D"
    refused(68, "an attribute was changed", bad)


def test_foreign_unfinished_and_missing_files_are_refused_by_name(result, tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5")
    refused(68, "text.h5 cannot be read as HDF5", tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["embeddings"] = np.zeros(3)
    refused(68, "other.h5 is not a protembed file", tmp_path / "other.h5")
    unfinished = shutil.copy(result, tmp_path / "unfinished.h5")
    with h5py.File(unfinished, "r+") as file:
        del file.attrs["complete"]
    refused(68, "unfinished.h5 was not finished", unfinished)
    refused(68, "nowhere.h5 is not there", tmp_path / "nowhere.h5")


def test_files_of_two_recipes_are_exit_67_with_the_difference_in_words(result, weights, tmp_path):
    other = small_result(tmp_path, weights, "--dtype", "bfloat16")
    refused(67, "compute_dtype: bfloat16 instead of float32", result, other)


def test_a_row_that_is_not_the_ledgers_is_exit_69(result, tmp_path):
    text = (result.parent / "ledger.tsv").read_text()
    (tmp_path / "ledger.tsv").write_text(text + f"more\tembedded\t16\t5\t0\t{'ab' * 32}\t\t\n")
    refused(69, "no further row, but ledger.tsv says row 16 is more", result, "--ledger", tmp_path / "ledger.tsv")
    (tmp_path / "ledger.tsv").write_text(re.sub(r"^protein3\b", "other", text, flags=re.MULTILINE))
    refused(69, "row 3 is protein3", result, "--ledger", tmp_path / "ledger.tsv")
