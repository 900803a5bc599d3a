"""Kill at every file operation, before and after it, and run again: the outputs are those of a run that nobody disturbed.

As SQLite's writecrash test: n = 1, 2, 3, ... until a run survives; real SIGKILL, at the system call. What a folder
holds under a final name at the instant of death is already whole and right.

A kill after an operation leaves what a kill before the next one leaves, so by default only those that give a file its
name are killed at both moments, and of several writes in a row to a file without a name only the first;
PROTEMBED_CRASH_FULL=1 does so with all (some minutes).
"""

import json
import shutil

import pytest

from tests.crash import AFTER, BEFORE, FULL, KILLED, finish, in_processes, needs_ptrace, run_traced
from tests.crash_jobs import ApartMergeJob, EmbedJob, MergeJob, ShardedMergeJob, SplitJob, committed_files, durable_batches, litter

pytestmark = needs_ptrace

# Counted by hand in atomic.py. A file: open, write, fsync, name, fsync of its folder; a checkpoint file also loses its temporary name.
PER_FILE, PER_BATCH, PROBE_OF_THE_ANCHOR = 5, 2 * 6, 2


def undisturbed(job, folder):
    """Operations and result of a run that nobody kills."""
    job.prepare(folder)
    run = run_traced(lambda: job.run(folder), folder)
    assert run.exit_code == 0 and not litter(folder)
    return run.operations, job.result(folder)


def crash_everywhere(job, base, operations, check_death, check_recovery, **trace):
    """Kill a fresh run at each operation and moment, look at what is left, run again, look again; the number of kills."""

    def crash(point):
        number, moment = point
        folder = base / f"{moment}-{number}"
        job.prepare(folder)
        run = run_traced(lambda: job.run(folder), folder, number, moment, **trace)
        assert run.exit_code == KILLED, f"survived {moment} operation {number}"
        found = check_death(folder)
        assert finish(lambda: job.run(folder)) == 0, f"no recovery from a kill {moment} operation {number}, {run.operations[-1]}"
        check_recovery(folder, found)
        assert not litter(folder), "the next writer leaves the temporary files of the dead one"
        shutil.rmtree(folder)

    all_of_them = range(1, len(operations) + 1)
    before = all_of_them if FULL else [number for number in all_of_them if number == 1 or operations[number - 1] != operations[number - 2]]
    after = all_of_them if FULL else [number for number in all_of_them if operations[number - 1].source]
    points = [*((number, BEFORE) for number in before), *((number, AFTER) for number in after)]
    in_processes(crash, points)
    job.prepare(base / "beyond")
    assert run_traced(lambda: job.run(base / "beyond"), base / "beyond", len(operations) + 1, **trace).exit_code == 0, "the last n must survive"
    return len(points)


def is_part_of(found, golden):
    return all(golden.get(name) == content for name, content in found.items())


@pytest.mark.parametrize("refused", [(), ("link", "linkat")], ids=["hard links", "a file system without hard links"])
def test_embed_chunk_survives_a_kill_at_every_file_operation_and_computes_nothing_committed_again(tmp_path, say, refused):
    job = EmbedJob(tmp_path, proteins=6 if refused else 24)
    _, golden = undisturbed(job, tmp_path / "golden")
    job.prepare(tmp_path / "count")
    operations = run_traced(lambda: job.run(tmp_path / "count"), tmp_path / "count", refused=refused).operations
    packs = job.passes(tmp_path / "golden")
    assert packs == len(durable_batches(tmp_path / "golden")) >= (2 if refused else 8)

    def at_death(folder):
        for path in (folder / "out").glob("[!.]*"):
            if path.suffix == ".h5":
                assert job.result(folder) == golden
            else:
                assert json.loads(path.read_text())["forward_passes"] == packs
        return committed_files(folder), job.passes(folder)

    def after_recovery(folder, found):
        committed, passes = found
        assert job.result(folder) == golden
        assert job.passes(folder) - passes == packs - len(committed) // 2, "committed packs are computed again, or missing ones were not"
        assert is_part_of(committed, committed_files(folder)), "a committed file was overwritten"

    points = crash_everywhere(job, tmp_path, operations, at_death, after_recovery, refused=refused)
    assert points >= packs * (PER_BATCH + 2 * (not refused)) + 2 * (PER_FILE + 1) + PROBE_OF_THE_ANCHOR
    say(f"embed_chunk{', no hard links' if refused else ''}: {points} crash points, {packs} packs")


@pytest.mark.parametrize("make_job", [MergeJob, ShardedMergeJob, ApartMergeJob], ids=["one file", "two shards", "two processes"])
def test_merge_chunks_survives_a_kill_at_every_file_operation(make_job, tmp_path, say):
    job = make_job(tmp_path)
    operations, golden = undisturbed(job, tmp_path / "golden")

    def at_death(folder):
        assert is_part_of(job.result(folder), golden), "a final name holds something torn"

    def after_recovery(folder, _):
        assert job.result(folder) == golden
        assert not list((folder / "checkpoints").glob("[!.]*")), "checkpoints of merged chunks are left"

    points = crash_everywhere(job, tmp_path, operations, at_death, after_recovery)
    files = 3 if job.shards == 1 else 3 + job.shards
    assert len(job.chunks) >= 3 and points >= files * (PER_FILE + 1) + PROBE_OF_THE_ANCHOR + 3 * len(job.chunks)
    say(f"merge_chunks: {points} crash points, {len(job.chunks)} chunks, {job.shards} files of vectors")


def test_split_fasta_survives_a_kill_at_every_file_operation(tmp_path, say):
    job = SplitJob(tmp_path)
    operations, golden = undisturbed(job, tmp_path / "golden")

    def at_death(folder):
        assert is_part_of(job.result(folder), golden), "a final name holds something torn"

    def after_recovery(folder, _):
        assert job.result(folder) == golden

    points = crash_everywhere(job, tmp_path, operations, at_death, after_recovery)
    chunks = sum(name.endswith(".fasta") for name in golden)
    assert chunks >= 3 and points >= (chunks + 2) * (PER_FILE + 1)
    say(f"split_fasta: {points} crash points, {chunks} chunks")


@pytest.mark.parametrize("make_job", [EmbedJob, MergeJob, ApartMergeJob, SplitJob], ids=["embed_chunk", "merge_chunks", "two processes", "split_fasta"])
def test_no_file_gets_its_name_before_its_bytes_are_synced_and_no_run_ends_before_its_names_are(make_job, tmp_path):
    job = make_job(tmp_path)
    operations, _ = undisturbed(job, tmp_path / "golden")
    unsynced_files, unsynced_folders = set(), set()
    for call, path, source in operations:
        folder = path.rpartition("/")[0]
        if call in ("fsync", "fdatasync"):
            unsynced_files.discard(path), unsynced_folders.discard(path)
        elif call.startswith(("link", "rename")):
            assert source not in unsynced_files, f"{path} got its name before its bytes were safe: a power cut leaves it torn"
            if path.endswith(".done"):
                assert folder not in unsynced_folders, f"{path} may outlive the name of its batch"
            unsynced_folders.add(folder)
        elif call == "mkdir" and "/checkpoints/" in path:
            unsynced_folders.add(folder)
        elif call in ("write", "pwrite", "writev", "pwritev", "truncate"):
            unsynced_files.add(path)
    assert not unsynced_folders, "names that a power cut can take back after the run has ended well"
