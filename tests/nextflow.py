"""Real Nextflow, driven as a user drives it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from protembed.store import check_embeddings
from tests.conftest import ROOT, draw_lengths, make_proteins, write_fasta

PARSERS = ["v1", "v2"]  # both where parameters, hashes or a module's syntax are concerned; elsewhere one, for a start takes seven seconds
STEPS = {"SPLIT_FASTA": 1, "FETCH_WEIGHTS": 1, "VERIFY_EMBEDDINGS": 1, "MERGE_CHUNKS": 1}


def basic(folder, hostile_pt):
    """Arguments of a run that takes seconds: 60 proteins in two chunks, no report, nothing verified. What is given again behind them counts."""
    fasta = folder / "proteins.fasta"
    if not fasta.exists():
        write_fasta(fasta, make_proteins(draw_lengths(60, 20, 200), seed=21))
    return ["--input", fasta, "--model", hostile_pt, "--weights_dir", folder / "downloads", "--chunk_residues", 3000, "--report", "false", "--verify", 0]


def content(folder, outdir="results"):
    return check_embeddings(folder / outdir / "embeddings.h5")["content_sha256"]


def environment(parser="v1"):
    """The scripts find the Python that runs the tests; nothing of the user's is touched."""
    quick_start = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"  # a run of seconds does not repay the best compiler
    return {
        **os.environ,
        "NXF_OPTS": quick_start,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "NXF_SYNTAX_PARSER": parser,
        "NXF_ANSI_LOG": "false",
    }


def command(*arguments, main=ROOT / "main.nf"):
    return [str(ROOT / "tools" / "nextflow"), "run", str(main), "-ansi-log", "false", *map(str, arguments)]


class Run:
    """A finished run: what it printed, and which tasks it ran or took from the cache."""

    def __init__(self, code, output):
        self.code, self.output = code, output

    def submitted(self):
        """Process name -> tasks that were run."""
        return Counter(re.findall(r"(?:Submitted|Re-submitted) process > (\w+)", self.output))

    def cached(self):
        """Process name -> tasks that were not."""
        return Counter(re.findall(r"Cached process > (\w+)", self.output))


def run_pipeline(folder, *arguments, parser="v1", check=True, main=ROOT / "main.nf", inside=()):
    """Run main.nf in `folder` (its work, .nextflow and results) to its end; `inside` are words before the command, as those of nsenter."""
    done = subprocess.run(
        [*inside, *command(*arguments, main=main)],
        cwd=folder,
        env=environment(parser),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert not check or done.returncode == 0, done.stdout
    return Run(done.returncode, done.stdout)


def start_pipeline(folder, *arguments, parser="v1", env=None):
    """The same, left running, in a process group of its own, with `env` for Nextflow and its tasks; its output goes to <folder>/console.txt."""
    surroundings = {**environment(parser), **(env or {})}
    with open(folder / "console.txt", "w") as console:
        return subprocess.Popen(command(*arguments), cwd=folder, env=surroundings, stdout=console, stderr=subprocess.STDOUT, start_new_session=True)


def wait_for(condition, seconds=120, still=lambda: True, told=lambda: ""):
    """Poll until `condition()` holds; AssertionError with `told()` when `still()` does not any more or the time is over."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert still() and time.monotonic() < deadline, f"waited in vain; {told()}"
        time.sleep(0.01)
    return found


def processes(folder):
    """(pid, argv, working folder) of the processes that work in or below `folder`; dead ones have no argv and are left out."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            place = os.readlink(entry / "cwd") if entry.name.isdigit() else ""
            argv = (entry / "cmdline").read_text(errors="replace").split("\0") if Path(place).is_relative_to(folder) else [""]
        except OSError:
            continue
        if argv[0]:
            found.append((int(entry.name), argv, Path(place)))
    return found


def is_worker(argv):
    """Whether this is Python at work on a chunk, not one of the shells around it."""
    return "python" in argv[0] and any(word.endswith("embed_chunk.py") for word in argv)


def workers(folder):
    """Process ids of the embed_chunk.py that work below `folder`, dead ones left out."""
    return [pid for pid, argv, _ in processes(folder) if is_worker(argv)]


def is_alive(pid):
    """Whether a process runs or is held; a zombie is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(pid):
    """SIGKILL; whether it hit a living process."""
    alive = is_alive(pid)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return alive
