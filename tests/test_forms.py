"""The form of vectors in embeddings.h5: compressed, in half precision, written in blocks. None of it may change what they are."""

import weakref
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from protembed import filling, merging, store
from protembed.beside import Here
from protembed.chunk_file import ChunkFile
from protembed.errors import BadOption
from protembed.filling import Filler
from protembed.merging import VectorFiles, parts
from protembed.reading import Embeddings
from protembed.rounding import rounded
from protembed.shapes import Shape
from protembed.store import check_embeddings
from protembed.vector_datasets import Form
from protembed.weights import random_esm2, save_esm2
from tests.conftest import run_inside, write_fasta
from tests.test_merge_chunks import merge, run  # noqa: F401


@pytest.mark.parametrize("compression", ["gzip", "lzf"])
def test_a_compressed_file_holds_the_same_numbers_in_pieces_of_whole_rows(run, weights, tmp_path, compression):  # noqa: F811
    merge(run, weights, tmp_path / "plain")
    merge(run, weights, tmp_path / "small", "--compression", compression)
    plain, small = (check_embeddings(tmp_path / name / "embeddings.h5") for name in ("plain", "small"))
    assert small["content_sha256"] == plain["content_sha256"] and small["compression"] == compression
    with h5py.File(tmp_path / "plain" / "embeddings.h5") as one, h5py.File(tmp_path / "small" / "embeddings.h5") as other:
        assert one["embeddings"].chunks is None
        for name in ("embeddings", "representations/1/bos", "representations/3/per_tok"):
            rows, width = other[name].chunks
            assert other[name].compression == compression and width == other[name].shape[1]
            assert rows * width * 4 <= 1 << 16 and other[name].id.get_storage_size() < one[name].id.get_storage_size()
        assert len(other["representations/3/per_tok"]) > 5 * rows
        assert np.array_equal(other["representations/3/per_tok"][rows - 1 : rows + 1], one["representations/3/per_tok"][rows - 1 : rows + 1])


def test_a_compressed_file_is_read_as_any_other(run, weights, tmp_path):  # noqa: F811
    merge(run, weights, tmp_path / "plain")
    merge(run, weights, tmp_path / "small", "--compression", "gzip")
    with Embeddings(tmp_path / "plain" / "embeddings.h5") as plain, Embeddings(tmp_path / "small" / "embeddings.h5") as small:
        for which in (3, -1, slice(2, 30, 3), slice(30, 2, -3), [7, 3, 3, -2], [plain.ids[9], plain.ids[1]], plain.ids[5]):
            assert np.array_equal(plain.mean(which, 3), small.mean(which, 3))
            ours, theirs = plain.per_tok(which, 1), small.per_tok(which, 1)
            assert len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))
        rows = np.array([5, 0, 5])
        for name in plain.names:
            assert np.array_equal(plain.vectors(name, rows), small.vectors(name, rows)) and plain.width(name) == small.width(name)


def test_an_empty_result_can_be_compressed(tmp_path):
    sizes = store.Sizes(0, 0, 0, {"representations/1/mean": 8}, False)
    filler = Here(Filler(VectorFiles({}, {}), "float32", {}))
    with store.creating_embeddings(tmp_path / "embeddings.h5", sizes, Form("float32", "gzip"), filler) as writer:
        writer.finish({"note": "nothing"})
    with h5py.File(tmp_path / "embeddings.h5") as file:
        assert file["embeddings"].shape == (0, 8)


@pytest.mark.parametrize("include", ["mean", "per_tok"])
def test_a_number_beyond_float16_is_refused_by_record_and_not_stored_as_infinity(tmp_path, include):
    model = random_esm2(Shape(2, 64, 1), seed=2)
    model.embed_tokens.weight[model.alphabet.get_idx("W")] = 2e5  # 0.88 of it in layer 0
    save_esm2(model, tmp_path / "wild.pt", half=False)
    run_inside("fetch_weights.py", tmp_path / "wild.pt", "--outdir", tmp_path / "weights")
    run_inside("split_fasta.py", write_fasta(tmp_path / "in.fasta", ["MKVLA", "ACDEF", "WW", "GHIK"]), "--outdir", tmp_path)
    (chunk,) = (tmp_path / "chunks").iterdir()
    run_inside("embed_chunk.py", chunk, "--weights", tmp_path / "weights", "--outdir", tmp_path / "vectors", "--repr-layers", "0", "--include", include)
    done = merge(tmp_path, tmp_path / "weights", tmp_path / "out", "--store-dtype", "float16", check=False)
    assert done.returncode == 78
    assert f"protein2 has the number 176000 in representations/0/{include}, which float16 cannot hold; use --store_dtype float32" in done.stderr
    assert not (tmp_path / "out" / "embeddings.h5").exists()
    merge(tmp_path, tmp_path / "weights", tmp_path / "out")


def test_the_record_with_a_number_beyond_float16_is_named_behind_vectors_that_were_rounded_before():
    """As those of an earlier result are."""
    block = SimpleNamespace(ids=["earlier", "wild"], residues=np.array([7, 9]))
    pieces = [np.ones((1, 4), "float16"), np.full((1, 4), 1e6, "float32")]
    with pytest.raises(BadOption, match=r"^wild has the number 1e\+06 in representations/1/mean"):
        list(rounded(pieces, np.dtype("float16"), "representations/1/mean", block))


def test_pieces_hold_the_records_in_order_and_no_more_than_asked_for_unless_one_alone_is_more():
    sizes = np.array([5, 5, 30, 1, 1, 1, 1, 9, 2, 0, 0])
    assert [sizes[part].tolist() for part in parts(sizes, 10)] == [[5, 5], [30], [1, 1, 1, 1], [9], [2, 0, 0]]
    assert [sizes[part].tolist() for part in parts(sizes, 1000)] == [sizes.tolist()]
    assert list(parts(sizes[:0], 10)) == []


def test_no_more_than_three_pieces_are_in_memory_at_once(run, weights, tmp_path, monkeypatch):  # noqa: F811
    """One may be a record of 35,000 residues, 179 MB."""
    vectors, given, alive = ChunkFile.vectors, [], []

    def watched(self, name, rows):
        alive.append(sum(one() is not None for one in given))
        given.append(weakref.ref(piece := vectors(self, name, rows)))
        return piece

    monkeypatch.setattr(merging, "PIECE_BYTES", 1)
    monkeypatch.setattr(ChunkFile, "vectors", watched)
    merge(run, weights, tmp_path)
    assert len(alive) == 40 * 6 and max(alive) <= 2  # and the one that is read


def test_the_disk_begins_before_the_end_and_that_changes_nothing(run, weights, tmp_path, monkeypatch):  # noqa: F811
    merge(run, weights, tmp_path / "late")
    begin, begun = filling._begin, []
    monkeypatch.setattr(filling, "BEGIN_BYTES", 1)
    monkeypatch.setattr(filling, "_begin", lambda descriptor: begun.append(begin(descriptor)))
    merge(run, weights, tmp_path / "early")
    late, early = (check_embeddings(tmp_path / name / "embeddings.h5") for name in ("late", "early"))
    assert begun and late["content_sha256"] == early["content_sha256"]
