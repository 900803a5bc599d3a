"""A process that reads ahead, and one that lags behind: same items, same work, same errors, and never one left over."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import count

import pytest

import split_fasta
from protembed import beside as module
from protembed.beside import PIPE_BYTES, Here, apart, beside
from protembed.errors import BadInput, Killed
from tests.conftest import BIN, make_proteins, write_fasta
from tests.kills import ECOLI_FASTA
from tests.nextflow import wait_for
from tests.phases import is_alive


def three():
    yield from ("a", ["b"], {"c": 3})


def spoilt():
    yield 1
    raise BadInput("in.fasta:3: no")


def buggy():
    yield 1
    raise ZeroDivisionError("ours")


def on_a_full_disk():
    yield 1
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def suicidal():
    yield 1
    os.kill(os.getpid(), signal.SIGKILL)
    yield 2


def test_items_come_in_order_and_the_process_ends():
    assert list(beside(three)) == list(three())
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "items, error, words",
    [(spoilt, BadInput, "in.fasta:3: no"), (buggy, ZeroDivisionError, "ours"), (on_a_full_disk, OSError, "Errno 28"), (suicidal, Killed, "exit code -9")],
)
def test_an_error_comes_after_the_items_before_it(items, error, words):
    taken = []
    with pytest.raises(error, match=words) as raised:
        for item in beside(items):
            taken.append(item)  # noqa: PERF402
    assert taken == [1] and not multiprocessing.active_children()
    if error is ZeroDivisionError:  # a bug of ours: where it was must be seen
        assert "in buggy" in str(raised.value.__cause__)


def test_who_stops_early_leaves_no_process():
    endless = beside(count)
    assert [next(endless), next(endless)] == [0, 1]
    endless.close()
    assert not multiprocessing.active_children()


def test_the_process_ends_by_itself_when_the_one_that_listens_is_killed():
    words = "import itertools, multiprocessing as m; from protembed.beside import beside; i = beside(itertools.count); next(i); "
    words += "print(m.active_children()[0].pid, flush=True); input()"
    here = {**os.environ, "PYTHONPATH": str(BIN)}
    listener = subprocess.Popen([sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=here)
    reader = int(listener.stdout.readline())
    time.sleep(0.2)  # the pipe is full, it waits
    os.kill(reader, 0)
    listener.kill()
    listener.wait()
    wait_for(lambda: not is_alive(reader), 20)


class Worker:
    """Keeps what it is told; knows how to fail in every way."""

    def __init__(self):
        self.told = []

    def keep(self, *words):
        self.told.append(words)

    def all(self):
        return self.told, os.getpid()

    def nap(self, path):
        path.touch()
        time.sleep(60)

    def complain(self, words):
        time.sleep(0.1)  # the next order fills the pipe
        raise ValueError(words)

    def fail(self, number):
        generator = (spoilt, buggy, on_a_full_disk, suicidal)[number]()
        next(generator)
        next(generator)


def test_a_worker_apart_does_in_order_what_it_is_told_as_one_here_does():
    with apart(Worker()) as there:
        here = Here(Worker())
        for worker in (there, here):
            for number in range(1000):
                worker.tell("keep", number, "x" * 100)
        (theirs, pid), (ours, mine) = there.ask("all"), here.ask("all")
    assert theirs == ours == [(number, "x" * 100) for number in range(1000)] and pid != mine == os.getpid()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("asked", [False, True], ids=["told", "asked"])
@pytest.mark.parametrize("number, error, words", [(0, BadInput, "no"), (1, ZeroDivisionError, "ours"), (2, OSError, "Errno 28"), (3, Killed, "exit code -9")])
def test_what_came_of_an_order_is_raised_at_the_latest_with_the_next_answer(number, error, words, asked):
    with pytest.raises(error, match=words) as raised, apart(Worker()) as worker:
        worker.tell("fail", number)
        while not asked:
            worker.tell("keep")
        worker.ask("all")
    assert not multiprocessing.active_children()
    if error is ZeroDivisionError:
        assert "in buggy" in str(raised.value.__cause__)
    assert error is not Killed or raised.value.exit_code == 137, "the next try gets more memory"


def test_an_error_of_more_words_than_a_pipe_takes_is_told_while_orders_wait():
    with pytest.raises(ValueError, match="no" * 100), apart(Worker()) as worker:
        worker.tell("complain", "no" * PIPE_BYTES)
        while True:
            worker.tell("keep", "x" * PIPE_BYTES)


def test_when_the_block_ends_in_an_error_what_the_worker_has_still_to_do_is_not_waited_for(tmp_path):
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), apart(Worker()) as worker:
        worker.tell("nap", tmp_path / "begun")
        wait_for((tmp_path / "begun").exists)
        raise KeyboardInterrupt
    assert not multiprocessing.active_children() and time.monotonic() - started < 50


def test_a_worker_whose_master_is_killed_ends_by_itself_and_leaves_the_orders_of_the_dead(tmp_path):
    words = "import os, sys, pathlib, time; from protembed.beside import apart; from tests.test_beside import Slow; c = apart(Slow()); w = c.__enter__(); "
    words += "print(w.ask('pid'), flush=True); [w.tell('touch', pathlib.Path(sys.argv[1], str(n))) for n in range(500)]; input()"
    here = {**os.environ, "PYTHONPATH": f"{BIN}:{BIN.parent}"}
    master = subprocess.Popen([sys.executable, "-c", words, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=here)
    worker = int(master.stdout.readline())
    wait_for(lambda: len(list(tmp_path.iterdir())) > 3)
    master.kill()
    master.wait()
    wait_for(lambda: not is_alive(worker), 20)
    assert len(list(tmp_path.iterdir())) < 400


class Slow:
    def pid(self):
        return os.getpid()

    def touch(self, path):
        path.touch()
        time.sleep(0.02)


def split(monkeypatch, least, folder, *files):
    monkeypatch.setattr(module, "LEAST_BYTES", least)
    split_fasta.main(split_fasta.Options(list(map(str, files)), outdir=str(folder), duplicate_ids="rename", chunk_residues=20000, sample=16))
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_split_that_reads_beside_writes_what_one_process_writes(tmp_path, monkeypatch):
    write_fasta(tmp_path / "more.fasta", make_proteins(range(20, 90), seed=8))
    files = [ECOLI_FASTA, tmp_path / "more.fasta", ECOLI_FASTA]
    alone, by_two = (split(monkeypatch, least, tmp_path / str(least), *files) for least in (1 << 60, 0))
    assert alone == by_two and len(alone) > 10


def test_a_split_that_reads_beside_refuses_with_the_same_words(tmp_path, monkeypatch):
    (tmp_path / "cut.fasta.gz").write_bytes(ECOLI_FASTA.read_bytes()[:50_000])
    for name in ("cut.fasta.gz", "absent.fasta"):
        said = []
        for least in (1 << 60, 0):
            with pytest.raises(BadInput) as refused:
                split(monkeypatch, least, tmp_path / "out" / name / str(least), tmp_path / name if name.startswith("cut") else "absent.fasta")
            said.append(str(refused.value))
        assert said[0] == said[1]
