"""Vectors in several files, and the index that readers open as one."""

import fcntl
import json
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest

import check_h5
from protembed import open_embeddings
from protembed.chunk_file import open_chunk_file
from protembed.errors import CorruptStore
from protembed.store import check_embeddings
from tests.conftest import BIN, run_inside
from tests.nextflow import basic, run_pipeline
from tests.test_merge_chunks import ledger_of, merge, run  # noqa: F401

NAMES = ["embeddings_1_of_3.h5", "embeddings_2_of_3.h5", "embeddings_3_of_3.h5"]


@pytest.fixture(scope="module")
def one_and_three(run, weights, tmp_path_factory):  # noqa: F811
    """Folders of a merge into one file, and of one into three."""
    folder = tmp_path_factory.mktemp("shards")
    merge(run, weights, folder / "one")
    merge(run, weights, folder / "three", "--shards", 3)
    return folder / "one", folder / "three"


@pytest.fixture
def three(one_and_three, tmp_path):
    """A copy of the three to do harm to."""
    shutil.copytree(one_and_three[1], tmp_path / "three")
    return tmp_path / "three"


def test_the_index_of_shards_reads_as_the_one_file_does_bit_for_bit(one_and_three, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # not where the shards are
    one, three = one_and_three
    assert sorted(path.name for path in three.glob("*.h5")) == ["embeddings.h5", *NAMES]
    whole, index = (check_embeddings(folder / "embeddings.h5") for folder in one_and_three)
    assert index["content_sha256"] == whole["content_sha256"] and (index["shards"], index["n_records"]) == (3, 40)
    assert (one / "ledger.tsv").read_bytes() == (three / "ledger.tsv").read_bytes()
    with open_embeddings(one / "embeddings.h5") as plain, open_embeddings(three / "embeddings.h5", verify=True) as sharded:
        assert sharded.ids == plain.ids and len(sharded) == 40
        for which in (3, -1, slice(10, 30, 3), slice(30, 2, -3), [17, 3, 3, -2], plain.ids[25]):
            assert np.array_equal(plain.mean(which, 3), sharded.mean(which, 3))
            ours, theirs = plain.per_tok(which, 1), sharded.per_tok(which, 1)
            assert len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))
    assert (three / "embeddings.h5").stat().st_size < (one / "embeddings.h5").stat().st_size / 4


def test_a_shard_is_a_whole_file_of_its_own_records(one_and_three):
    one, three = one_and_three
    with open_embeddings(one / "embeddings.h5") as plain:
        for number, name in enumerate(NAMES, 1):
            attributes = check_embeddings(three / name)
            rows = slice(14 * (number - 1), min(14 * number, 40))
            assert (attributes["shard"], attributes["shards"], attributes["n_embedded"]) == (number, 3, rows.stop - rows.start)
            with open_embeddings(three / name) as shard:
                assert shard.ids == plain.ids[rows]
                assert np.array_equal(shard.mean(layer=1), plain.mean(rows, 1)) and np.array_equal(shard.per_tok(-1, 3), plain.per_tok(rows.stop - 1, 3))


def test_an_index_whose_link_stands_elsewhere_finds_its_shards(one_and_three, tmp_path):
    (tmp_path / "linked.h5").symlink_to(one_and_three[1] / "embeddings.h5")
    assert check_embeddings(tmp_path / "linked.h5")["n_embedded"] == 40


def test_a_process_that_ends_with_an_index_still_open_ends_well(one_and_three):
    """As torch's spawned workers do."""
    reading = "import ctypes, sys; from protembed import open_embeddings; index = open_embeddings(sys.argv[1]); index[3]; index.per_tok(3, 1)"
    kept = "ctypes.pythonapi.Py_IncRef(ctypes.py_object(index))"
    done = subprocess.run([sys.executable, "-c", f"{reading}; {kept}", one_and_three[1] / "embeddings.h5"], env={"PYTHONPATH": str(BIN)})
    assert done.returncode == 0


def test_an_index_without_one_of_its_shards_is_refused_and_not_read_as_nan(three):
    (three / NAMES[1]).unlink()
    with pytest.raises(CorruptStore, match=f"{NAMES[1]} with its vectors is not beside it"):
        open_embeddings(three / "embeddings.h5")
    with h5py.File(three / "embeddings.h5") as file:  # what another program would see
        assert np.isnan(file["embeddings"][14:28]).all() and np.isfinite(file["embeddings"][:14]).all()


def test_what_another_program_holds_locked_or_cannot_be_locked_at_all_is_read_all_the_same(one_and_three, run):  # noqa: F811
    """NFS without its lock daemon answers flock with ENOLCK: without a call, there is no answer."""
    chunk, three = min((run / "vectors").glob("*.h5")), one_and_three[1]
    for locked in (chunk, three / "embeddings.h5", three / NAMES[1]):
        with open(locked) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            with open_chunk_file(chunk) as opened:
                assert len(opened)
            with open_embeddings(three / "embeddings.h5", verify=True) as index:
                assert np.isfinite(index[14:28]).all()


def test_a_program_may_have_a_file_open_with_h5py_and_with_us_in_any_order(one_and_three):
    index, shard = one_and_three[1] / "embeddings.h5", one_and_three[1] / NAMES[1]
    for theirs in (index, shard):
        with h5py.File(theirs) as file, open_embeddings(index, verify=True) as ours:
            assert len(ours) == 40 and len(file["lengths"]) and np.isfinite(ours[14:28]).all()
    with open_embeddings(index) as ours, h5py.File(index) as file, h5py.File(shard) as part:
        assert np.array_equal(ours[14:28], file["embeddings"][14:28]) and np.array_equal(ours[14:28], part["embeddings"])


def test_a_shard_of_another_run_is_refused(three, run, weights, tmp_path):  # noqa: F811
    merge(run, weights, tmp_path / "half", "--shards", 3, "--store-dtype", "float16")
    shutil.copy(tmp_path / "half" / NAMES[2], three / NAMES[2])
    with pytest.raises(CorruptStore, match=f"{NAMES[2]} is not the file that embeddings.h5 was made with"):
        check_embeddings(three / "embeddings.h5")


def test_a_number_that_was_changed_in_a_shard_is_found_through_the_index(three):
    with h5py.File(three / NAMES[0], "r+") as file:
        file["representations/3/bos"][5, 1] += 1
    with pytest.raises(CorruptStore, match="representations/3/bos was damaged"):
        check_embeddings(three / "embeddings.h5")


def test_check_h5_takes_an_index_with_its_ledger_and_shards(one_and_three):
    three = one_and_three[1]
    run_inside("check_h5.py", three / "embeddings.h5", "--ledger", three / "ledger.tsv")
    run_inside("check_h5.py", *(three / name for name in NAMES))


def test_the_check_of_an_index_may_take_as_long_as_reading_its_shards_takes(three, monkeypatch):
    monkeypatch.setattr(check_h5, "SLOWEST", 1)
    everything = sum(path.stat().st_size for path in three.glob("*.h5"))
    assert check_h5.processor_seconds(three / "embeddings.h5") == check_h5.SECONDS + everything
    alone = (three / NAMES[1]).stat().st_size
    assert check_h5.processor_seconds(three / NAMES[1]) == check_h5.SECONDS + alone
    assert check_h5.processor_seconds(three / "nothing.h5") == check_h5.SECONDS


def test_more_shards_than_records_are_as_many_as_records(run, weights, tmp_path):  # noqa: F811
    merge(run, weights, tmp_path, "--shards", 100, "--compression", "gzip")
    assert len(list(tmp_path.glob("embeddings_*_of_40.h5"))) == 40
    assert check_embeddings(tmp_path / "embeddings.h5")["shards"] == 40
    assert len(ledger_of(tmp_path)) == 40


def test_no_shard_at_all_is_a_bad_option(run, weights, tmp_path):  # noqa: F811
    done = merge(run, weights, tmp_path, "--shards", 0, check=False)
    assert done.returncode == 78 and "--shards must be from 1 to" in done.stderr


@pytest.mark.nextflow
def test_a_run_publishes_shards_which_its_report_reads_and_a_later_run_takes_as_it_takes_their_index(tmp_path, hostile_pt):
    arguments = [*basic(tmp_path, hostile_pt), "--report", "true"]
    run_pipeline(tmp_path, *arguments, "--shards", 2)
    shards = ["embeddings_1_of_2.h5", "embeddings_2_of_2.h5"]
    assert sorted(path.name for path in (tmp_path / "results").glob("*.h5")) == ["embeddings.h5", *shards]
    assert json.loads((tmp_path / "results" / "report.json").read_text())["norms"]["sampled"] == 60
    for earlier in ("embeddings_*_of_2.h5", "embeddings.h5"):
        again = run_pipeline(tmp_path, *arguments, "--reuse", tmp_path / "results" / earlier, "--outdir", tmp_path / "again")
        assert "EMBED_CHUNK" not in again.submitted() and "60 of 60 records embedded" in again.output
        with open_embeddings(tmp_path / "results" / "embeddings.h5") as first, open_embeddings(tmp_path / "again" / "embeddings.h5") as second:
            assert np.array_equal(first[:], second[:])
