"""--reuse on real Nextflow: a proteome embedded once, changed, and embedded again at the cost of what has changed."""

import json
import random
import shutil

import numpy as np
import pytest

from protembed import open_embeddings
from protembed.proteins import Record, read_fasta
from tests.conftest import DEMO_FASTA, FP32_BOUND, metrics_of, relative_l2
from tests.nextflow import STEPS, run_pipeline

pytestmark = pytest.mark.nextflow
REUSING = {**STEPS, "REUSE_EMBEDDINGS": 1}


def write_records(path, records):
    path.write_text("".join(f">{record.id}\n{record.sequence}\n" for record in records))
    return path


def changed(records, seed=3):
    """Other ids in another order; of 60 records 2 removed, 3 added, 4 edited somewhere; and how many sequences are new."""
    drawn = random.Random(seed)
    old, added = records[:60], records[60:63]
    kept = drawn.sample(old, len(old) - 2)
    edited = {record.id for record in drawn.sample(kept, 4)}
    sequences = []
    for record in kept + added:
        place = drawn.randrange(len(record.sequence))
        new = "W" if record.sequence[place] != "W" else "A"
        sequences.append(record.sequence[:place] + new + record.sequence[place + 1 :] if record.id in edited else record.sequence)
    drawn.shuffle(sequences)
    known = {record.sequence for record in old}
    return [Record(f"new|{number}", sequence) for number, sequence in enumerate(sequences)], len(set(sequences) - known)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory, hostile_pt):
    """60 real E. coli proteins, embedded: (folder, arguments)."""
    folder = tmp_path_factory.mktemp("earlier")
    arguments = ["--model", hostile_pt, "--weights_dir", folder / "downloads", "--chunk_residues", 10000, "--report", "false"]
    write_records(folder / "a.fasta", list(read_fasta(DEMO_FASTA))[:60])
    run_pipeline(folder, *arguments, "--input", folder / "a.fasta")
    return folder, arguments


@pytest.fixture(scope="module")
def second(earlier, tmp_path_factory):
    """The changed proteome, with reuse, in a folder of its own: (folder, arguments, run, new sequences)."""
    base, arguments = earlier
    folder = tmp_path_factory.mktemp("second")
    records, new = changed(list(read_fasta(DEMO_FASTA)))
    write_records(folder / "b.fasta", records)
    arguments = [*arguments, "--input", folder / "b.fasta", "--reuse", base / "results" / "embeddings.h5"]
    return folder, arguments, run_pipeline(folder, *arguments, parser="v2"), new


def test_the_computed_share_is_the_changed_share(second):
    folder, _, run, new = second
    metrics = metrics_of(folder / "work")
    assert new == 7 and sum(one["computed"] for one in metrics) == sum(one["sequences"] for one in metrics) == new
    assert run.submitted() == {**REUSING, "EMBED_CHUNK": 1}
    assert "; 54 sequences are taken from --reuse" in run.output
    assert "61 of 61 records embedded" in run.output and "54 from earlier results" in run.output
    totals = json.loads((folder / "results" / "summary.json").read_text())
    assert totals["flags"]["reused"] == 54 and totals["n_embedded"] == 61


def test_vectors_by_id_are_those_of_the_earlier_file_bit_for_bit_and_of_a_run_without_reuse(earlier, second, tmp_path):
    base, arguments = earlier
    folder = second[0]
    run_pipeline(tmp_path, *arguments, "--input", folder / "b.fasta")
    with (
        open_embeddings(folder / "results" / "embeddings.h5", verify=True) as ours,
        open_embeddings(tmp_path / "results" / "embeddings.h5") as fresh,
        open_embeddings(base / "results" / "embeddings.h5") as before,
    ):
        assert ours.ids == fresh.ids and np.array_equal(ours.digests, fresh.digests) and np.array_equal(ours.lengths, fresh.lengths)
        assert np.array_equal(ours.flags & ~np.uint8(32), fresh.flags)
        assert relative_l2(ours[:], fresh[:]) <= FP32_BOUND
        row_before = {bytes(digest): row for row, digest in enumerate(before.digests)}
        for row in np.flatnonzero(ours.flags & 32):
            assert np.array_equal(ours[row], before[row_before[bytes(ours.digests[row])]])
        assert json.loads(ours.attributes["reused_from"])[0]["content_sha256"] == before.attributes["content_sha256"]


def test_some_of_the_reused_vectors_are_verified_and_all_new_ones_that_are_drawn(second):
    verdict = json.loads((second[0] / "results" / "summary.json").read_text())["verify"]
    assert verdict["sequences"] == 7 + 4 and verdict["worst"]["mean"]["relative_l2"] < FP32_BOUND


def test_resumed_it_computes_nothing(second):
    folder, arguments, _, _ = second
    again = run_pipeline(folder, *arguments, "-resume", parser="v2")
    assert not again.submitted() and again.cached() == {**REUSING, "EMBED_CHUNK": 1}


def test_of_two_files_one_of_which_reused_the_other_all_is_there(earlier, second, tmp_path):
    base, arguments = earlier
    (tmp_path / "both.fasta").write_text((base / "a.fasta").read_text() + (second[0] / "b.fasta").read_text())
    shutil.copy(base / "results" / "embeddings.h5", tmp_path / "first.h5")
    files = f"{second[0]}/results/embeddings.h5,{tmp_path}/first.h5"
    run = run_pipeline(tmp_path, *arguments, "--input", tmp_path / "both.fasta", "--reuse", files, "--report", "true")
    assert "EMBED_CHUNK" not in run.submitted() and "121 of 121 records embedded" in run.output
    with open_embeddings(tmp_path / "results" / "embeddings.h5", verify=True) as ours, open_embeddings(tmp_path / "first.h5") as before:
        assert np.array_equal(ours[:60], before[:]) and (ours.flags & 32).all()
        assert [origin["file"] for origin in json.loads(ours.attributes["reused_from"])] == ["embeddings.h5", "first.h5"]


def test_a_file_of_another_recipe_stops_the_run_before_anything_is_computed_in_one_line(second, tmp_path):
    run = run_pipeline(tmp_path, *second[1], "--dtype", "bfloat16", check=False)
    assert "embeddings.h5 cannot be reused: compute_dtype: float32 instead of bfloat16; leave it out" in run.output
    assert run.code != 0 and "EMBED_CHUNK" not in run.submitted() and "Command exit status:\n  67" in run.output
    assert not (tmp_path / "results" / "embeddings.h5").exists()
