import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from protembed.atomic import sha256_of_file
from protembed.batch import Batch
from protembed.checkpoint import ChunkCheckpoint
from protembed.shapes import Shape
from protembed.weights import random_esm2, save_esm2
from tests.conftest import BIN, run_inside

NAME = "esm2_t6_8M_UR50D"


def fetch(tmp_path, model, *arguments, check=True):
    model = tmp_path / model if str(model).endswith(".pt") else model
    return run_inside("fetch_weights.py", model, "--outdir", tmp_path / "weights", *arguments, check=check)


def description(tmp_path):
    return json.loads((tmp_path / "weights" / "weights.json").read_text())


def test_weights_have_the_same_digest_in_a_process_that_writes_checkpoints(tmp_path):
    """embed_fasta.py is one; else its files and the pipeline's would be of two recipes."""
    (rows, vectors), model = (torch.tensor([0]), {"representations/1/mean": torch.zeros(1, 4)}), random_esm2(Shape(1, 64, 1))
    ChunkCheckpoint(tmp_path, "identity", "chunk_1", 1).commit([Batch(rows, torch.zeros(1, dtype=torch.uint8), torch.tensor([3]), vectors)])
    save_esm2(model, tmp_path / "here.pt")
    saving = "import sys; from protembed.weights import *; save_esm2(random_esm2(Shape(1, 64, 1)), sys.argv[1])"
    subprocess.run([sys.executable, "-c", saving, tmp_path / "there.pt"], env={"PYTHONPATH": str(BIN)}, check=True)
    assert sha256_of_file(tmp_path / "here.pt") == sha256_of_file(tmp_path / "there.pt")


def test_random_models_are_the_same_every_time_and_say_that_they_mean_nothing(tmp_path):
    fetch(tmp_path, f"random:{NAME}")
    first = description(tmp_path)
    fetch(tmp_path, f"random:{NAME}")
    assert description(tmp_path)["sha256"] == first["sha256"]
    assert first["random"] and (first["layers"], first["width"]) == (6, 320)


def test_a_local_file_may_have_any_name(tmp_path, hostile_pt):
    fetch(tmp_path, hostile_pt)
    assert (description(tmp_path)["layers"], description(tmp_path)["model"]) == (3, "hostile.pt")


EXECUTED = Path(tempfile.mkdtemp()) / "executed"


class Hostile:
    def __reduce__(self):
        import os

        return os.system, (f"touch {EXECUTED}",)


@pytest.mark.parametrize(
    "write, says",
    [
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(b"no weights"), "damaged"),
        (lambda path: torch.save({"a": torch.ones(3)}, path), "not an ESM-2 model"),
        (lambda path: torch.save([1, 2], path), "not an ESM-2 model"),
        (lambda path: torch.save({"cfg": {"model": argparse.Namespace(arch="other")}, "model": {}}, path), "not an ESM-2 model"),
        (lambda path: torch.save(Hostile(), path), "damaged"),
    ],
    ids=["empty", "text", "tensors", "list", "other family", "hostile pickle"],
)
def test_a_file_that_is_no_esm2_is_exit_66_and_executes_nothing(tmp_path, write, says):
    write(tmp_path / "in.pt")
    done = fetch(tmp_path, "in.pt", check=False)
    assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (66, True, False)
    assert not EXECUTED.exists()


def test_a_truncated_file_is_exit_66(tmp_path, hostile_pt):
    (tmp_path / "in.pt").write_bytes(hostile_pt.read_bytes()[:-1000])
    assert fetch(tmp_path, "in.pt", check=False).returncode == 66


@pytest.mark.parametrize(
    "model, hint",
    [
        ("esm2_t33_650M", "did you mean esm2_t33_650M_UR50D?"),
        ("random:esm2_8M", "did you mean esm2_t6_8M_UR50D?"),
        ("bert", "choose one of"),
        ("gone.pt", "no such file"),
    ],
)
def test_an_unknown_model_is_exit_66_with_the_nearest_right_name(tmp_path, model, hint):
    done = fetch(tmp_path, model, check=False)
    assert (done.returncode, hint in done.stderr) == (66, True)
