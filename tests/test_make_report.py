import html
import json
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest

from protembed.vector_map import MOST_SAMPLED, flat_map, histogram_of_norms, sample_vectors
from tests.conftest import draw_lengths, make_proteins, run_inside, write_fasta


@pytest.fixture(scope="module")
def run(tmp_path_factory, weights):
    """A finished run in pieces: 40 records in several chunks, repeats, a cut one, one left out, one chunk taken up twice."""
    folder = tmp_path_factory.mktemp("run")
    given = make_proteins([1030, *draw_lengths(35, 20, 120)], seed=8)
    write_fasta(folder / "in.fasta", [*given, given[3], given[3], "MKJ", "MKVV"])
    run_inside("split_fasta.py", folder / "in.fasta", "--outdir", folder, "--chunk-residues", 500, "--invalid-residues", "skip", "--sample", 4)
    for chunk in sorted((folder / "chunks").iterdir()):
        run_inside("embed_chunk.py", chunk, "--weights", weights, "--outdir", folder / "vectors")
    run_inside("embed_chunk.py", chunk, "--weights", weights, "--outdir", folder / "vectors")
    vectors = sorted((folder / "vectors").glob("*.h5"))
    run_inside("verify_embeddings.py", *vectors, "--sample", folder / "sample.fasta", "--weights", weights, "--outdir", folder)
    shared = ["--records", folder / "records.tsv", "--weights", weights / "weights.json", "--verify", folder / "verify.json"]
    run_inside("merge_chunks.py", *vectors, *shared, "--outdir", folder / "merged")
    return folder


def report(run, outdir, *arguments, metrics=None):
    merged, metrics = run / "merged", sorted((run / "vectors").glob("*.metrics.json")) if metrics is None else metrics
    given = ["--summary", merged / "summary.json", "--ledger", merged / "ledger.tsv", "--embeddings", merged / "embeddings.h5"]
    run_inside("make_report.py", *metrics, *given, "--outdir", outdir, *arguments)
    return json.loads((outdir / "report.json").read_text())


def sections_in(folder):
    """Name -> section, as MultiQC gets them."""
    found = [json.loads(path.read_text()) for path in (folder / "multiqc").glob("*_mqc.json")]
    return {section["id"]: section for section in found}


def test_the_numbers_are_those_of_the_ledger_and_the_file(run, tmp_path):
    numbers = report(run, tmp_path)
    with h5py.File(run / "merged" / "embeddings.h5") as file:
        lengths = file["lengths"][:]
    found = numbers["ledger"]
    assert found["status"] == {"embedded": 37, "duplicate": 2, "skipped": 1}
    assert found["reasons"] == {"letters outside the alphabet: J": 1}
    assert found["skipped"] == [{"id": "protein38", "residues": 3, "reason": "letters outside the alphabet: J"}]
    assert sum(found["lengths"]["counts"]) == 40
    assert found["lengths"]["residues"] == lengths.sum() + 3
    assert (found["lengths"]["least"], found["lengths"]["most"]) == (3, 1030)
    assert found["lengths"]["median"] == np.sort([3, *lengths])[19]
    assert numbers["run"]["flags"]["truncated"] == 1
    assert sum(chunk["computed"] + chunk["reused"] for chunk in numbers["chunks"]) == 37


def test_a_bin_of_lengths_holds_the_records_between_its_edges(run, tmp_path):
    found = report(run, tmp_path)["ledger"]["lengths"]
    with h5py.File(run / "merged" / "embeddings.h5") as file:
        lengths = np.array([3, *file["lengths"][:]])
    for low, high, count in zip(found["edges"], found["edges"][1:], found["counts"]):
        assert ((lengths >= low) & (lengths < high)).sum() == count


def test_a_chunk_that_was_taken_up_again_is_told_with_what_it_found(run, tmp_path):
    numbers = report(run, tmp_path)
    (again,) = numbers["attempts"]
    (chunk,) = [chunk for chunk in numbers["chunks"] if chunk["chunk"] == again["chunk"]]
    assert (again["attempt"], chunk["attempts"]) == (2, 2)
    assert again["reused"] == chunk["reused"] == chunk["sequences"] and not chunk["tokens"]
    assert numbers["progress"][-1]["reused"] == chunk["reused"]
    assert numbers["progress"][-1]["computed"] == 37 - chunk["reused"]
    assert "attempts" in sections_in(tmp_path)


def test_shares_of_devices_sum_up_and_every_chunk_names_its_device(run, tmp_path):
    changed = []
    for number, path in enumerate(sorted((run / "vectors").glob("*.metrics.json"))):
        metrics = dict(json.loads(path.read_text()), device="NVIDIA H100", visible_devices=str(number % 2))
        changed.append(tmp_path / path.name)
        changed[-1].write_text(json.dumps(metrics))
    numbers = report(run, tmp_path, metrics=changed)
    places = {device["place"] for device in numbers["devices"]}
    assert len(places) == 2 and all(place.endswith(("NVIDIA H100 0", "NVIDIA H100 1")) for place in places)
    assert {chunk["place"] for chunk in numbers["chunks"]} == places
    assert sum(device["share"] for device in numbers["devices"]) == pytest.approx(1)
    assert sum(device["tokens"] for device in numbers["devices"]) == sum(chunk["tokens"] for chunk in numbers["chunks"])


def test_norms_and_map_are_those_of_the_vectors(run, tmp_path):
    numbers = report(run, tmp_path)
    with h5py.File(run / "merged" / "embeddings.h5") as file:
        vectors, lengths = file["embeddings"][:].astype(np.float64), file["lengths"][:]
    norms = np.linalg.norm(vectors, axis=1)
    assert numbers["norms"]["median"] == pytest.approx(np.median(norms)) and numbers["norms"]["sampled"] == 39
    assert (numbers["norms"]["least"], numbers["norms"]["most"]) == (pytest.approx(norms.min()), pytest.approx(norms.max()))
    variances = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    assert numbers["map"]["explained"] == pytest.approx((variances / variances.sum())[:2], rel=1e-4)
    points = np.array(numbers["map"]["points"])
    assert points[:, :2].var(0, ddof=1) == pytest.approx(variances[:2], rel=1e-3)
    assert np.array_equal(points[:, 2], lengths)


def test_the_sample_of_a_large_file_is_bounded_even_and_the_same_again(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(3 * MOST_SAMPLED, 4)).astype(np.float32)
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file["representations/2/mean"], file["lengths"] = vectors, np.arange(len(vectors))
        file.attrs["repr_layers"] = [2]
        sample, again = sample_vectors(file), sample_vectors(file)
    assert len(sample.vectors) == MOST_SAMPLED and np.array_equal(sample.vectors, again.vectors)
    assert np.diff(sample.lengths).max() <= 4 and sample.lengths[-1] == len(vectors) - 1
    assert sum(histogram_of_norms(sample.vectors)["counts"]) == MOST_SAMPLED
    assert flat_map(sample) == flat_map(again)


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_few_or_equal_vectors_have_no_map(tmp_path, count):
    one = np.random.default_rng(0).normal(size=40).astype(np.float32)  # of which seven do not have it for their mean in single precision
    with h5py.File(tmp_path / "few.h5", "w") as file:
        file["representations/2/bos"], file["lengths"] = np.tile(one, (count, 1)), np.full(count, 7)
        file.attrs["repr_layers"] = [2]
        sample = sample_vectors(file)
    assert flat_map(sample)["points"] == []
    assert histogram_of_norms(sample.vectors)["median"] == pytest.approx(np.linalg.norm(one))


def test_every_section_has_a_title_and_says_how_to_read_it_and_every_axis_has_a_unit(run, tmp_path):
    report(run, tmp_path)
    sections = sections_in(tmp_path)
    assert len(sections) == 15
    for name, section in sections.items():
        assert section["section_name"]
        if "Plotly" in section["data"]:
            assert re.search(r"\.$", section["description"]) and len(section["description"]) > 60
            _, layout, _ = json.loads(re.search(r"\.\.\.(\[.*\])\)\);", section["data"])[1])
            assert layout["title"]["text"] == section["section_name"]
            axes = [layout[axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
            assert all("(" in axis or axis.split(",")[0] in ("Records", "Vectors", "Sequences", "Forward passes of the chunk") for axis in axes), name
        elif section["plot_type"] == "table":
            assert section["description"].endswith(".")


def test_equal_input_gives_the_same_bytes(run, tmp_path):
    report(run, tmp_path / "one")
    report(run, tmp_path / "two", metrics=sorted((run / "vectors").glob("*.metrics.json"), reverse=True))
    one, two = ({path.name: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()} for folder in (tmp_path / "one", tmp_path / "two"))
    assert one == two and len(one) == 17


def test_a_run_in_which_no_task_embedded_has_a_report_without_tasks(run, tmp_path):
    """Every sequence came from an earlier result."""
    numbers = report(run, tmp_path, metrics=[])
    assert numbers["chunks"] == numbers["devices"] == numbers["attempts"] == []
    found = sections_in(tmp_path)
    assert {"at_a_glance", "lengths", "map", "methods"} <= set(found) and not {"speed", "devices", "packing", "chunks"} & set(found)


def test_multiqc_shows_every_record_that_was_left_out_under_its_own_name(run, tmp_path):
    """It takes the first column for names of samples: cuts paths and suffixes off, and of two that are equal then keeps one."""
    ids = ["P1_HUMAN/1-40", "P2_HUMAN/1-40", "tr|Q9|Z", "ctg7.", "ctg7", "ctg7_", "a.gz", "a.bam", "007", "1e3", "q<b>1", "nan"]
    reasons = [f"letters outside the alphabet: {letter}" for letter in ("/", "<", ".gz", "_")]
    lines = [f"{name}\tskipped\t-\t{3 + number}\t0\t-\t{reasons[number % 4]}\t\n" for number, name in enumerate(ids)]
    (tmp_path / "ledger.tsv").write_text((run / "merged" / "ledger.tsv").read_text().splitlines(keepends=True)[0] + "".join(lines))
    report(run, tmp_path, "--ledger", tmp_path / "ledger.tsv")
    words = ["--config", "multiqc/multiqc_config.json", "--filename", "page.html", "--no-data-dir", "multiqc"]
    subprocess.run([sys.executable, "-m", "multiqc", *words], cwd=tmp_path, check=True, capture_output=True)
    page = (tmp_path / "page.html").read_text()
    shown = {name: re.findall(rf'<tr[^>]*data-table-id="{name}_table"[^>]*>(.*?)</tr>', page, re.DOTALL) for name in ("skipped_records", "skipped_reasons")}
    cells = {name: [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows] for name, rows in shown.items()}
    texts = {name: [[html.unescape(re.sub("<[^>]*>", "", cell)) for cell in row] for row in rows] for name, rows in cells.items()}
    assert texts["skipped_records"] == [[name, str(3 + number), reasons[number % 4]] for number, name in enumerate(ids)]
    assert texts["skipped_reasons"] == [[reason, "3"] for reason in reasons]


def test_random_weights_are_said_in_plain_words_and_only_then(run, tmp_path):
    report(run, tmp_path / "learned")
    assert not any("RANDOM" in path.read_text() for path in tmp_path.rglob("*.json"))
    summary = json.loads((run / "merged" / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps(dict(summary, random_weights=1)))
    numbers = report(run, tmp_path / "random", "--summary", tmp_path / "summary.json")
    assert numbers["methods"].startswith("RANDOM WEIGHTS: these vectors mean nothing")
    assert "RANDOM WEIGHTS" in json.loads((tmp_path / "random" / "multiqc" / "multiqc_config.json").read_text())["report_comment"]


def test_the_methods_name_what_decides_the_numbers(run, tmp_path):
    numbers = report(run, tmp_path)
    summary = json.loads((run / "merged" / "summary.json").read_text())
    told = ["39 of 40", summary["model"], summary["weights_sha256"], summary["torch"], "float32", "the mean over residues of layer 3"]
    told += ["first 1022 were embedded (1 records)", "1 records were left out", "4 sequences"]
    for what in told:
        assert what in numbers["methods"], what
