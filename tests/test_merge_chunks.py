import json
import random
import shutil

import h5py
import numpy as np
import pytest

from protembed import beside, merging, records
from protembed.anchor import CONTENT, NAME
from protembed.errors import CorruptStore
from protembed.layout import Flag
from protembed.proteins import digest_of, read_fasta
from protembed.records import read_records
from protembed.store import check_embeddings
from tests.conftest import FP32_BOUND, draw_lengths, make_proteins, reference_layers, relative_l2, run_inside, write_fasta

ROW_BYTES = 4 * 128  # of conftest.hostile_esm2


@pytest.fixture(scope="module")
def run(tmp_path_factory, weights):
    """Split and embedded: 40 records in several chunks, every fifth a repeat of an earlier one, one truncated."""
    folder = tmp_path_factory.mktemp("run")
    given = make_proteins([1030, *draw_lengths(31, 20, 120)], seed=8)
    given += [given[place] for place in (3, 0, 17, 3, 30, 8, 9, 10)]
    random.Random(1).shuffle(given)
    write_fasta(folder / "in.fasta", given)
    run_inside("split_fasta.py", folder / "in.fasta", "--outdir", folder, "--chunk-residues", 500)
    for chunk in sorted((folder / "chunks").iterdir()):
        run_inside(
            "embed_chunk.py",
            chunk,
            "--weights",
            weights,
            "--outdir",
            folder / "vectors",
            "--include",
            "mean,bos,per_tok",
            "--repr-layers",
            "1,3",
            "--max-tokens",
            400,
        )
    return folder


def merge(run, weights, outdir, *arguments, chunks=None, records=None, check=True):
    chunks = sorted((run / "vectors").glob("*.h5")) if chunks is None else chunks
    return run_inside(
        "merge_chunks.py",
        *chunks,
        "--records",
        records or run / "records.tsv",
        "--weights",
        weights / "weights.json",
        "--outdir",
        outdir,
        *arguments,
        check=check,
    )


def contents(outdir):
    """What must be equal in two merges of the same, whenever and however they were made."""
    return check_embeddings(outdir / "embeddings.h5")["content_sha256"], (outdir / "ledger.tsv").read_bytes(), sorted(path.name for path in outdir.iterdir())


def ledger_of(outdir):
    header, *lines = (line.split("\t") for line in (outdir / "ledger.tsv").read_text().splitlines())
    return [dict(zip(header, line)) for line in lines]


def test_every_record_has_its_own_vector_in_input_order(run, weights, hostile_esm2, tmp_path):
    merge(run, weights, tmp_path)
    given = list(read_fasta(run / "in.fasta"))
    with h5py.File(tmp_path / "embeddings.h5") as file:
        assert list(file["sequence_ids"].asstr()) == [record.id for record in given]
        assert file["embeddings"] == file["representations/1/mean"]
        offsets = file["offsets"][:]
        for row, record in enumerate(given):
            reference = reference_layers(hostile_esm2, record.sequence[:1022], (1, 3))
            assert file["sha256"][row].tobytes() == digest_of(record.sequence)
            assert file["lengths"][row] == len(record.sequence)
            for layer in (1, 3):
                group, residues = file[f"representations/{layer}"], reference[layer][1:-1]
                assert relative_l2(group["mean"][row][None], residues.double().mean(0)[None]) <= FP32_BOUND
                assert relative_l2(group["bos"][row][None], reference[layer][:1]) <= FP32_BOUND
                assert relative_l2(group["per_tok"][offsets[row] : offsets[row + 1]], residues) <= FP32_BOUND


def test_the_file_describes_itself_as_format_1(run, weights, tmp_path):
    merge(run, weights, tmp_path, "--run-command", "nextflow run main.nf", "--code-digest", "abc")
    attributes = check_embeddings(tmp_path / "embeddings.h5")
    assert (attributes["format"], attributes["format_version"], attributes["complete"]) == ("protembed", "1.0", 1)
    assert (attributes["n_records"], attributes["n_embedded"], attributes["n_skipped"]) == (40, 40, 0)
    assert list(attributes["repr_layers"]) == [1, 3]
    assert (attributes["command"], attributes["code_digest"], attributes["model"]) == ("nextflow run main.nf", "abc", "hostile.pt")
    expected = "weights_sha256 include compute_dtype store_dtype long_sequences max_residues pipeline_version torch device created content_sha256"
    assert set(expected.split()) <= set(attributes)


def test_the_ledger_has_every_record_with_status_row_and_reason(run, weights, tmp_path):
    merge(run, weights, tmp_path)
    ledger, records = ledger_of(tmp_path), list(read_records(run / "records.tsv"))
    assert [line["id"] for line in ledger] == [record.id for record in records]
    assert [int(line["row"]) for line in ledger] == list(range(40))
    assert sum(line["status"] == "duplicate" for line in ledger) == 8
    long = [line for line in ledger if line["residues"] == "1030"]
    assert len(long) == 2 and all("first 1022 residues" in line["reason"] and int(line["flags"]) & Flag.TRUNCATED for line in long)
    repeat = next(line for line in ledger if line["status"] == "duplicate")
    first = repeat["reason"].split("same sequence as ")[1].split(";")[0]
    assert next(line for line in ledger if line["id"] == first)["sha256"] == repeat["sha256"]


def test_the_order_of_the_chunk_files_does_not_matter(run, weights, tmp_path):
    chunks = sorted((run / "vectors").glob("*.h5"))
    digests = []
    for seed in range(3):
        random.Random(seed).shuffle(chunks)
        merge(run, weights, tmp_path / str(seed), chunks=chunks)
        digests.append(check_embeddings(tmp_path / str(seed) / "embeddings.h5")["content_sha256"])
    assert len(set(digests)) == 1


@pytest.mark.parametrize("most", [1, 3, 100])
def test_vectors_pass_through_memory_in_small_pieces_and_in_order_whatever_their_size(run, weights, tmp_path, monkeypatch, most):
    """Here mean, bos and per_tok of two layers, of sequences among which one is larger than any piece."""
    merge(run, weights, tmp_path / "whole")
    pieces, seen = merging.VectorFiles.pieces, []

    def watched(self, block, name):
        return (seen.append(piece.nbytes) or piece for piece in pieces(self, block, name))

    monkeypatch.setattr(merging, "PIECE_BYTES", most * ROW_BYTES)
    monkeypatch.setattr(merging.VectorFiles, "pieces", watched)
    monkeypatch.setattr(records, "BLOCK_BYTES", 1)  # a line
    merge(run, weights, tmp_path / "pieces")
    assert max(seen) == 1022 * ROW_BYTES and seen.count(ROW_BYTES) > 40 * (most == 1)
    assert contents(tmp_path / "pieces") == contents(tmp_path / "whole")


@pytest.mark.parametrize("shards", [1, 3])
def test_a_merge_by_two_processes_writes_what_one_writes(run, weights, tmp_path, monkeypatch, shards):
    for least in (0, 1 << 60):
        monkeypatch.setattr(beside, "LEAST_BYTES", least)
        merge(run, weights, tmp_path / str(least), "--shards", shards)
    assert contents(tmp_path / "0") == contents(tmp_path / str(1 << 60))


def test_float16_is_the_single_precision_vector_rounded_once(run, weights, tmp_path):
    merge(run, weights, tmp_path / "single")
    merge(run, weights, tmp_path / "half", "--store-dtype", "float16")
    with h5py.File(tmp_path / "single" / "embeddings.h5") as single, h5py.File(tmp_path / "half" / "embeddings.h5") as half:
        assert half["embeddings"].dtype == np.float16
        assert np.array_equal(half["embeddings"][:], single["embeddings"][:].astype(np.float16))


def test_checkpoints_of_merged_chunks_are_removed_unless_they_are_to_be_kept(run, weights, tmp_path):
    shutil.copytree(run / "vectors" / "checkpoints", tmp_path / "root")
    (tmp_path / "root" / NAME).write_text(CONTENT)
    anchor = tmp_path / "root" / NAME
    merge(run, weights, tmp_path / "out", "--anchor", anchor, "--keep-checkpoints")
    assert list((tmp_path / "root").rglob("*.done"))
    (tmp_path / "root" / "of_others" / "chunk").mkdir(parents=True)
    (mine, *_), batches = (path.parent for path in (tmp_path / "root").rglob("attempt_*.json")), len(list((tmp_path / "root").rglob("*.done")))
    (mine / "attempt_00099.json").write_text(json.dumps(dict(session="another run's")))
    here = len(list(mine.glob("*.done")))
    merge(run, weights, tmp_path / "out", "--anchor", anchor)  # the other run's are left to it
    assert 0 < here == len(list((tmp_path / "root").rglob("*.done"))) < batches
    merge(run, weights, tmp_path / "out", "--anchor", anchor, "--session", "another run's")
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == [NAME, "of_others"]


def test_a_record_that_was_left_out_has_no_row_but_a_line_in_the_ledger(weights, tmp_path):
    (tmp_path / "in.fasta").write_text(">good\nMKV\n>bad\nMJV\n>fine\nMKL\n")
    run_inside("split_fasta.py", tmp_path / "in.fasta", "--outdir", tmp_path, "--invalid-residues", "skip")
    (chunk,) = (tmp_path / "chunks").iterdir()
    run_inside("embed_chunk.py", chunk, "--weights", weights, "--outdir", tmp_path / "vectors")
    merge(tmp_path, weights, tmp_path / "out")
    with h5py.File(tmp_path / "out" / "embeddings.h5") as file:
        assert list(file["sequence_ids"].asstr()) == ["good", "fine"]
        assert (file.attrs["n_records"], file.attrs["n_embedded"], file.attrs["n_skipped"]) == (3, 2, 1)
    bad = ledger_of(tmp_path / "out")[1]
    assert (bad["status"], bad["row"], bad["reason"]) == ("skipped", "-", "letters outside the alphabet: J")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["n_skipped"] == 1


@pytest.mark.parametrize("dataset", ["embeddings", "sha256", "lengths", "flags", "representations/3/per_tok"])
def test_check_finds_a_number_that_was_changed_in_the_finished_file(run, weights, tmp_path, dataset):
    merge(run, weights, tmp_path)
    with h5py.File(tmp_path / "embeddings.h5", "r+") as file:
        file[dataset][0] = file[dataset][0] + 1
    with pytest.raises(CorruptStore, match="damaged"):
        check_embeddings(tmp_path / "embeddings.h5")
