"""Every file operation of every writer fails once, or fails from then on, as SQLite's ioerr and full tests do it.

The system call itself answers EIO (a sick disk) or ENOSPC (a full one). A run then recovers or ends with exit code 75 and
one line; what it leaves is whole; the same command on a sound disk finishes and computes nothing committed again.
By default every operation fails that is not of the same kind as one before it, and every seventh of the others;
PROTEMBED_CRASH_FULL=1 takes all.
"""

import contextlib
import errno
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from protembed.checkpoint import ChunkCheckpoint
from protembed.chunk_file import open_chunk_file
from protembed.errors import BadInput, CorruptStore, Transient, fault_of_the_file_system
from protembed.fasta import read_blocks
from protembed.layout import CHUNK_FORMAT
from protembed.seals import damage_named, opened
from protembed.weights import Description, load_esm2
from tests.crash import FULL, Fault, finish, in_processes, needs_ptrace, run_traced
from tests.crash_jobs import ApartMergeJob, EmbedJob, MergeJob, SplitJob, committed_files, litter

pytestmark = needs_ptrace

REMOVALS = ("unlink", "unlinkat", "rmdir")
FAULTS = {"EIO once": Fault(errno.EIO), "a disk that stays full": Fault(errno.ENOSPC, True, REMOVALS)}


def telling(operations):
    """Numbers of the operations to fail, from 1: all, or some of each kind (call, ending of the file's name, folder)."""
    kinds, chosen = set(), []
    for number, (call, path, source) in enumerate(operations, 1):
        kind = (call, path.rpartition(".")[2], "/checkpoints" in path, bool(source))
        if FULL or kind not in kinds or number % 7 == 0:
            chosen.append(number)
        kinds.add(kind)
    return chosen


def speaking_to(path, work):
    """Run `work` with its stderr, also that of libraries, in a file."""
    with open(path, "w", buffering=1) as said, contextlib.redirect_stderr(said):
        os.dup2(said.fileno(), 2)
        work()


def fail_everywhere(job, base, fault, check_stop, check_recovery):
    """Let operations fail, each in a fresh run; look at what is left, run again, look again. Numbers of faults and of recoveries."""
    job.prepare(base / "golden")
    run = run_traced(lambda: job.run(base / "golden"), base / "golden")
    assert run.exit_code == 0
    golden, numbers = job.result(base / "golden"), telling(run.operations)

    def check(number):
        folder, said = base / f"fault-{number}", base / f"fault-{number}.stderr"
        job.prepare(folder)
        run = run_traced(lambda: speaking_to(said, lambda: job.run(folder)), folder, number, fault=fault)
        failed, lines = run.operations[number - 1], said.read_text().splitlines()
        if run.exit_code == 0:
            assert not lines and job.result(folder) == golden, f"{failed} failed"
            (base / f"recovered-{number}").touch()
        else:
            assert run.exit_code == Transient.exit_code, f"{failed} failed: {lines}"
            assert len(lines) == 1 and str(folder) in lines[0] and os.strerror(fault.number) in lines[0], f"{failed} failed: {lines}"
        assert failed.call in REMOVALS or not litter(folder), f"{failed} failed and left {litter(folder)}"
        found = check_stop(folder, golden)
        assert finish(lambda: job.run(folder)) == 0, f"no recovery after {failed} failed"
        assert job.result(folder) == golden and not litter(folder), f"{failed} failed"
        check_recovery(folder, found)
        shutil.rmtree(folder)

    in_processes(check, numbers)
    return f"{len(numbers)} faults, {len(list(base.glob('recovered-*')))} without effect"


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_embed_chunk_survives_the_failure_of_any_file_operation_and_computes_nothing_committed_again(tmp_path, say, fault):
    job = EmbedJob(tmp_path)

    def at_stop(folder, golden):
        assert not list((folder / "out").glob("[!.]*.h5")) or job.result(folder) == golden, "a torn chunk file"
        return committed_files(folder), job.passes(folder)

    def after_recovery(folder, found):
        committed, passes = found
        packs = job.passes(tmp_path / "golden")
        assert job.passes(folder) - passes == packs - len(committed) // 2, "committed packs are computed again, or missing ones were not"
        now = committed_files(folder)
        assert all(now[path] == content for path, content in committed.items()), "a committed file was overwritten"

    say(f"embed_chunk: {fail_everywhere(job, tmp_path, fault, at_stop, after_recovery)}")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("make_job", [MergeJob, ApartMergeJob, SplitJob], ids=["merge_chunks", "merge_chunks by two processes", "split_fasta"])
def test_merge_chunks_and_split_fasta_survive_the_failure_of_any_file_operation(tmp_path, say, make_job, fault):
    job = make_job(tmp_path)

    def at_stop(folder, golden):
        assert job.result(folder).items() <= golden.items(), "a final name holds something torn"

    def after_recovery(folder, _):
        assert not list((folder / "checkpoints").glob("[!.]*")), "checkpoints of merged chunks are left"

    say(f"{make_job.__name__}: {fail_everywhere(job, tmp_path, fault, at_stop, after_recovery)}")


def test_a_file_that_cannot_be_read_just_now_is_not_called_damaged():
    with pytest.raises(Transient, match="/proc/self/mem: Input/output error; look after that file system"), opened(Path("/proc/self/mem"), CHUNK_FORMAT):
        pass


OUTSIDE = ["EIO", "ESTALE", "ETIMEDOUT", "ESHUTDOWN", "ECONNABORTED", "EHOSTDOWN", "ENOLCK", "ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "EACCES"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_network_or_machine_refuse_for_now_is_not_called_damage(result, weights, tmp_path, monkeypatch, name):
    """Chunk files, checkpoints, weights and FASTA."""
    number, chunk = getattr(errno, name), min((result.parent.parent / "vectors").glob("*.h5"))

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    checkpoint = ChunkCheckpoint(tmp_path, "identity", "chunk", 1)
    with open_chunk_file(chunk) as opened_chunk, monkeypatch.context() as patched:
        patched.setattr("os.preadv", refuse)
        with pytest.raises(Transient, match=f"{chunk}.*{os.strerror(number)}.*run again"):
            opened_chunk.vectors(opened_chunk.names[0], [0])
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(io, "open", refuse)
    for read in (lambda: Description.read(weights), lambda: load_esm2(weights / "model.pt"), lambda: checkpoint.load(tmp_path / "batch_00000.pt")):
        with pytest.raises(Transient, match=f"{os.strerror(number)}.*run again"):
            read()
    with pytest.raises(Transient if name != "EACCES" else BadInput, match=os.strerror(number)):
        next(read_blocks(chunk))


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "EACCES", "ENOTDIR"])
def test_a_checkpoint_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(tmp_path, monkeypatch, name):
    checkpoint = ChunkCheckpoint(tmp_path, "identity", "chunk", 1)

    def refuse(folder="."):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)), str(folder))

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(Transient, match=f"{checkpoint.folder}.*{os.strerror(getattr(errno, name))}"):
        checkpoint.good_batches()


@pytest.mark.parametrize(
    "error, kind",
    [
        (MemoryError(), Transient),
        (RuntimeError("can't start new thread"), Transient),
        (RuntimeError("unable to mmap 64 bytes from file </w/model.pt>: Cannot allocate memory (12)"), Transient),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes. Error code 12 (Cannot allocate memory)"), Transient),
        (MemoryError("Can't malloc 281474976710656 bytes"), CorruptStore),
        (RuntimeError("wrong B-tree signature (12)"), CorruptStore),
    ],
    ids=repr,
)
def test_want_of_memory_or_threads_is_damage_only_where_no_such_file_could_hold_as_much(result, error, kind):
    with pytest.raises(kind), damage_named(result):
        raise error


@pytest.mark.parametrize("size, kind", [(1 << 50, CorruptStore), (1 << 20, Transient)])
def test_no_memory_for_an_array_that_fits_into_the_file_is_not_damage(result, size, kind):
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 60, np.uint8)
    with pytest.raises(kind), damage_named(result):
        raise type(caught.value)((size,), np.dtype(np.uint8))


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(errno.ENOENT, "no such file", "chunk.fasta"), PermissionError(errno.EACCES, "denied", "chunk.fasta"), KeyError(28), RuntimeError("28")],
    ids=repr,
)
def test_mistakes_and_bugs_are_not_put_down_to_the_file_system(error):
    assert fault_of_the_file_system(error) is None
