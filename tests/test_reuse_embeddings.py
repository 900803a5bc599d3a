"""Reuse on the scripts themselves: which sequences are found, what is left, and what is refused. test_reuse.py runs the pipeline."""

import json
import random
import shutil

import h5py
import numpy as np
import pytest

from protembed import open_embeddings
from protembed.ledger import read_ledger
from protembed.proteins import digest_of, read_fasta
from protembed.records import read_records
from protembed.stock import Stock
from tests.conftest import FP32_BOUND, draw_lengths, make_proteins, relative_l2, run_inside, write_fasta
from tests.results import embed_all, merge_all, small_result

RECIPE = ["--include", "mean,per_tok", "--repr-layers", "1,3", "--max-residues", 60]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory, weights):
    return small_result(tmp_path_factory.mktemp("earlier"), weights)


def reuse(folder, weights, earlier, *arguments, check=True):
    """Split <folder>/in.fasta, and reuse what `earlier` files hold; the work that is left is in <folder>/left."""
    run_inside("split_fasta.py", folder / "in.fasta", "--outdir", folder, "--chunk-residues", 500, "--sample", 8)
    inputs = ["--split", folder, "--weights", weights / "weights.json", "--outdir", folder / "left", "--sample", 8]
    return run_inside("reuse_embeddings.py", *earlier, *inputs, *RECIPE, *arguments, check=check)


def finish(folder, weights, earlier, *arguments):
    """Embed what is left and merge; embeddings.h5."""
    for chunk in sorted((folder / "left" / "chunks").iterdir()):
        run_inside("embed_chunk.py", chunk, "--weights", weights, "--outdir", folder / "left" / "vectors", *RECIPE)
    chunks = sorted((folder / "left" / "vectors").glob("*.h5"))
    return merge_all(folder / "left", weights, chunks, "--earlier", ",".join(map(str, earlier)), *arguments)


def changed(path, seed=0):
    """Records of an earlier input in another order, under other ids, two of them edited, five new ones among them."""
    drawn = random.Random(seed)
    sequences = [record.sequence for record in read_fasta(path)]
    drawn.shuffle(sequences)
    sequences[2] = "W" + sequences[2]
    sequences[-3] = sequences[-3][:-1] + "WW"
    for sequence in make_proteins(draw_lengths(5, 20, 50, seed=77), seed=77):
        sequences.insert(drawn.randrange(len(sequences)), sequence)
    return sequences


def test_what_an_earlier_file_holds_is_not_computed_and_comes_from_it_bit_for_bit(earlier, weights, tmp_path):
    write_fasta(tmp_path / "in.fasta", changed(earlier.parent.parent / "in.fasta"), "other")
    reuse(tmp_path, weights, [earlier])
    left = [record.sequence for chunk in (tmp_path / "left" / "chunks").iterdir() for record in read_fasta(chunk)]
    with open_embeddings(earlier) as file:
        held = {bytes(digest) for digest in file.digests}
    given = {record.sequence for record in read_fasta(tmp_path / "in.fasta")}
    assert sorted(left) == sorted(sequence for sequence in given if digest_of(sequence) not in held) and len(left) == 7
    result = finish(tmp_path, weights, [earlier])
    plain = merge_all(tmp_path, weights, embed_all(tmp_path, weights, tmp_path / "in.fasta", *RECIPE))
    with open_embeddings(result, verify=True) as ours, open_embeddings(plain) as fresh, open_embeddings(earlier) as before:
        row_before = {bytes(digest): row for row, digest in reversed(list(enumerate(before.digests)))}
        assert ours.ids == fresh.ids and np.array_equal(ours.digests, fresh.digests)
        assert np.array_equal(ours.flags & ~np.uint8(32), fresh.flags) and np.array_equal(ours.offsets, fresh.offsets)
        for row, digest in enumerate(map(bytes, ours.digests)):
            assert bool(ours.flags[row] & 32) == (digest in row_before)
            for layer in (1, 3):
                assert relative_l2(ours.mean(row, layer)[None], fresh.mean(row, layer)[None]) <= FP32_BOUND
                if digest in row_before:
                    assert np.array_equal(ours.mean(row, layer), before.mean(row_before[digest], layer))
                    assert np.array_equal(ours.per_tok(row, layer), before.per_tok(row_before[digest], layer))
        assert json.loads(ours.attributes["reused_from"]) == [before.origin()]
        for line in read_ledger(result.parent / "ledger.tsv"):
            row = int(line["row"])
            if line["status"] == "reused":
                assert f"row {row_before[bytes(ours.digests[row])]} of embeddings.h5" in line["reason"]
            assert line["status"] == ("duplicate" if ours.flags[row] & 4 else "reused" if ours.flags[row] & 32 else "embedded")


def test_when_all_is_there_nothing_is_computed_and_of_reused_ones_can_be_reused(earlier, weights, tmp_path):
    shutil.copy(earlier.parent.parent / "in.fasta", tmp_path)
    source = earlier
    for generation in ("second", "third"):
        folder = tmp_path / generation
        folder.mkdir()
        shutil.copy(tmp_path / "in.fasta", folder)
        reuse(folder, weights, [source])
        assert not list((folder / "left" / "chunks").iterdir())
        source = finish(folder, weights, [source])
        with h5py.File(source) as ours, h5py.File(earlier) as before:
            assert np.array_equal(ours["representations/3/per_tok"], before["representations/3/per_tok"])
            assert np.array_equal(ours["embeddings"], before["embeddings"]) and (ours["flags"][:] & 32).all()


def test_the_first_of_several_files_gives_what_more_than_one_holds(earlier, weights, tmp_path):
    (tmp_path / "other").mkdir()
    other = small_result(tmp_path / "other", weights, seed=9)
    sequences = [record.sequence for path in (earlier, other) for record in read_fasta(path.parent.parent / "in.fasta")]
    write_fasta(tmp_path / "in.fasta", sequences)
    reuse(tmp_path, weights, [other, earlier, other])
    chunks = [record.chunk for record in read_records(tmp_path / "left" / "records.tsv")]
    assert chunks == ["earlier_2"] * 16 + ["earlier_1"] * 16
    titles = [record.note for record in read_records(tmp_path / "left" / "records.tsv")]
    assert "embeddings.h5 (file 2 of --reuse)" in titles[0] and "embeddings.h5 (file 1 of --reuse)" in titles[-1]
    finish(tmp_path, weights, [other, earlier, other])


def test_a_chunk_of_which_nothing_is_there_keeps_its_name(earlier, weights, tmp_path):
    known = [record.sequence for record in read_fasta(earlier.parent.parent / "in.fasta")][:3]
    write_fasta(tmp_path / "in.fasta", make_proteins(draw_lengths(60, 20, 90, seed=5), seed=5) + known)
    reuse(tmp_path, weights, [earlier])
    before, after = ({path.name for path in (tmp_path / place / "chunks").iterdir()} for place in (".", "left"))
    assert len(before) > 4 and len(before - after) <= 2 and len(after - before) <= 1
    totals = json.loads((tmp_path / "left" / "split.json").read_text())
    assert set(totals["chunk_sizes"]) == {name.removesuffix(".fasta") for name in after} and totals["reused"] == 3
    assert set(totals["sampled_chunks"]) <= set(totals["chunk_sizes"]) | {"earlier_1"} and "earlier_1" in totals["sampled_chunks"]


@pytest.mark.parametrize(
    "option, says",
    [
        (["--dtype", "bfloat16"], "compute_dtype: float32 instead of bfloat16"),
        (["--repr-layers", "3"], "repr_layers: (1, 3) instead of (3,)"),
        (["--include", "mean,bos"], "include: ('mean', 'per_tok') instead of ('bos', 'mean')"),
        (["--long-sequences", "full"], "long_sequences: truncate instead of full; max_residues: 60 instead of 0"),
    ],
)
def test_a_file_of_another_recipe_is_exit_67_with_the_difference_in_words(earlier, weights, tmp_path, option, says):
    write_fasta(tmp_path / "in.fasta", ["MKV"])
    refused = reuse(tmp_path, weights, [earlier], *option, check=False)
    assert (refused.returncode, f"embeddings.h5 cannot be reused: {says}" in refused.stderr) == (67, True), refused.stderr


def test_other_weights_and_rounded_vectors_are_refused_and_rounding_the_exact_ones_is_not(earlier, weights, tmp_path):
    write_fasta(tmp_path / "in.fasta", ["MKV", *(record.sequence for record in read_fasta(earlier.parent.parent / "in.fasta"))])
    (tmp_path / "weights").mkdir()
    description = json.loads((weights / "weights.json").read_text())
    (tmp_path / "weights" / "weights.json").write_text(json.dumps(dict(description, sha256="ab" * 32)))
    refused = reuse(tmp_path, tmp_path / "weights", [earlier], check=False)
    assert (refused.returncode, f"weights_sha256: {description['sha256']} instead of abab" in refused.stderr) == (67, True)
    reuse(tmp_path, weights, [earlier], "--store-dtype", "float16")
    half = shutil.copy(finish(tmp_path, weights, [earlier], "--store-dtype", "float16"), tmp_path / "half.h5")
    with open_embeddings(half, verify=True) as ours, open_embeddings(earlier) as before:
        assert ours[1:].dtype == np.float16 and np.array_equal(ours[1:], before[:].astype(np.float16))
    refused = reuse(tmp_path, weights, [half], check=False)
    assert (refused.returncode, "half.h5 cannot be reused: store_dtype: float16" in refused.stderr) == (67, True)
    reuse(tmp_path, weights, [half], "--store-dtype", "float16")
    sampled = json.loads((tmp_path / "left" / "split.json").read_text())["sampled_chunks"]
    assert "earlier_1" not in sampled, "fair-esm's vectors are not to be had from rounded ones"


@pytest.mark.parametrize("damage", ["cut", "flipped", "edited", "none of ours"])
def test_a_damaged_file_is_exit_68_before_anything_is_computed(earlier, weights, tmp_path, damage):
    write_fasta(tmp_path / "in.fasta", ["MKV"])
    bad = shutil.copy(earlier, tmp_path / "bad.h5")
    content = bytearray(bad.read_bytes())
    if damage == "cut":
        bad.write_bytes(content[: len(content) // 2])
    elif damage == "none of ours":
        bad.write_bytes(b"text")
    else:
        with h5py.File(bad, "r+") as file:
            file["flags" if damage == "edited" else "representations/3/mean"][0] = 0
    refused = reuse(tmp_path, weights, [earlier, bad], check=False)
    assert (refused.returncode, "bad.h5" in refused.stderr, "Traceback" in refused.stderr) == (68, True, False)
    assert not (tmp_path / "left" / "records.tsv").exists()


class Rows:
    """The digests of an earlier file."""

    def __init__(self, path, digests):
        self.path, self.digests = path, digests

    def __len__(self):
        return len(self.digests)


def test_rows_are_found_by_the_whole_digest_among_many(tmp_path):
    drawn = np.random.default_rng(0)
    digests = drawn.integers(0, 256, (5000, 32)).astype(np.uint8)
    digests[7, :8] = digests[8, :8]  # one key
    files = [Rows(tmp_path / "a.h5", digests[:2000]), Rows(tmp_path / "b.h5", digests[:0]), Rows(tmp_path / "c.h5", digests[1500:4000])]
    found, rows = Stock(files).find(digests)
    assert found[:2000].tolist() == [0] * 8 + [-1] + [0] * 1991 and found[2000:4000].tolist() == [2] * 2000 and (found[4000:] == -1).all()
    assert np.array_equal(rows[9:2000], np.arange(9, 2000)) and np.array_equal(rows[2000:4000], np.arange(500, 2500))
    assert (Stock([files[1]]).find(digests)[0] == -1).all()
