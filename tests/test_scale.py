"""What grows with the number of records and chunks; benchmarks/scale.py measures how fast."""

import json
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest

from protembed.store import check_embeddings
from tests.conftest import BIN, ROOT, draw_lengths, make_proteins, run_inside, write_fasta


@pytest.fixture(scope="module")
def many(tmp_path_factory, weights):
    """The arguments of a merge of some twenty chunks."""
    folder = tmp_path_factory.mktemp("many")
    write_fasta(folder / "in.fasta", make_proteins(draw_lengths(40, 20, 60), seed=8))
    run_inside("split_fasta.py", folder / "in.fasta", "--outdir", folder, "--chunk-residues", 100, "--sample", 3)
    for chunk in (folder / "chunks").iterdir():
        run_inside("embed_chunk.py", chunk, "--weights", weights, "--outdir", folder / "vectors")
    chunks = sorted((folder / "vectors").glob("*.h5"))
    assert len(chunks) > 12
    return [*chunks, "--records", folder / "records.tsv", "--weights", weights / "weights.json"]


def limited(limit, arguments, outdir, script="merge_chunks.py"):
    command = [sys.executable, BIN / script, *arguments, "--outdir", outdir]
    return subprocess.run(["bash", "-c", f'ulimit {limit}; exec "$@"', "-", *map(str, command)], capture_output=True, text=True)


def test_more_chunks_than_files_may_be_open_by_default_are_merged(many, tmp_path):
    done = limited("-Sn 14", many, tmp_path)
    assert done.returncode == 0, done.stderr
    assert check_embeddings(tmp_path / "embeddings.h5")["n_embedded"] == 40


def test_chunks_and_the_shards_of_an_earlier_result_may_be_open_together(many, tmp_path):
    run_inside("merge_chunks.py", *many, "--shards", 40, "--outdir", tmp_path / "earlier")
    done = limited("-Sn 14", [*many, "--earlier", tmp_path / "earlier" / "embeddings.h5"], tmp_path / "now")
    assert done.returncode == 0, done.stderr
    assert check_embeddings(tmp_path / "now" / "embeddings.h5")["n_embedded"] == 40


def test_more_chunks_than_files_may_be_open_by_default_are_verified(many, tmp_path):
    *chunks, _, records, _, weights = many
    given = [*chunks, "--sample", records.with_name("sample.fasta"), "--weights", weights.parent]
    done = limited("-Sn 30", given, tmp_path, "verify_embeddings.py")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "verify.json").read_text())["sequences"] == 3


def test_more_chunks_than_files_may_ever_be_open_are_refused_with_what_to_do(many, tmp_path):
    done = limited("-n 20", many, tmp_path)
    assert done.returncode == 78 and "raise it (ulimit -Hn), or make fewer chunks (--chunk_residues)" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_index_of_the_docs_reads_several_results_as_one(many, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run1", "run2"):
        run_inside("merge_chunks.py", *many, "--outdir", name)
    exec(re.search(r"```python\n(.*?)```", (ROOT / "docs" / "very_many_sequences.md").read_text(), re.DOTALL)[1], {})
    with h5py.File("index.h5") as index, h5py.File("run1/embeddings.h5") as part:
        assert np.array_equal(index["embeddings"][:], np.concatenate([part["embeddings"][:]] * 2))
        assert index["embeddings"].is_virtual and len(index["embeddings"]) == 80


def test_the_benchmark_of_scale_runs(tmp_path):
    command = [
        sys.executable,
        ROOT / "benchmarks" / "scale.py",
        "--records",
        3000,
        "--width",
        16,
        "--rounds",
        1,
        "--used-memory",
        0,
        "--folder",
        tmp_path,
        "--out",
        tmp_path / "out.json",
    ]
    subprocess.run(list(map(str, command)), check=True)
    (cell,) = json.loads((tmp_path / "out.json").read_text())["cells"]
    assert cell["chunks"] == 1 and cell["published"] == ["embeddings.h5", "ledger.tsv", "summary.json"]
    assert all(cell[name]["seconds"] > 0 for name in ("minimal", "split", "cp", "merge"))
    assert all(cell[name]["peak_bytes"] > 1 << 20 for name in ("minimal", "split", "merge")), "cp may end before it is looked at"
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"], "the temporary folder is left"
