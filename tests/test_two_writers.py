"""Several processes on one checkpoint folder: an orphan and its successor, two tasks, four, one that sleeps for long.

And what dead writers leave behind: removed when their death is provable, left alone when it is not.
"""

import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from protembed.anchor import NAME
from protembed.atomic import create_exclusive, remove_leftovers, temporary_name
from protembed.checkpoint import ChunkCheckpoint
from protembed.errors import Transient
from tests.crash import finish, fork, in_processes, needs_ptrace, run_traced
from tests.crash_jobs import EmbedJob, MergeJob, committed_files, durable_batches, litter

pytestmark = needs_ptrace
NO_LINKS = ("link", "linkat")


def result_of(job, base):
    """What one undisturbed writer makes of the job, and its file operations."""
    job.prepare(base / "golden")
    run = run_traced(lambda: job.run(base / "golden"), base / "golden")
    assert run.exit_code == 0
    return job.result(base / "golden"), run.operations


def exit_code_of(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def nothing_was_overwritten(before, folder):
    after = committed_files(folder)
    return all(after.get(path) == content for path, content in before.items())


@pytest.mark.parametrize("writers", [2, 4])
def test_writers_that_run_at_once_all_get_every_row_and_the_same_vectors(tmp_path, writers):
    job = EmbedJob(tmp_path)
    golden, _ = result_of(job, tmp_path)
    for attempt in range(3):
        folder = tmp_path / f"attempt-{attempt}"
        job.prepare(folder)
        children = [fork(lambda folder=folder, number=number: job.run(folder, f"out{number}")) for number in range(writers)]
        seen = {}
        while any(children):
            for path, content in committed_files(folder).items():
                assert seen.setdefault(path, content) == content, f"{path} was overwritten"
            ended = [child for child in children if child and os.waitpid(child, os.WNOHANG)[0]]
            children = [None if child in ended else child for child in children]
        assert all(job.result(folder, f"out{number}") == golden for number in range(writers))
        assert not litter(folder) and not list(folder.rglob("set_aside"))


@pytest.mark.parametrize("refused", [(), NO_LINKS], ids=["hard links", "a file system without hard links"])
def test_a_writer_held_at_any_file_operation_while_another_finishes_goes_on_to_the_same_result(tmp_path, refused):
    job = EmbedJob(tmp_path, proteins=6)
    golden, _ = result_of(job, tmp_path)
    job.prepare(tmp_path / "count")
    operations = run_traced(lambda: job.run(tmp_path / "count"), tmp_path / "count", refused=refused).operations

    def hold(number):
        folder, seen = tmp_path / f"held-{number}", {}
        job.prepare(folder)

        def second():
            assert run_traced(lambda: job.run(folder, "second"), folder, refused=refused).exit_code == 0
            seen.update(committed_files(folder))

        first = run_traced(lambda: job.run(folder, "first"), folder, number, meanwhile=second, refused=refused)
        assert first.exit_code == 0 and seen, f"held before {first.operations[number - 1]}"
        assert job.result(folder, "first") == job.result(folder, "second") == golden
        assert nothing_was_overwritten(seen, folder) and not litter(folder)
        assert not list(folder.rglob("set_aside")), f"the file of a living writer was set aside, at {first.operations[number - 1]}"
        shutil.rmtree(folder)

    in_processes(hold, (number for number, operation in enumerate(operations, 1) if "/checkpoints/" in operation.path))


def test_a_writer_stopped_until_the_other_has_finished_goes_on_to_the_same_result(tmp_path):
    """The whole job, stopped as soon as so many batches are durable."""
    job = EmbedJob(tmp_path)
    golden, _ = result_of(job, tmp_path)
    for batches in range(5):
        folder, seen = tmp_path / f"stopped-{batches}", {}
        job.prepare(folder)

        def second(folder=folder, seen=seen, batches=batches):
            if not seen and len(durable_batches(folder)) == batches:
                assert finish(lambda: job.run(folder, "second")) == 0
                seen.update(committed_files(folder))

        first = run_traced(lambda folder=folder: job.run(folder, "first"), folder, meanwhile=second)
        assert first.exit_code == 0 and seen
        assert job.result(folder, "first") == job.result(folder, "second") == golden
        assert nothing_was_overwritten(seen, folder) and not litter(folder)


def test_a_writer_whose_checkpoints_the_merge_has_removed_leaves_and_makes_no_new_ones(tmp_path):
    job = EmbedJob(tmp_path, proteins=9)
    _, operations = result_of(job, tmp_path)
    place = next(number for number, operation in enumerate(operations, 1) if operation.path.endswith("batch_00001.pt"))
    folder = tmp_path / "merged"
    job.prepare(folder)
    identity = next(path.name for path in (tmp_path / "golden" / "checkpoints").iterdir() if path.is_dir())
    run = run_traced(lambda: job.run(folder), folder, place, meanwhile=lambda: shutil.rmtree(folder / "checkpoints" / identity))
    assert run.exit_code == Transient.exit_code
    assert not (folder / "checkpoints" / identity).exists()


def test_what_an_orphan_commits_while_the_merge_removes_its_folder_is_removed_with_it(tmp_path):
    job = MergeJob(tmp_path)
    job.prepare(tmp_path / "count")
    operations = run_traced(lambda: job.run(tmp_path / "count"), tmp_path / "count").operations
    place = max(number for number, operation in enumerate(operations, 1) if re.search(r"/chunk_\w+$", operation.path))  # the last rmdir of a chunk
    folder = tmp_path / "late"
    job.prepare(folder)
    late = folder / Path(operations[place - 1].path).relative_to(tmp_path / "count") / "batch_00099.pt"
    run = run_traced(lambda: job.run(folder), folder, place, meanwhile=lambda: create_exclusive(late, lambda handle: None))
    assert run.exit_code == 0
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [NAME]


def test_a_batch_that_rots_before_the_chunk_file_is_written_ends_the_task_for_a_retry(tmp_path):
    job = EmbedJob(tmp_path, proteins=9)
    golden, operations = result_of(job, tmp_path)
    place = next(number for number, operation in enumerate(operations, 1) if operation.path.endswith("batch_00001.pt"))
    folder = tmp_path / "rotten"
    job.prepare(folder)
    run = run_traced(lambda: job.run(folder), folder, place, meanwhile=lambda: os.truncate(durable_batches(folder)[0], 100))
    assert run.exit_code == Transient.exit_code and not list((folder / "out").glob("*.h5"))
    assert finish(lambda: job.run(folder)) == 0 and job.result(folder) == golden


def leftover(path, writer, alive=False):
    """A temporary file of `path` as a process makes it that then dies, or lives until it is told."""
    child = fork(lambda: (writer(), alive and time.sleep(60)))
    if not alive:
        assert exit_code_of(child) == 0
    return child


def test_leftovers_of_dead_writers_are_removed_and_those_of_living_or_unknown_ones_stay(tmp_path):
    path = tmp_path / "batch_00000.pt"

    def write():
        temporary_name(path).write_text("torn")

    leftover(path, write)
    (dead,) = tmp_path.glob(".*.tmp")
    living = leftover(path, write, alive=True)
    while len(list(tmp_path.glob(".*.tmp"))) < 2:
        time.sleep(0.001)
    ours = temporary_name(path)
    ours.write_text("in the making")
    boot = dead.name[: dead.name.rindex("-")].rsplit(".", 1)[1]
    strangers = {
        "another host": dead.name.replace(f".{socket.gethostname()}.", f".{socket.gethostname()}2."),
        "another boot": dead.name.replace(f".{boot}-", ".00000000-"),
        "another pid namespace": dead.name.replace(f".{boot}-", f".{boot}-9"),
        "an unknown boot": dead.name.replace(f".{boot}-", ".unknown-"),
        "another program": ".batch_00000.pt.1234.tmp",
    }
    assert len(set(strangers.values()) - {dead.name}) == len(strangers)
    for name in strangers.values():
        (tmp_path / name).write_text("not ours")
    before = litter(tmp_path)
    remove_leftovers(tmp_path)
    assert before - litter(tmp_path) == {dead.name}
    os.kill(living, signal.SIGKILL)
    remove_leftovers(tmp_path)
    os.waitpid(living, 0)  # until here a zombie still has its pid
    remove_leftovers(tmp_path, path.name)
    assert litter(tmp_path) == {ours.name, *strangers.values()}


def test_a_new_writer_removes_what_a_dead_one_left_in_its_folder(tmp_path):
    temporary = tmp_path / "identity" / "chunk"
    temporary.mkdir(parents=True)
    leftover(temporary, lambda: temporary_name(temporary / "batch_00007.pt.done").write_text("torn"))
    assert litter(tmp_path)
    ChunkCheckpoint(tmp_path, "identity", "chunk", 1)
    assert not litter(tmp_path)
