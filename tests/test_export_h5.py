"""Every layout is read back by the program that it is for."""

import errno

import anndata
import h5py
import numpy as np
import pyarrow.parquet
import pytest

from protembed.errors import BadInput, BadOption, CorruptStore
from protembed.exporting import accessions, dataset_names
from tests.conftest import run_inside
from tests.results import embed_all, merge_all


def export(result, output, *arguments):
    run_inside("export_h5.py", result, "--output", output, *arguments)
    assert not [path for path in output.parent.iterdir() if path.name.startswith(".")]
    return output


def test_per_accession_has_a_dataset_for_each_record(result, embeddings, tmp_path):
    with h5py.File(export(result, tmp_path / "out.h5")) as file:
        assert list(file) == sorted(embeddings.ids) and len(file) == 16
        assert all(np.array_equal(file[name][:], embeddings[name]) and file[name].attrs["original_id"] == name for name in embeddings.ids)
        assert file.attrs["content_sha256"] == embeddings.attributes["content_sha256"]
    with h5py.File(export(result, tmp_path / "residues.h5", "--kind", "per_tok", "--layer", 3)) as file:
        assert all(np.array_equal(file[name][:], embeddings.per_tok(name, layer=3)) for name in embeddings.ids)


def test_npy_is_the_array_with_its_ids_and_offsets_beside_it(result, embeddings, tmp_path):
    assert np.array_equal(np.load(export(result, tmp_path / "mean.npy", "--layout", "npy")), embeddings.mean())
    assert (tmp_path / "mean.ids.txt").read_text().split("\n") == [*embeddings.ids, ""]
    residues = np.load(export(result, tmp_path / "residues.npy", "--layout", "npy", "--kind", "per_tok"))
    start, end = np.load(tmp_path / "residues.offsets.npy")[5:7]
    assert np.array_equal(residues[start:end], embeddings.per_tok("protein5"))


def test_means_beside_an_earlier_export_of_residues_have_no_offsets_and_npy_is_asked_for_by_its_suffix(result, embeddings, tmp_path):
    export(result, tmp_path / "run.2024.npy", "--layout", "npy", "--kind", "per_tok")
    assert np.array_equal(np.load(export(result, tmp_path / "run.2024.npy", "--layout", "npy")), embeddings.mean())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.2024.ids.txt", "run.2024.npy"]


def test_an_export_that_fails_leaves_no_array_whose_ids_are_those_of_another(result, tmp_path, monkeypatch):
    export(result, tmp_path / "mean.npy", "--layout", "npy")

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    assert run_inside("export_h5.py", result, "--output", tmp_path / "mean.npy", "--layout", "npy", check=False).returncode == 75
    assert not (tmp_path / "mean.npy").exists()


@pytest.mark.parametrize("output, words", [("", "is a folder"), ("nowhere/out.h5", "is no folder"), ("file/out.h5", "is no folder")])
def test_a_place_that_cannot_be_written_is_a_bad_option(result, tmp_path, output, words):
    (tmp_path / "file").write_text("")
    done = run_inside("export_h5.py", result, "--output", tmp_path / output, check=False)
    assert done.returncode == 78 and words in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_parquet_is_read_by_pyarrow(result, embeddings, tmp_path, monkeypatch):
    monkeypatch.setattr("protembed.exporting.BLOCK_ROWS", 5)
    table = pyarrow.parquet.read_table(export(result, tmp_path / "out.parquet", "--layout", "parquet", "--layer", 3))
    assert table["id"].to_pylist() == embeddings.ids and table["length"].to_pylist() == embeddings.lengths.tolist()
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), embeddings.mean(layer=3))
    assert table.schema.metadata[b"layer"] == b"3"


def test_h5ad_is_read_by_anndata(result, embeddings, tmp_path, monkeypatch):
    monkeypatch.setattr("protembed.exporting.BLOCK_ROWS", 5)
    data = anndata.read_h5ad(export(result, tmp_path / "out.h5ad", "--layout", "h5ad"))
    assert data.shape == (16, 128) and list(data.obs_names) == embeddings.ids
    assert np.array_equal(data.X, embeddings.mean()) and data.obs["length"].tolist() == embeddings.lengths.tolist()
    assert (data.uns["model"], data.uns["layer"]) == (embeddings.attributes["model"], 1)


def test_layers_below_zero_count_from_the_last_of_the_file_and_none_is_the_lowest_as_in_embeddings(result, embeddings, tmp_path):
    for layer, meant in {None: 1, -1: 3, -2: 1, 3: 3}.items():
        given = [] if layer is None else ["--layer", layer]
        assert np.array_equal(np.load(export(result, tmp_path / "out.npy", "--layout", "npy", *given)), embeddings.mean(layer=meant))


def test_accessions_are_those_of_uniprot_and_no_two_records_get_one_name():
    assert accessions(["sp|P0AFK0|PMBA_ECOLI", "tr|A0A0|X_Y", "a|b|c", "plain", "sp||NAME"]) == ["P0AFK0", "A0A0", "a|b|c", "plain", "sp||NAME"]
    with pytest.raises(BadInput, match=r"sp\|P1\|X and P1 would both be called P1"):
        accessions(["sp|P1|X", "P1"])
    assert dataset_names(["a/b", "."]) == ["a_b", "_"]
    with pytest.raises(BadInput, match="a/b and a_b would both be called a_b"):
        dataset_names(["a/b", "a_b"])


def test_records_are_called_by_their_accessions_when_that_is_asked_for_in_a_file_beside_the_result(weights, tmp_path):
    (tmp_path / "in.fasta").write_text(">sp|P0AFK0|PMBA_ECOLI\nMKV\n>tr|A0A0|X_Y\nACDE\n")
    result = merge_all(tmp_path, weights, embed_all(tmp_path, weights, tmp_path / "in.fasta"))
    run_inside("export_h5.py", result, "--names", "accession")
    with h5py.File(result.with_name("embeddings.per_accession.h5")) as file:
        assert {name: file[name].attrs["original_id"] for name in file} == {"P0AFK0": "sp|P0AFK0|PMBA_ECOLI", "A0A0": "tr|A0A0|X_Y"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--layer", 2], "has no representations/2/mean; it has"),
        (["--layer", -3], "has the layers 1, 3"),
        (["--kind", "bos"], "has no representations/1/bos"),
        (["--layout", "npy"], "must end in .npy"),
        (["--kind", "per_tok", "--layout", "h5ad"], "one vector a record"),
    ],
)
def test_what_the_file_does_not_have_is_one_line_and_nothing_is_written(result, tmp_path, arguments, words):
    done = run_inside("export_h5.py", result, "--output", tmp_path / "out", *arguments, check=False)
    assert done.returncode == BadOption.exit_code and words in done.stderr and not list(tmp_path.iterdir())


def test_the_file_that_is_read_is_never_overwritten_and_a_torn_one_not_exported(result, tmp_path):
    done = run_inside("export_h5.py", result, "--output", result, check=False)
    assert done.returncode == BadOption.exit_code and "is the file that is read" in done.stderr
    torn = tmp_path / "torn.h5"
    torn.write_bytes(result.read_bytes()[:-1000])
    done = run_inside("export_h5.py", torn, check=False)
    assert done.returncode == CorruptStore.exit_code and list(tmp_path.iterdir()) == [torn]
