"""The report under real Nextflow, with real MultiQC."""

import json
import re
from html.parser import HTMLParser

import h5py
import pytest

from tests.conftest import ROOT, make_proteins, write_fasta
from tests.nextflow import PARSERS, run_pipeline

pytestmark = pytest.mark.nextflow
PROCESSES = {path.parent.name.upper() for path in (ROOT / "modules").glob("*/main.nf") if re.search(r"^process ", path.read_text(), re.MULTILINE)} - {
    "PLAN_RUN",
    "REUSE_EMBEDDINGS",
}  # a run makes no plan, and has nothing to reuse


def small_run(folder, hostile_pt):
    """Arguments of a run of a few short proteins in one chunk, with its report; one is left out."""
    fasta = write_fasta(folder / "in.fasta", [*make_proteins([40, 60, 50], seed=3), "MKJ"])
    return ["--input", fasta, "--model", hostile_pt, "--weights_dir", folder / "downloads", "--invalid_residues", "skip", "--verify", 2]


class Loaded(HTMLParser):
    """What a browser would fetch to show the page."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "embed"):
            self.addresses.append(attributes.get("src"))
        if tag == "link":
            self.addresses.append(attributes.get("href"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, hostile_pt):
    """A run whose MultiQC fails, then the same resumed and well: (folder, first, second)."""
    folder = tmp_path_factory.mktemp("reported")
    (folder / "broken.config").write_text("process { withName: MULTIQC { beforeScript = 'multiqc() { return 1; }; export -f multiqc' } }\n")
    first = run_pipeline(folder, *small_run(folder, hostile_pt), "-c", folder / "broken.config")
    there = {path.name for path in (folder / "results").iterdir()}
    second = run_pipeline(folder, *small_run(folder, hostile_pt), "-resume")
    return folder, first, there, second


def test_a_report_that_fails_is_tried_again_and_then_does_not_fail_the_run(runs):
    _, first, there, _ = runs
    assert first.submitted()["MULTIQC"] == 3
    assert "Process `MULTIQC` terminated with an error exit status (1) -- Error is ignored" in first.output
    assert {"embeddings.h5", "ledger.tsv", "summary.json", "report.json"} <= there and "report.html" not in there


def test_a_resumed_run_makes_only_the_report_that_is_missing(runs):
    folder, _, _, second = runs
    assert dict(second.submitted()) == {"MULTIQC": 1}
    assert "report.html" in second.output and (folder / "results" / "report.html").exists()


def test_the_page_shows_every_section_and_loads_nothing_from_elsewhere(runs):
    page = (runs[0] / "results" / "report.html").read_text()
    sections = [json.loads(path.read_text()) for path in (runs[0] / "work").glob("*/*/multiqc/*_mqc.json")]
    assert len(sections) > 10
    for section in sections:
        assert f'id="mqc-module-section-{section["id"]}"' in page or f'id="{section["id"]}"' in page, section["id"]
        assert section["section_name"] in page
    assert "Software Versions" in page
    loaded = Loaded()
    loaded.feed(page)
    assert [address for address in loaded.addresses if address and not address.startswith("data:")] == []
    assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", page)


def test_versions_of_every_step_are_in_one_file(runs):
    text = (runs[0] / "results" / "pipeline_info" / "software_versions.yml").read_text()
    steps = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert sorted(steps) == sorted([*PROCESSES, "Workflow"])
    assert 'torch: "2.' in text and 'multiqc: "1.' in text and re.search(r'Nextflow: "2\d\.', text)


def test_nextflows_own_reports_are_kept_one_of_each_for_every_run(runs):
    names = sorted(path.name for path in (runs[0] / "results" / "pipeline_info").iterdir())
    stamp = r"_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d\."
    for kind in (r"execution_report{}html", r"execution_timeline{}html", r"execution_trace{}txt", r"pipeline_dag{}html"):
        assert sum(bool(re.fullmatch(kind.format(stamp), name)) for name in names) == 2, kind


def test_no_launcher_watches_its_task_which_would_turn_a_kill_into_exit_status_1(runs):
    launchers = [path.read_text() for path in (runs[0] / "work").glob("*/*/.command.run")]
    assert len(launchers) > 6 and not [text for text in launchers if "nxf_trace" in text or "mem_proc" in text]


def test_the_docs_name_every_file_of_a_run(runs):
    told = (ROOT / "docs" / "output.md").read_text()
    for path in (runs[0] / "results").rglob("*"):
        if path.is_file():
            name = re.sub(r"_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", "_<time>", str(path.relative_to(runs[0] / "results")))
            assert f"<outdir>/{name} " in told, name


def test_the_docs_name_every_dataset_attribute_and_key_of_a_run(runs):
    told = (ROOT / "docs" / "output.md").read_text()
    with h5py.File(runs[0] / "results" / "embeddings.h5") as file:
        names, attributes = [], list(file.attrs)
        file.visititems_links(lambda name, link: names.append(name) if isinstance(file[name], h5py.Dataset) else None)
    for name in names:
        assert f"`/{re.sub(r'representations/[0-9]+/', 'representations/<layer>/', name)}`" in told, name
    for key in [*attributes, *json.loads((runs[0] / "results" / "report.json").read_text())]:
        assert f"`{key}`" in told, key


@pytest.mark.parametrize("parser", PARSERS)
def test_a_stub_run_goes_through_every_module(tmp_path, hostile_pt, parser):
    run = run_pipeline(tmp_path, *small_run(tmp_path, hostile_pt), "-stub-run", parser=parser)
    assert dict(run.submitted()) == dict.fromkeys(PROCESSES, 1)
    assert (tmp_path / "results" / "report.html").exists()
