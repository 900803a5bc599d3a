"""A task that was given up leaves by itself; another run on the same checkpoints goes on."""

import json
import os
import time

import pytest
from xxhash import xxh3_128

from protembed.attempts import Attempt, is_anothers
from protembed.errors import Transient
from protembed.layout import attempt_path, batch_path, marker_of
from protembed.marker import Work, marker_text, vouched_digest, work_of
from tests.crash import needs_ptrace, run_traced
from tests.crash_jobs import EmbedJob, durable_batches, litter

PLACE = ("identity", "chunk")


def attempt(root, session, **facts):
    (root / "identity" / "chunk").mkdir(parents=True, exist_ok=True)
    return Attempt(root, *PLACE, facts, session)


@pytest.mark.parametrize("newest, minutes, anothers", [("B", 1, True), ("B", 90, False), ("A", 1, False)])
def test_a_chunk_that_another_run_took_up_last_and_is_at_is_that_runs_to_clear(tmp_path, newest, minutes, anothers):
    assert not is_anothers(tmp_path, *PLACE, "A")  # no folder
    for session in {"A": "BA", "B": "AB"}[newest]:
        attempt(tmp_path, session)
    then = time.time() - 60 * minutes
    os.utime(tmp_path / "identity" / "chunk", (then, then))
    assert is_anothers(tmp_path, *PLACE, "A") == anothers


@pytest.mark.parametrize("commits, anothers", [([1, 2], True), ([2], False), ([], False)])
def test_a_chunk_that_an_earlier_run_goes_on_with_is_not_the_later_ones_to_clear(tmp_path, commits, anothers):
    """Whose merge came first. What the earlier one committed before the later one began tells nothing: it may be dead."""
    for number, session in ((1, "A"), (2, "B")):
        attempt(tmp_path, session)
        marker = marker_of(batch_path(tmp_path, *PLACE, number))
        marker.write_text(marker_text("00", "batch.pt", 3, 99, 1.0, 1))
        os.utime(marker, (1, 1))
    for number in commits:
        marker_of(batch_path(tmp_path, *PLACE, 2 + number)).write_text(marker_text("00", "batch.pt", 3, 99, 1.0, number))
    os.utime(attempt_path(tmp_path, *PLACE, 2), (2, 2))
    assert is_anothers(tmp_path, *PLACE, "B") == anothers


@needs_ptrace
@pytest.mark.parametrize("successor, code", [("the same session", 75), ("another session", 0)])
def test_an_orphan_leaves_when_its_own_run_has_a_successor_and_not_when_another_run_shares_the_folder(tmp_path, successor, code):
    job = EmbedJob(tmp_path)
    job.prepare(tmp_path / "golden")
    golden = run_traced(lambda: job.run(tmp_path / "golden"), tmp_path / "golden")
    place = next(number for number, operation in enumerate(golden.operations, 1) if operation.path.endswith("batch_00002.pt.done"))
    folder = tmp_path / "shared"
    job.prepare(folder)

    def second():
        assert run_traced(lambda: job.run(folder, "second", session=successor), folder).exit_code == 0

    first = run_traced(lambda: job.run(folder, "first", session="the same session"), folder, place, meanwhile=second)
    assert first.exit_code == code
    assert job.result(folder, "second") == job.result(tmp_path / "golden")
    assert bool(list((folder / "first").glob("*.h5"))) == (code == 0)
    assert not litter(folder)
    packs = len(durable_batches(tmp_path / "golden"))
    assert job.passes(folder) <= packs + 3 if code else job.passes(folder) > packs + 3, "two packs were done when it was held, one more was on its way"


def test_only_a_newer_task_of_the_same_session_supersedes(tmp_path):
    first, other, nobody = attempt(tmp_path, "mine"), attempt(tmp_path, "other"), attempt(tmp_path, "")
    assert not first.given_up() and not other.given_up() and not nobody.given_up()
    torn = attempt_path(tmp_path, *PLACE, 4)
    torn.write_text('{"session": "mi')
    assert not first.given_up()
    attempt(tmp_path, "mine")
    assert "a newer task of the same run" in first.given_up()
    assert not other.given_up() and not nobody.given_up()


def test_a_folder_that_the_merge_of_another_run_has_removed_is_transient(tmp_path):
    with pytest.raises(Transient, match="No such file or directory"):
        Attempt(tmp_path, *PLACE, {})


def test_attempts_are_numbered_and_say_who_they_are(tmp_path):
    attempt(tmp_path, "a", sequences=3)
    assert attempt(tmp_path, "b").number == 2
    record = json.loads(attempt_path(tmp_path, *PLACE, 1).read_text())
    assert (record["session"], record["sequences"]) == ("a", 3) and record["host"] and record["pid"]


def test_a_marker_tells_how_much_work_stands_behind_it_and_its_first_line_is_the_digest(tmp_path):
    job = EmbedJob(tmp_path)
    job.prepare(tmp_path / "run")
    assert run_traced(lambda: job.run(tmp_path / "run"), tmp_path / "run").exit_code == 0
    batches = durable_batches(tmp_path / "run")
    works = [work_of(marker_of(batch).read_text()) for batch in batches]
    assert sum(work.sequences for work in works) == 24 and {work.attempt for work in works} == {1}
    for batch in batches:
        assert vouched_digest(marker_of(batch).read_text()) == xxh3_128(batch.read_bytes()).hexdigest()
    assert work_of("0123  batch_00000.pt\n# 12 sequences, 34 residues, 5.6 seconds, attempt 7\n") == Work(12, 34, 5.6, 7)
    assert work_of("0123  batch_00000.pt\n# 12 sequences, 34 resid") is None
