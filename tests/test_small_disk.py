"""Disks that are full, write-protected or gone: the real scripts on a real small file system.

Each ends with exit code 75 and one sentence; when the cause is removed, the same command finishes and computes nothing
that was committed.
"""

import os
import re
import shutil
import signal
import subprocess

import pytest

from protembed.anchor import CONTENT, NAME
from protembed.beside import LEAST_BYTES
from protembed.store import check_embeddings
from tests.conftest import make_proteins, metrics_of, run_inside, write_chunk, write_fasta
from tests.crash_jobs import durable_batches, litter
from tests.nextflow import wait_for
from tests.small_disk import SmallDisk
from tests.test_embed_chunk import only_h5, same_bits

PROGRESS = re.compile(r"\d\d:\d\d:\d\d ")
RECIPE = ["--include", "mean,per_tok", "--threads", "1", "--max-tokens", "404", "--checkpoint-seconds", "0"]
PROTEINS, ROWS_PER_BATCH = 60, 2
BATCH_KILOBYTES = 2 * 200 * 128 * 4 // 1000


@pytest.fixture(scope="module")
def golden(tmp_path_factory, weights):
    """A chunk, and the folder of a run on it that nothing disturbed."""
    folder = tmp_path_factory.mktemp("golden")
    chunk = write_chunk(folder / "chunk.fasta", make_proteins([200] * PROTEINS, seed=5))
    run_inside("embed_chunk.py", chunk, "--weights", weights, "--outdir", folder / "out", *RECIPE)
    return chunk, folder / "out"


def says(done, path, reason):
    """Exit code 75 and one sentence that names the place, the reason and what to do."""
    sentences = [line for line in done.stderr.splitlines() if not PROGRESS.match(line)]
    assert done.returncode == 75, done.stderr
    assert len(sentences) == 1 and str(path) in sentences[0] and reason in sentences[0], done.stderr


def embed_options(chunk, weights, outdir, anchor):
    return ["embed_chunk.py", chunk, "--weights", weights, "--outdir", outdir, "--anchor", anchor, *RECIPE]


def anchored(folder, seen=None):
    """An anchor in a folder, made where we see it."""
    seen = seen or folder
    seen.mkdir(exist_ok=True)
    (seen / NAME).write_text(CONTENT)
    return folder / NAME


def test_checkpoints_on_a_full_disk_are_kept_and_with_more_room_only_the_rest_is_computed(tmp_path, weights, golden, disk):
    chunk, whole = golden
    small = disk(10 * BATCH_KILOBYTES)
    options = embed_options(chunk, weights, tmp_path / "out", anchored(small.place, small.seen))
    says(small.run(*options), small.place, "No space left on device; make room there")
    committed = len(durable_batches(small.seen))
    assert committed >= 5 and not litter(small.seen)
    small.grow()
    assert small.run(*options).returncode == 0
    (metrics,) = metrics_of(tmp_path / "out")
    assert metrics["reused"] == committed * ROWS_PER_BATCH and metrics["forward_passes"] == metrics["packs"] - committed
    assert same_bits(only_h5(tmp_path / "out"), only_h5(whole))


def test_a_chunk_file_on_a_full_disk_is_written_later_without_a_forward_pass(tmp_path, weights, golden, disk):
    chunk, whole = golden
    small = disk(15 * BATCH_KILOBYTES)
    options = embed_options(chunk, weights, small.place / "out", anchored(tmp_path / "checkpoints"))
    says(small.run(*options), small.place / "out" / "chunk_", "No space left on device; make room there")
    assert not list((small.seen / "out").iterdir()), "a torn or temporary file"
    small.grow()
    assert small.run(*options).returncode == 0
    (metrics,) = metrics_of(small.seen / "out")
    assert (metrics["forward_passes"], metrics["reused"]) == (0, PROTEINS)
    assert same_bits(only_h5(small.seen / "out"), only_h5(whole))


def test_a_split_on_a_full_disk_leaves_no_chunk_torn_and_with_more_room_is_as_ever(tmp_path, disk):
    fasta = write_fasta(tmp_path / "in.fasta", make_proteins([200] * 400, seed=9))
    run_inside("split_fasta.py", fasta, "--outdir", tmp_path / "whole", "--chunk-residues", 5000)
    small = disk(60)
    options = ["split_fasta.py", fasta, "--outdir", small.place / "out", "--chunk-residues", 5000]
    says(small.run(*options), small.place / "out", "No space left on device; make room there")
    whole = files_of(tmp_path / "whole")
    assert files_of(small.seen / "out").items() < whole.items() and not litter(small.seen)
    small.grow()
    assert small.run(*options).returncode == 0
    assert files_of(small.seen / "out") == whole


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("proteins", [30, 170], ids=["", "by two processes"])
def test_a_merge_on_a_full_disk_leaves_no_file_and_all_checkpoints_and_with_more_room_is_as_ever(tmp_path, weights, disk, proteins):
    assert (proteins * 200 * 512 >= LEAST_BYTES) == (proteins > 30)
    write_fasta(tmp_path / "in.fasta", make_proteins([200] * proteins, seed=9))
    run_inside("split_fasta.py", tmp_path / "in.fasta", "--outdir", tmp_path, "--chunk-residues", 70 * proteins)
    anchor = anchored(tmp_path / "checkpoints")
    for chunk in (tmp_path / "chunks").iterdir():
        run_inside("embed_chunk.py", chunk, "--weights", weights, "--outdir", tmp_path / "embedded", "--anchor", anchor, "--include", "mean,per_tok")
    chunks, checkpoints = sorted((tmp_path / "embedded").glob("*.h5")), files_of(tmp_path / "checkpoints")
    given = ["merge_chunks.py", *chunks, "--records", tmp_path / "records.tsv", "--weights", weights / "weights.json"]
    run_inside(*given, "--outdir", tmp_path / "whole")
    small = disk(1000)
    options = [*given, "--outdir", small.place / "out", "--anchor", anchor]
    says(small.run(*options), small.place / "out" / "embeddings.h5", "No space left on device; make room there")
    assert not list((small.seen / "out").iterdir()) and files_of(tmp_path / "checkpoints") == checkpoints
    small.grow()
    assert small.run(*options).returncode == 0
    digests = [check_embeddings(folder / "embeddings.h5")["content_sha256"] for folder in (small.seen / "out", tmp_path / "whole")]
    assert digests[0] == digests[1]
    assert not durable_batches(tmp_path / "checkpoints")


def test_a_checkpoint_folder_that_is_read_only_ends_the_task_before_the_first_forward_pass(tmp_path, weights, golden, disk):
    chunk, whole = golden
    small = disk(1 << 20)
    options = embed_options(chunk, weights, tmp_path / "out", anchored(small.place, small.seen))
    assert small.protect()
    done = small.run(*options)
    says(done, small.place, "Read-only file system")
    assert "sequences" not in done.stderr
    small.unprotect()
    assert small.run(*options).returncode == 0
    assert same_bits(only_h5(tmp_path / "out"), only_h5(whole))


def remove_everything(small):
    shutil.rmtree(next(path for path in small.seen.iterdir() if path.is_dir()))
    (small.seen / NAME).unlink()
    return True


# What happens to the checkpoint folder in mid-run, what the task says, how the cause is removed, and whether the commits are still there.
EVENTS = {
    "becomes read-only": (SmallDisk.protect, "Read-only file system; make it writable", SmallDisk.unprotect, True),
    "loses its file system": (SmallDisk.take_away, "has vanished; look after its file system", SmallDisk.bring_back, True),
    "is removed": (remove_everything, "has vanished; look after its file system", lambda small: anchored(small.place, small.seen), False),
}


@pytest.mark.parametrize("happens, reason, mend, kept", EVENTS.values(), ids=EVENTS)
def test_a_checkpoint_folder_that_in_mid_run(tmp_path, weights, golden, disk, happens, reason, mend, kept):
    chunk, whole = golden
    small = disk(1 << 20)
    options = embed_options(chunk, weights, tmp_path / "out", anchored(small.place, small.seen))
    with open(tmp_path / "stderr", "w") as stderr:
        worker = subprocess.Popen(small.script(*options), stderr=stderr)

    def once_held():
        """The event, while the worker stands still; False when it has a file open just now that forbids the event."""
        worker.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        try:
            return happens(small)
        finally:
            worker.send_signal(signal.SIGCONT)

    wait_for(lambda: len(durable_batches(small.seen)) >= 3, still=lambda: worker.poll() is None)
    wait_for(once_held, still=lambda: worker.poll() is None)
    worker.wait()
    says(subprocess.CompletedProcess([], worker.returncode, "", (tmp_path / "stderr").read_text()), small.place, reason)
    assert not list((tmp_path / "out").glob("*.h5"))
    mend(small)
    committed = len(durable_batches(small.seen))
    assert (committed >= 3) == kept
    assert small.run(*options).returncode == 0
    (metrics,) = metrics_of(tmp_path / "out")
    assert metrics["reused"] == committed * ROWS_PER_BATCH and metrics["forward_passes"] == metrics["packs"] - committed
    assert same_bits(only_h5(tmp_path / "out"), only_h5(whole))
