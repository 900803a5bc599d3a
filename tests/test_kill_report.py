from dataclasses import replace

import pytest

from protembed.shapes import Shape
from protembed.weights import random_esm2, save_esm2
from tests.kill_report import Options, as_text, kill_report

pytestmark = pytest.mark.nextflow


def test_a_thousand_proteins_survive_kills_of_workers_of_nextflow_and_of_everything(tmp_path, say):
    save_esm2(random_esm2(Shape(3, 192, 3), seed=5), tmp_path / "drawn.pt")
    figures = kill_report(tmp_path, replace(Options(), model=str(tmp_path / "drawn.pt"), max_tokens=1024))
    say(as_text(figures))
    assert all(figures["claims"].values())
    assert figures["reused"] > 0 and figures["last_passes"] < figures["golden_passes"]
