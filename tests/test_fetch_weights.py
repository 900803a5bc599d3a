import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from protembed.atomic import sha256_of_file
from protembed.batch import Batch
from protembed.checkpoint import ChunkCheckpoint
from protembed.errors import BadWeights
from protembed.shapes import Shape
from protembed.weights import CONTACTS, load_esm2, random_esm2, save_esm2, save_regression
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


@pytest.mark.parametrize("weight, exact", [(0.5, True), (1 / 3, False)])
def test_one_weight_that_is_no_half_precision_number_makes_a_model_inexact(tmp_path, weight, exact):
    model = random_esm2(Shape(1, 64, 1))
    model.state_dict()["layers.0.fc1.weight"][3, 5] = weight
    save_esm2(model, tmp_path / "single.pt", half=False)
    fetch(tmp_path, "single.pt")
    assert description(tmp_path)["fp16_exact"] is exact


@pytest.fixture
def own(tmp_path, hostile_esm2):
    """A user's model with its regression, and links to both as Nextflow stages them."""
    save_esm2(hostile_esm2, tmp_path / "own.pt")
    save_regression(hostile_esm2, tmp_path / "own-contact-regression.pt")
    (tmp_path / "local").mkdir()
    for path in tmp_path.glob("*.pt"):
        (tmp_path / "local" / path.name).symlink_to(path)
    return tmp_path / "own.pt"


@pytest.mark.parametrize("staged", [(), ("--file", "local/own.pt")], ids=["itself", "staged"])
def test_a_local_file_that_is_rewritten_in_place_later_changes_neither_the_weights_nor_their_digest(tmp_path, own, staged, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digests = [sha256_of_file(path) for path in (own, tmp_path / "own-contact-regression.pt")]
    fetch(tmp_path, "own.pt", *staged)
    other = random_esm2(Shape(layers=3, width=128, heads=2), seed=8)
    save_esm2(other, own)  # opens the file that is there, as torch.save does
    save_regression(other, tmp_path / "own-contact-regression.pt")
    assert sha256_of_file(own) != digests[0]
    assert [sha256_of_file(tmp_path / "weights" / name) for name in ("model.pt", "regression.pt")] == digests
    assert [description(tmp_path)[name] for name in ("sha256", "regression_sha256")] == digests


def test_a_local_file_that_is_written_to_while_it_is_copied_is_transient_and_nothing_describes_it(tmp_path, own, monkeypatch):
    """Half of one model and half of another would load."""
    fetch(tmp_path, own)
    os.utime(own, (0, 0))  # long before: the clock of file systems has steps of some milliseconds
    copied = shutil.copyfile

    def meanwhile(source, target):
        copied(source, target)
        with open(own, "r+b") as file:
            file.write(b"PK")  # what stands there already

    monkeypatch.setattr(shutil, "copyfile", meanwhile)
    done = fetch(tmp_path, own, check=False)
    assert (done.returncode, "own.pt was written to while it was copied" in done.stderr) == (75, True)
    assert not (tmp_path / "weights" / "weights.json").exists()


def test_a_weights_folder_is_made_again_from_its_own_file(tmp_path, hostile_pt):
    fetch(tmp_path, hostile_pt)
    fetch(tmp_path, tmp_path / "weights" / "model.pt")
    assert sha256_of_file(tmp_path / "weights" / "model.pt") == description(tmp_path)["sha256"] == sha256_of_file(hostile_pt)


@pytest.mark.parametrize("left_out", sorted(CONTACTS))
def test_a_regression_that_lacks_a_number_is_refused_and_not_filled_up_with_random_ones(tmp_path, own, left_out):
    content = torch.load(tmp_path / "own-contact-regression.pt")
    del content["model"][left_out]
    torch.save(content, tmp_path / "own-contact-regression.pt")
    with pytest.raises(BadWeights, match=f"own.pt with own-contact-regression.pt is not .*{left_out} is missing"):
        load_esm2(own, tmp_path / "own-contact-regression.pt")


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
