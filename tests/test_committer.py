"""Commits beside the work: when they begin, how much may wait for them, and what becomes of their errors."""

import threading
import time
from types import SimpleNamespace

import pytest

from protembed import committer as module
from protembed.checkpoint import ChunkCheckpoint
from protembed.committer import BackgroundCommitter
from protembed.errors import Transient
from tests.test_checkpoint import batch, rows_done


def test_a_commit_begins_with_the_first_batch_after_the_interval_and_takes_all_that_came_before(monkeypatch):
    now, commits = [1000.0], []
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with BackgroundCommitter(lambda parts, seconds: commits.append(([part.rows.item() for part in parts], seconds)), seconds=30) as committer:
        for row, now[0] in enumerate([1000.0, 1029.9, 1030.0, 1059.9, 1071.0, 1072.0]):
            committer.add(batch([row]))
    assert commits == [([0, 1, 2], 30.0), ([3, 4], 41.0), ([5], 1.0)], "the last one at the end"


def test_commits_run_beside_the_work_but_never_two_behind():
    running, most_running, done = [], [], []
    release = threading.Event()

    def slow(part, seconds):
        running.append(part)
        most_running.append(len(running))
        release.wait(10)
        running.remove(part)
        done.append(part[0].rows.tolist())

    with BackgroundCommitter(slow, seconds=0) as committer:
        committer.add(batch([0]))  # returns at once
        assert not done
        threading.Timer(0.2, release.set).start()
        committer.add(batch([1]))  # has to wait for the first
        assert done[:1] == [[0]]
    assert (done, max(most_running)) == ([[0], [1]], 1)


def test_no_more_than_the_limit_waits_for_the_disk(monkeypatch):
    """What was handed over and is not durable: the waiting bytes, one commit on its way, and the pack that is too much."""
    pack = batch([0])
    limit = 4 * pack.nbytes
    monkeypatch.setattr(module, "MOST_BYTES_WAITING", limit)
    added, durable, most, gate = [0], [0], [0], threading.Semaphore(0)

    def slow(parts, seconds):
        most[0] = max(most[0], added[0] - durable[0])
        gate.acquire(timeout=10)
        durable[0] += sum(part.nbytes for part in parts)

    def let_go():
        for _ in range(12):
            time.sleep(0.02)
            gate.release()

    threading.Thread(target=let_go).start()
    with BackgroundCommitter(slow, seconds=1000) as committer:
        for _ in range(40):
            added[0] += pack.nbytes
            committer.add(pack)
            most[0] = max(most[0], added[0] - durable[0])
    assert durable[0] == added[0] == 40 * pack.nbytes
    assert limit < most[0] <= 2 * limit + pack.nbytes


def test_what_was_computed_is_committed_even_when_the_work_fails(tmp_path):
    checkpoint = ChunkCheckpoint(tmp_path, "identity", "chunk_1", 10)
    with pytest.raises(KeyboardInterrupt), BackgroundCommitter(checkpoint.commit, seconds=1000) as committer:
        committer.add(batch([3]))
        raise KeyboardInterrupt
    assert rows_done(checkpoint) == [3]


def test_a_failed_commit_is_not_forgotten():
    def full(part, seconds):
        raise Transient("disk full")

    with pytest.raises(Transient, match="disk full"), BackgroundCommitter(full, seconds=0) as committer:
        committer.add(batch([3]))
