"""A worker in a process of its own: same work, same errors, and never one left over."""

import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from protembed.beside import MOST_ORDERS, PIPE_BYTES, Here, apart
from protembed.errors import BadInput, Killed
from tests.conftest import BIN
from tests.nextflow import is_alive, wait_for
from tests.test_beside import buggy, on_a_full_disk, spoilt, suicidal


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

    def await_(self, path):
        wait_for(path.exists)

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


def test_who_gives_orders_need_not_wait_until_the_worker_has_done_those_before(tmp_path):
    with apart(Worker()) as worker:
        worker.tell("await_", tmp_path / "told")
        for _ in range(MOST_ORDERS):
            worker.tell("keep", "x" * PIPE_BYTES)
        (tmp_path / "told").touch()
        assert len(worker.ask("all")[0]) == MOST_ORDERS


def test_when_the_block_ends_in_an_error_what_the_worker_has_still_to_do_is_not_waited_for(tmp_path):
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), apart(Worker()) as worker:
        worker.tell("nap", tmp_path / "begun")
        wait_for((tmp_path / "begun").exists)
        raise KeyboardInterrupt
    assert not multiprocessing.active_children() and time.monotonic() - started < 50


def test_a_worker_whose_master_is_killed_ends_by_itself_and_leaves_the_orders_of_the_dead(tmp_path):
    words = "import os, sys, pathlib, time; from protembed.beside import apart; from tests.test_apart import Slow; c = apart(Slow()); w = c.__enter__(); "
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
