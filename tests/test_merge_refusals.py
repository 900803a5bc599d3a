# ruff: noqa: F811 (a fixture shared by import, as pytest has it)
"""What the merge does not take: it says why, with the right code, and leaves no file that could be mistaken for a result."""

import shutil

import h5py
import numpy as np
import pytest

from protembed import beside, records
from protembed.anchor import CONTENT, NAME
from protembed.hdf5 import create_contiguous
from protembed.layout import failures_path
from protembed.ledger import Outcomes
from protembed.records import read_records
from tests.conftest import run_inside
from tests.test_merge_chunks import merge, run  # noqa: F401


@pytest.fixture(autouse=True, params=[1 << 60, 0], ids=["", "vectors apart"])
def by_one_process_or_two(request, monkeypatch):
    monkeypatch.setattr(beside, "LEAST_BYTES", request.param)


def refused(run, weights, tmp_path, code, says, *arguments, **keywords):
    done = merge(run, weights, tmp_path / "out", *arguments, check=False, **keywords)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert says in done.stderr
    assert not (tmp_path / "out" / "embeddings.h5").exists() and not (tmp_path / "out" / "ledger.tsv").exists()
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_missing_chunk_is_exit_69_and_names_its_records(run, weights, tmp_path):
    chunks = sorted((run / "vectors").glob("*.h5"))
    refused(run, weights, tmp_path, 69, f"{chunks[0].stem} is missing", chunks=chunks[1:])
    refused(run, weights, tmp_path, 69, "no chunk was embedded", chunks=[])


@pytest.mark.parametrize("stale", [False, True], ids=["", "failures of another run"])
def test_when_every_record_was_left_out_it_says_so_and_why_and_not_that_a_task_failed(weights, tmp_path, stale):
    (tmp_path / "in.fasta").write_text("".join(f">bad{number}\nMJ\n" for number in range(25)))
    run_inside("split_fasta.py", tmp_path / "in.fasta", "--outdir", tmp_path, "--invalid-residues", "skip")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / NAME).write_text(CONTENT)
    if stale:
        reasons = failures_path(tmp_path / "root", "0" * 32, "chunk_1")
        reasons.parent.mkdir(parents=True)
        reasons.write_text("0\tnumbers that are not finite\n")
    (tmp_path / "out").mkdir()
    done = merge(tmp_path, weights, tmp_path / "out", "--anchor", tmp_path / "root" / NAME, chunks=[], check=False)
    assert done.returncode == 65 and "all 25 records were left out, there is nothing to embed:\nbad0: letters outside the alphabet: J\nbad1:" in done.stderr
    assert done.stderr.count("letters outside") == 20 and "EMBED_CHUNK" not in done.stderr and not list((tmp_path / "out").iterdir())


def test_a_chunk_of_another_recipe_is_exit_67_with_the_difference_in_words(run, weights, tmp_path):
    chunks = sorted((run / "vectors").glob("*.h5"))
    run_inside("embed_chunk.py", run / "chunks" / f"{chunks[0].stem}.fasta", "--weights", weights, "--outdir", tmp_path / "other", "--repr-layers", "2")
    refused(run, weights, tmp_path, 67, "repr_layers:", chunks=[*chunks[1:], *(tmp_path / "other").glob("*.h5")])


@pytest.mark.parametrize("shards", ["1", "2"])
@pytest.mark.parametrize("field", ["ids", "digests"])
def test_a_merge_that_puts_vectors_under_other_names_publishes_nothing(run, weights, tmp_path, monkeypatch, field, shards):
    with_vectors = Outcomes.with_vectors

    def mixed_up(self):
        right = with_vectors(self)
        return right._replace(**{field: getattr(right, field)[::-1]})

    monkeypatch.setattr(Outcomes, "with_vectors", mixed_up)
    refused(run, weights, tmp_path, 69, "are not those of the input", "--shards", shards)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_chunk_is_exit_68(run, weights, tmp_path, damage):
    chunks = sorted((run / "vectors").glob("*.h5"))
    bad = tmp_path / chunks[0].name
    content = bytearray(chunks[0].read_bytes())
    content[len(content) // 2] ^= 64
    bad.write_bytes({"flip": content, "truncate": content[:-3000], "empty": b""}[damage])
    refused(run, weights, tmp_path, 68, bad.name, chunks=[bad, *chunks[1:]])


def test_without_any_chunk_file_the_reasons_in_the_checkpoints_are_told(run, weights, tmp_path):
    first = next(record for record in read_records(run / "records.tsv"))
    reasons = failures_path(tmp_path / "root", "0" * 32, first.chunk)
    reasons.parent.mkdir(parents=True)
    reasons.write_text(f"{first.row}\tnumbers that are not finite\n")
    (tmp_path / "root" / NAME).write_text(CONTENT)
    done = merge(run, weights, tmp_path / "out", "--anchor", tmp_path / "root" / NAME, chunks=[], check=False)
    assert done.returncode == 69 and f"{first.id}: numbers that are not finite" in done.stderr and "is missing" in done.stderr


@pytest.mark.parametrize("at", [0, -1])
def test_damage_to_vectors_that_no_record_wants_is_exit_68_too(run, weights, tmp_path, at):
    chunks = sorted((run / "vectors").glob("*.h5"))
    lines = (run / "records.tsv").read_text().splitlines(keepends=True)
    name = lines[at].split("\t")[3]
    bad = tmp_path / f"{name}.h5"
    shutil.copy(run / "vectors" / bad.name, bad)
    with h5py.File(bad, "r+") as file:
        file["representations/3/mean"][0] += 1
    (tmp_path / "records.tsv").write_text("".join(line for line in lines if line.split("\t")[3] != name))
    others = [chunk for chunk in chunks if chunk.name != bad.name]
    refused(run, weights, tmp_path, 68, f"{bad.name}: dataset representations/3/mean was damaged", chunks=[bad, *others], records=tmp_path / "records.tsv")


def damaged_where_the_first_record_is(run, folder, value):
    """All chunk files, but that of the first record with another number in its last row, unsealed."""
    name = next(read_records(run / "records.tsv")).chunk
    shutil.copy(run / "vectors" / f"{name}.h5", folder)
    with h5py.File(folder / f"{name}.h5", "r+") as file:
        file["representations/3/mean"][-1] = value
    return [folder / path.name if path.stem == name else path for path in sorted((run / "vectors").glob("*.h5"))]


def test_no_shard_with_a_vector_of_a_damaged_file_gets_its_name(run, weights, tmp_path):
    chunks = damaged_where_the_first_record_is(run, tmp_path, 1.0)
    refused(run, weights, tmp_path, 68, "dataset representations/3/mean was damaged", "--shards", 20, chunks=chunks)
    assert not list((tmp_path / "out").iterdir())


def test_a_number_that_float16_cannot_hold_in_a_damaged_file_is_damage_and_not_a_bad_option(run, weights, tmp_path):
    chunks = damaged_where_the_first_record_is(run, tmp_path, 1e30)
    refused(run, weights, tmp_path, 68, "dataset representations/3/mean was damaged", "--store-dtype", "float16", chunks=chunks)


@pytest.mark.parametrize("shards", [1, 20])
def test_a_damaged_width_is_damage_and_no_traceback(run, weights, tmp_path, shards):
    chunks = damaged_where_the_first_record_is(run, tmp_path, 1.0)
    bad = next(path for path in chunks if path.parent == tmp_path)
    with h5py.File(bad, "r+") as file:
        stored, checksum = file["representations/3/mean"][:], file["representations/3/mean"].attrs["xxh3_128"]
        del file["representations/3/mean"]
        create_contiguous(file, "representations/3/mean", (len(stored), stored.shape[1] - 1), np.float32)[...] = stored[:, 1:]
        file["representations/3/mean"].attrs["xxh3_128"] = checksum
    refused(run, weights, tmp_path, 68, "dataset representations/3/mean was damaged", "--shards", shards, chunks=chunks)


def test_vectors_of_another_sequence_under_a_record_are_noticed(run, weights, tmp_path):
    lines = (run / "records.tsv").read_text().splitlines(keepends=True)
    columns = [line.split("\t") for line in lines]
    columns[0][3:5], columns[1][3:5] = columns[1][3:5], columns[0][3:5]
    (tmp_path / "records.tsv").write_text("".join("\t".join(line) for line in columns))
    refused(run, weights, tmp_path, 69, "holds another sequence", records=tmp_path / "records.tsv")


@pytest.fixture(scope="module")
def means(run, weights, tmp_path_factory):
    """The same run with means alone, whose sizes are known without a look at each record."""
    folder = tmp_path_factory.mktemp("means")
    shutil.copy(run / "records.tsv", folder)
    for chunk in sorted((run / "chunks").iterdir()):
        run_inside("embed_chunk.py", chunk, "--weights", weights, "--outdir", folder / "vectors")
    return folder


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("fault", ["missing", "other"])
def test_a_vector_that_is_missed_on_the_way_leaves_nothing_with_a_name(means, weights, tmp_path, monkeypatch, fault, shards):
    monkeypatch.setattr(records, "BLOCK_BYTES", 1)  # a line
    chunks = sorted((means / "vectors").glob("*.h5"))
    lines = (means / "records.tsv").read_text().splitlines(keepends=True)
    last, chosen = lines[-1].split("\t"), means / "records.tsv"
    if fault == "missing":
        chunks = [chunk for chunk in chunks if chunk.stem != last[3]]
    else:
        chosen = tmp_path / "records.tsv"
        chosen.write_text("".join(lines[:-1]) + "\t".join([*last[:4], str(int(last[4]) + 1), *last[5:]]))
    says = f"{last[3]} is missing" if fault == "missing" else "holds another sequence"
    refused(means, weights, tmp_path, 69, says, "--shards", shards, chunks=chunks, records=chosen)
    assert not list((tmp_path / "out").iterdir())
