import json
import re
import signal

import pytest
from xxhash import xxh3_128

from protembed.shapes import Shape
from protembed.store import check_embeddings
from protembed.weights import random_esm2, save_esm2
from tests.conftest import draw_lengths, make_proteins, metrics_of, write_fasta
from tests.nextflow import PARSERS, STEPS, basic, content, kill, run_pipeline, start_pipeline, wait_for, workers

pytestmark = pytest.mark.nextflow


@pytest.fixture(scope="module", params=PARSERS)
def finished(request, tmp_path_factory, hostile_pt):
    """A finished run under each parser: (folder, arguments, parser, number of chunks, run)."""
    folder = tmp_path_factory.mktemp(request.param)
    arguments = [*basic(folder, hostile_pt), "--chunk_residues", 2000, "--verify", 16]
    run = run_pipeline(folder, *arguments, parser=request.param)
    chunks = run.submitted()["EMBED_CHUNK"]
    assert chunks >= 3
    return folder, arguments, request.param, chunks, run


def test_a_finished_run_is_complete_and_says_where_its_results_are(finished):
    folder, _, _, chunks, run = finished
    assert run.submitted() == {**STEPS, "EMBED_CHUNK": chunks}
    assert "60 of 60 records embedded" in run.output
    assert "checked against fair-esm on 16 sequences: mean within " in run.output
    assert "results/embeddings.h5" in run.output and "results/ledger.tsv" in run.output and "tokens/s" in run.output
    attributes = check_embeddings(folder / "results" / "embeddings.h5")
    assert attributes["n_embedded"] == 60 and json.loads(attributes["verify"])["worst"]["mean"]["relative_l2"] < 2e-5
    assert [path.name for path in (folder / "work" / "checkpoints").iterdir()] == [".protembed-anchor"]


def test_an_unchanged_run_computes_nothing_and_says_so(finished):
    folder, arguments, parser, chunks, _ = finished
    again = run_pipeline(folder, *arguments, "-resume", parser=parser)
    assert not again.submitted()
    assert again.cached() == {**STEPS, "EMBED_CHUNK": chunks}
    assert "everything was cached" in again.output


def test_what_changes_no_number_recomputes_nothing(finished):
    folder, arguments, parser, _, _ = finished
    (folder / "neutral.config").write_text("process { withName: EMBED_CHUNK { cpus = 1; memory = 3.GB } }\nprocess.beforeScript = 'true'\n")
    (folder / "proteins.fasta").touch()
    neutral = ["--outdir", "elsewhere", "--checkpoint_seconds", "7", "--max_tokens", "999", "--keep_checkpoints", "--publish_dir_mode", "link"]
    again = run_pipeline(folder, *arguments, *neutral, "-c", "neutral.config", "-resume", parser=parser)
    assert not again.submitted()
    assert content(folder, "elsewhere") == content(folder)


@pytest.mark.parametrize("finished", PARSERS[1:], indirect=True)
def test_another_checkpoint_folder_computes_no_vector_again(finished):
    folder, arguments, parser, chunks, _ = finished
    before = content(folder)
    again = run_pipeline(folder, *arguments, "--checkpoint_dir", "other_root", "-resume", parser=parser)
    assert again.submitted() == {"MERGE_CHUNKS": 1}  # which removes checkpoints, and knows their folder by its path
    assert again.cached()["EMBED_CHUNK"] == chunks and content(folder) == before


@pytest.mark.parametrize("finished", PARSERS[:1], indirect=True)
def test_a_cached_result_replaces_what_another_run_has_published_in_its_place(finished):
    folder, arguments, parser, _, _ = finished
    whole = content(folder)
    run_pipeline(folder, *arguments, "--store_dtype", "float16", "-resume", parser=parser)
    assert content(folder) != whole
    assert not run_pipeline(folder, *arguments, "-resume", parser=parser).submitted()
    assert content(folder) == whole


def test_appended_records_recompute_the_last_chunk_and_an_inserted_block_its_neighbours_only(finished):
    folder, arguments, parser, chunks, _ = finished
    given = make_proteins(draw_lengths(60, 20, 200), seed=21)
    new = make_proteins([150, 90], seed=22)
    appended, inserted = write_fasta(folder / "appended.fasta", [*given, new[0]]), write_fasta(folder / "inserted.fasta", [*given[:20], *new, *given[20:]])
    again = run_pipeline(folder, *arguments, "--input", appended, "--outdir", "edited", "--verify", "0", "-resume", parser=parser)
    assert again.submitted()["EMBED_CHUNK"] == 1 and again.cached()["EMBED_CHUNK"] == chunks - 1
    again = run_pipeline(folder, *arguments, "--input", inserted, "--outdir", "edited", "--verify", "0", "-resume", parser=parser)
    assert 1 <= again.submitted()["EMBED_CHUNK"] <= 3 and again.cached()["EMBED_CHUNK"] >= chunks - 2


@pytest.fixture(scope="module")
def slow_pt(tmp_path_factory):
    """A model that keeps a chunk of the kill test busy for some seconds."""
    path = tmp_path_factory.mktemp("slow") / "slow.pt"
    save_esm2(random_esm2(Shape(12, 256, 4), seed=5), path)
    return path


def check_paths(root):
    """Every file of a real run's checkpoints is where the contract says, once, and every marker tells its batch's digest."""
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and not path.name.startswith("attempt_")} - {".protembed-anchor"}
    batches = {name for name in files if re.fullmatch(r"[0-9a-f]{32}/chunk_[0-9a-f]{16}/batch_\d{5}\.pt", name)}
    assert len(batches) > 10
    assert files == batches | {f"{name}.done" for name in batches}
    for name in batches:
        assert (root / f"{name}.done").read_text().splitlines()[0].split() == [xxh3_128((root / name).read_bytes()).hexdigest(), name.rpartition("/")[2]]


def test_a_killed_worker_is_retried_in_the_same_run_and_a_killed_run_resumes_to_the_same_bits(tmp_path, slow_pt):
    fasta = write_fasta(tmp_path / "proteins.fasta", make_proteins([250] * 64, seed=4))
    shared = ["--input", fasta, "--model", slow_pt, "--weights_dir", tmp_path / "downloads", "--chunk_residues", 8000]
    shared += ["--checkpoint_seconds", 0, "--max_tokens", 1008]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    run_pipeline(whole, *shared, "--keep_checkpoints")
    check_paths(whole / "work" / "checkpoints")
    passes = sum(metrics["forward_passes"] for metrics in metrics_of(whole / "work"))

    def markers():
        return list((killed / "work" / "checkpoints").rglob("*.done"))

    # First a worker, then Nextflow with its worker still running as an orphan beside the resumed run.
    run = start_pipeline(killed, *shared)
    running = lambda: run.poll() is None  # noqa: E731
    wait_for(lambda: len(markers()) >= 3, still=running)
    for pid in workers(killed):
        kill(pid)
    before = len(markers())
    wait_for(lambda: len(markers()) >= before + 3, still=running)
    assert "Execution is retried (1)" in (killed / "console.txt").read_text()
    run.send_signal(signal.SIGKILL)
    run.wait()
    run_pipeline(killed, *shared, "-resume")

    assert content(killed) == content(whole)
    finished = metrics_of(killed / "work")
    assert sum(metrics["reused"] for metrics in finished) > 0
    assert sum(metrics["reused"] + metrics["computed"] for metrics in finished) >= 64
    assert sum(metrics["forward_passes"] for metrics in finished) < passes
