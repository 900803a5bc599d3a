import re
from dataclasses import replace

import pytest
from xxhash import xxh3_128

from protembed.shapes import Shape
from protembed.weights import random_esm2, save_esm2
from tests.kill_report import Options, as_text, kill_report

pytestmark = pytest.mark.nextflow


def check_paths(root, chunks):
    """Every file of a real run's checkpoints is where the contract says, once, and every marker tells its batch's digest."""
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and not path.name.startswith("attempt_")} - {".protembed-anchor"}
    batches = {name for name in files if re.fullmatch(r"[0-9a-f]{32}/chunk_[0-9a-f]{16}/batch_\d{5}\.pt", name)}
    assert len({name.rpartition("/")[0] for name in batches}) == chunks > 1
    assert files == batches | {f"{name}.done" for name in batches}
    for name in batches:
        assert (root / f"{name}.done").read_text().splitlines()[0].split() == [xxh3_128((root / name).read_bytes()).hexdigest(), name.rpartition("/")[2]]


def test_a_thousand_proteins_survive_kills_of_workers_of_nextflow_and_of_everything(tmp_path, say):
    save_esm2(random_esm2(Shape(3, 192, 3), seed=5), tmp_path / "drawn.pt")
    figures = kill_report(tmp_path, replace(Options(), model=str(tmp_path / "drawn.pt"), max_tokens=1024))
    say(as_text(figures))
    assert all(figures["claims"].values())
    check_paths(tmp_path / "golden" / "work" / "checkpoints", figures["chunks"])
    assert figures["reused"] > 0 and figures["last_passes"] < figures["golden_passes"]
