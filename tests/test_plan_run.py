import json
import re

import pytest

from protembed.shapes import SHAPES
from tests.conftest import ROOT, run_inside
from tests.nextflow import PARSERS, basic, run_pipeline

TOTALS = dict(records=110, sequences=100, residues=30000, chunk_sizes={"chunk_a": [60, 10000], "chunk_b": [40, 20000]})


def planned(tmp_path, *words, totals=TOTALS):
    (tmp_path / "split.json").write_text(json.dumps(totals))
    run_inside("plan_run.py", tmp_path / "split.json", "--model", "esm2_t6_8M_UR50D", "--outdir", tmp_path, *words)
    return (tmp_path / "plan.txt").read_text()


def test_a_plan_counts_tokens_chunks_and_bytes(tmp_path):
    said = planned(tmp_path, "--vectors", 2)
    assert "30,200 of 100 sequences in 2 chunks; the largest has 40 sequences, 20,000 residues" in said
    assert "embeddings.h5 some 282 kB" in said  # 320 wide, 2 vectors, 110 records, 4 bytes
    assert "ESTIMATE" in said and "nothing was embedded" in said
    assert "embeddings.h5 some 19.3 MB" in planned(tmp_path, "--vectors", 1, "--residue-vectors", 1, "--store-bytes", 2)


def test_an_empty_input_has_a_plan_too(tmp_path):
    assert "0 of 0 sequences in 0 chunks" in planned(tmp_path, totals=dict(records=2, sequences=0, residues=0, chunk_sizes={}))


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("embed-cpu-*.json")), ids=lambda path: path.stem)
def test_times_and_memory_are_within_a_factor_of_two_of_the_committed_benchmarks(path):
    import plan_run

    measured = json.loads(path.read_text())
    for cell in measured["cells"]:
        shape, (ours,) = SHAPES[cell["model"]], [engine for engine in cell["engines"] if engine["engine"] == "protembed"]
        reckoned = plan_run.seconds_of(shape, "cpu", measured["machine"]["cores"], cell["sequences"], cell["tokens"])
        assert 0.5 < reckoned / (cell["tokens"] / ours["tokens_per_second"]) < 2
        working = plan_run.memory_of(shape, "cpu", cell["max_tokens"]) - plan_run.PYTHON_AND_TORCH - 4 * shape.flops_per_token / 2
        assert 0.5 < working / ours["working_bytes"] < 2


@pytest.mark.nextflow
@pytest.mark.parametrize("parser", PARSERS)
def test_a_dry_run_says_its_plan_and_embeds_nothing(tmp_path, hostile_pt, parser):
    run = run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), "--plan", parser=parser)
    assert run.submitted() == {"SPLIT_FASTA": 1, "PLAN_RUN": 1}
    assert re.search(r"tokens   [\d,]+ of 60 sequences in \d+ chunks", run.output) and "memory   some " in run.output
    assert re.search(r"time     some \d+ seconds of forward passes on \d+ CPU cores", run.output)
    assert not (tmp_path / "results" / "embeddings.h5").exists()
