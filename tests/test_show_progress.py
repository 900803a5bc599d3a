"""What show_progress.py says agrees with the files, while tasks write them, after they died, and when files are damaged."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
import torch

from protembed.anchor import CONTENT, NAME
from protembed.layout import marker_of
from protembed.progress import read_progress
from protembed.shapes import Shape
from protembed.weights import random_esm2, save_esm2
from tests.conftest import BIN, make_proteins, run_script, write_fasta
from tests.crash import needs_ptrace, run_traced
from tests.crash_jobs import PROTEINS, EmbedJob, durable_batches
from tests.nextflow import run_pipeline, start_pipeline, wait_for, workers


def shown(root):
    return json.loads(run_script("show_progress.py", root, "--json").stdout)


def rows_in(folder):
    return sum(len(torch.load(path, weights_only=True)["rows"]) for path in durable_batches(folder))


@pytest.fixture
def killed(tmp_path):
    """A checkpoint folder whose first task was killed after its second batch, and its second one after one more."""
    job, folder = EmbedJob(tmp_path), tmp_path / "killed"
    job.prepare(folder)
    counts = []
    for wanted in (2, 3):
        probe = tmp_path / f"probe-{wanted}"
        shutil.copytree(folder, probe)
        operations = run_traced(lambda probe=probe: job.run(probe), probe).operations
        place = next(number for number, operation in enumerate(operations, 1) if operation.path.endswith(f"batch_0000{wanted}.pt"))
        assert run_traced(lambda: job.run(folder), folder, place).exit_code == -signal.SIGKILL
        counts.append(rows_in(folder))
    return folder / "checkpoints", counts


@needs_ptrace
def test_after_a_crash_it_tells_what_is_durable_what_was_reused_and_who_worked(killed):
    root, (first, second) = killed
    answer = shown(root)
    (chunk,) = answer["by_chunk"]
    assert 0 < first < second < PROTEINS
    assert (chunk["done"], chunk["reused"], chunk["computed"], chunk["sequences"], chunk["attempts"]) == (second, first, second - first, PROTEINS, 2)
    assert (answer["done"], answer["sequences"]) == (second, PROTEINS)
    assert 0 < chunk["tokens_done"] < chunk["tokens"]
    assert chunk["device"].startswith("CPU") and chunk["state"] == "working"
    text = run_script("show_progress.py", root).stdout
    assert "1 working" in text and f"{second} of {PROTEINS} sequences" in text and chunk["chunk"] in text


@needs_ptrace
def test_no_news_for_long_is_called_silent(killed):
    root, _ = killed
    (chunk,) = read_progress(root, time.time() + 3600)
    assert chunk.state == "silent" and 3500 < chunk.age < 3700 and chunk.seconds_left is None


@needs_ptrace
@pytest.mark.parametrize("damage", [b"", b"\xff\xfe{", b'{"sequences": 3', b"[1, 2]", b"null"])
def test_torn_and_foreign_files_are_passed_over(killed, damage):
    root, (_, second) = killed
    (root / "runs" / "session").mkdir(parents=True)
    (root / "runs" / "session" / "split.json").write_bytes(damage)
    (root / "runs" / "session" / "chunk_0.metrics.json").write_bytes(damage)
    (root / "a file").write_text("of somebody")
    assert shown(root)["done"] == second
    marker = marker_of(durable_batches(root)[0])
    marker.write_bytes(damage)
    assert 0 < shown(root)["done"] < second
    for attempt in root.rglob("attempt_*.json"):
        attempt.write_bytes(damage)
    run_script("show_progress.py", root)


@needs_ptrace
def test_files_that_vanish_while_it_reads_do_no_harm(killed):
    root, _ = killed
    (folder,) = root.glob("*/chunk_*")
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            shutil.copytree(folder, folder.with_name("chunk_0123456789abcdef"))
            shutil.rmtree(folder.with_name("chunk_0123456789abcdef"))

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        counts, deadline = Counter(), time.monotonic() + 60
        while (counts.total() < 500 or len(counts) < 2) and time.monotonic() < deadline:
            counts[len(read_progress(root, time.time()))] += 1
    finally:
        stop.set()
        thread.join()
    assert set(counts) == {1, 2}


def test_a_folder_that_is_not_ours_is_refused_and_an_empty_one_is_no_error(tmp_path):
    done = run_script("show_progress.py", tmp_path, check=False)
    assert done.returncode == 78 and "is no checkpoint folder" in done.stderr
    (tmp_path / NAME).write_text(CONTENT)
    assert "nothing to do" in run_script("show_progress.py", tmp_path).stdout
    assert shown(tmp_path)["by_chunk"] == []


@pytest.mark.nextflow
def test_a_run_is_shown_while_it_works_after_a_crash_and_is_cleared_away_at_its_end(tmp_path):
    save_esm2(random_esm2(Shape(12, 256, 4), seed=5), tmp_path / "slow.pt")
    fasta = write_fasta(tmp_path / "proteins.fasta", make_proteins([250] * 48, seed=4))
    given = ["--input", fasta, "--model", tmp_path / "slow.pt", "--weights_dir", tmp_path / "downloads", "--chunk_residues", 4000]
    given += ["--checkpoint_seconds", 0, "--max_tokens", 1008, "--report", "false"]
    (tmp_path / "one.config").write_text("process { withName: EMBED_CHUNK { maxForks = 1; cpus = 1 } }\n")
    given += ["-c", tmp_path / "one.config"]
    root = tmp_path / "work" / "checkpoints"
    other = root / "runs" / "of another run"
    other.mkdir(parents=True)
    run = start_pipeline(tmp_path, *given)
    try:
        wait_for(lambda: list(root.glob("runs/*/chunk_*.json")) and len(list(root.glob("*/chunk_*/*.done"))) > 3, still=lambda: run.poll() is None)
        os.kill(run.pid, signal.SIGSTOP)
        answer = shown(root)
        chunks = answer["chunks"]
        assert answer["sequences"] == 48 and answer["tokens"] == 48 * 252
        assert chunks["finished"] >= 1 and chunks["working"] + chunks["waiting"] >= 1 and sum(chunks.values()) == len(answer["by_chunk"]) >= 3
        assert 0 < answer["done"] < 48 and answer["tokens_done"] == answer["done"] * 252
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    wait_for(lambda: not workers(tmp_path))
    crashed = shown(root)
    assert crashed["done"] >= answer["done"] and crashed["sequences"] == 48
    assert "of 48 sequences" in run_script("show_progress.py", root).stdout
    run_pipeline(tmp_path, *given, "-resume")
    assert shown(root)["by_chunk"] == [] and other.exists() and [path.name for path in root.glob("runs/*")] == [other.name]


def test_it_needs_nothing_but_python(tmp_path):
    (tmp_path / NAME).write_text(CONTENT)
    done = subprocess.run([sys.executable, "-S", BIN / "show_progress.py", tmp_path, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sequences"] == 0


def test_a_bad_command_line_is_named_and_ends_with_78():
    done = run_script("show_progress.py", "--often", check=False)
    assert done.returncode == 78 and "required: checkpoint_dir" in done.stderr


def test_the_live_table_on_a_terminal_ends_with_control_c(tmp_path):
    (tmp_path / NAME).write_text(CONTENT)
    pid, terminal = os.forkpty()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # who started the tests may have been deaf to it, and that is inherited
        os.execv(str(BIN / "show_progress.py"), ["show_progress.py", str(tmp_path), "--seconds", "0.05"])
    said = b""
    while said.count(b"nothing to do") < 3:
        said += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
