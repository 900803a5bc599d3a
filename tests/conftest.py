"""Factories that the tests share. Everything is real: fair-esm's classes, subprocesses, Nextflow; only the weights are drawn."""

import contextlib
import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from protembed import cli, open_embeddings
from protembed.proteins import digest_of
from protembed.shapes import Shape
from protembed.weights import random_esm2, save_esm2

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / "bin"
DEMO_FASTA = ROOT / "assets" / "ecoli_demo.fasta.gz"
# Frequencies of the 20 amino acids in UniProtKB/Swiss-Prot release 2024_01, per cent.
AMINO_ACIDS = dict(
    A=8.25, R=5.53, N=4.06, D=5.46, C=1.38, Q=3.93, E=6.72, G=7.07, H=2.27, I=5.91,
    L=9.65, K=5.80, M=2.41, F=3.86, P=4.74, S=6.65, T=5.36, W=1.10, Y=2.92, V=6.86,
)  # fmt: skip
FP32_BOUND = 2e-5  # relative L2 distance of a vector from fair-esm's
torch.set_num_threads(2)


def make_proteins(lengths, seed=0, letters=AMINO_ACIDS):
    """Sequences of the given lengths with the residue frequencies of real proteins."""
    drawn = random.Random(seed)
    return ["".join(drawn.choices(list(letters), list(letters.values()), k=length)) for length in lengths]


def draw_lengths(count, least, most, seed=0):
    """Uniform lengths."""
    drawn = random.Random(seed)
    return [drawn.randint(least, most) for _ in range(count)]


def write_fasta(path, sequences, prefix="protein"):
    """A FASTA file of these sequences; ids are prefix0, prefix1, ..."""
    path.write_text("".join(f">{prefix}{number} some description\n{sequence}\n" for number, sequence in enumerate(sequences)))
    return path


def write_chunk(path, sequences):
    """A chunk as split_fasta.py writes it."""
    path.write_text("".join(f">{digest_of(sequence).hex()}\n{sequence}\n" for sequence in sequences))
    return path


def run_inside(name, *arguments, check=True):
    """Run bin/<name> with this argv in this process, through its own command line: saves torch's import of two seconds."""
    path = BIN / name
    specification = importlib.util.spec_from_file_location(path.stem, path)
    script = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = script
    specification.loader.exec_module(script)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            code = cli.run(script.Options, script.main, list(map(str, arguments)))
        except SystemExit as exit:  # argparse
            code = exit.code
    assert not check or code == 0, said.getvalue()
    return subprocess.CompletedProcess([name, *arguments], code, "", said.getvalue())


def run_script(name, *arguments, cwd=None, check=True, env=None):
    """Run bin/<name> as a user would; on success or expected failure return the finished process."""
    command = [sys.executable, str(BIN / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **(env or {})})
    assert not check or done.returncode == 0, done.stderr
    return done


def reference_layers(model, sequence, layers):
    """Unmodified fair-esm, fp32, this sequence alone: layer -> (residues + 2, D)."""
    _, _, tokens = model.alphabet.get_batch_converter()([("one", sequence)])
    with torch.inference_mode():
        return {layer: part[0] for layer, part in model(tokens, repr_layers=list(layers))["representations"].items()}


def relative_l2(ours, reference):
    """The worst relative L2 distance of any row; both (rows, D)."""
    ours, reference = torch.as_tensor(ours).double(), torch.as_tensor(reference).double()
    return ((ours - reference).norm(dim=-1) / reference.norm(dim=-1)).max().item()


def killed_after(batches, folder, name, *arguments):
    """Run bin/<name> until so many batches are durable below `folder`, and SIGKILL it; how many there were by then."""
    worker = subprocess.Popen([sys.executable, str(BIN / name), *map(str, arguments)], stderr=subprocess.DEVNULL)
    while len(list(folder.rglob("*.done"))) < batches:
        assert worker.poll() is None, "the worker ended before it could be killed"
        time.sleep(0.002)
    worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    return len(list(folder.rglob("*.done")))


def metrics_of(folder):
    """All *.metrics.json below a folder; links to them (staged for the report) are not counted again."""
    return [json.loads(path.read_text()) for path in sorted(Path(folder).rglob("*.metrics.json")) if not path.is_symlink()]


@pytest.fixture(scope="session")
def hostile_esm2():
    """A small model in which rotary, scale, norm and bias mistakes show: heads of 64, sharp attention, random norms."""
    return random_esm2(Shape(layers=3, width=128, heads=2), seed=7)


@pytest.fixture(scope="session")
def hostile_pt(hostile_esm2, tmp_path_factory):
    """The same as a file in fair-esm's format."""
    path = tmp_path_factory.mktemp("model") / "hostile.pt"
    save_esm2(hostile_esm2, path)
    return path


@pytest.fixture(scope="session")
def weights(hostile_pt, tmp_path_factory):
    """The same as a weights folder."""
    folder = tmp_path_factory.mktemp("weights") / "weights"
    run_script("fetch_weights.py", hostile_pt, "--outdir", folder)
    return folder


@pytest.fixture(scope="session")
def result(weights, tmp_path_factory):
    """embeddings.h5 as small_result makes it; chunks and ledger are beside it. To be read, not changed."""
    from tests.results import small_result

    return small_result(tmp_path_factory.mktemp("result"), weights)


@pytest.fixture
def embeddings(result):
    """The same, open."""
    with open_embeddings(result) as opened:
        yield opened


@pytest.fixture
def say(capsys):
    """Print past pytest's capture: the number of crash points is part of the result."""

    def to_terminal(text):
        with capsys.disabled():
            print(f"\n{text} ", end="")

    return to_terminal


@pytest.fixture
def disk(tmp_path):
    """Factory of small disks of so many kilobytes."""
    from tests.small_disk import SmallDisk

    disks = []

    def of(kilobytes):
        disks.append(SmallDisk(tmp_path / f"disk{len(disks)}", kilobytes))
        return disks[-1]

    yield of
    for made in disks:
        made.close()
