"""A process that reads ahead: same items, same errors, and never one left over."""

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
from protembed.beside import beside
from protembed.errors import BadInput, Killed
from tests.conftest import BIN, make_proteins, write_fasta
from tests.kills import ECOLI_FASTA
from tests.nextflow import is_alive, wait_for


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
