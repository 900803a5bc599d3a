"""--input as users have it: samplesheets, names of files, and what becomes of the records."""

import csv
import re
import shutil

import h5py
import pytest

from tests.conftest import ROOT, make_proteins, metrics_of, write_fasta
from tests.nextflow import PARSERS, basic, run_pipeline

pytestmark = pytest.mark.nextflow
FORMS = dict(input="fasta", model="pt", reuse="h5")  # of files that parameters name


def table(path):
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_the_sample_of_a_samplesheet_reaches_ledger_and_h5_and_what_is_left_out_is_in_failed_tsv(tmp_path, hostile_pt):
    """One run for all: a sheet from a spreadsheet, a sample of two files, 30 % repeats across files and chunks, a record without a vector."""
    unique = make_proteins([90] * 70, seed=5)
    given = [*unique, *unique[:30]]
    folder = tmp_path / "sheets of mine"
    folder.mkdir()
    write_fasta(folder / "a b.fasta", given[:40], "a")
    write_fasta(tmp_path / "b.fasta", given[40:80], "b")
    (folder / "c.fasta").write_text("".join(f">c{number}\n{sequence}\n" for number, sequence in enumerate(given[80:])) + ">bad\nMJK\n")
    rows = ["fasta,note,sample", '"a b.fasta",x,liver', f"{tmp_path}/b.fasta,,gut", "", "c.fasta,y,liver"]
    (folder / "sheet.csv").write_bytes("\ufeff".encode() + "\r\n".join(rows).encode() + b"\r\n")
    arguments = [*basic(tmp_path, hostile_pt), "--input", folder / "sheet.csv", "--invalid_residues", "skip", "--chunk_residues", 2000]
    run = run_pipeline(tmp_path, *arguments, parser="v2")

    expected = ["liver"] * 40 + ["gut"] * 40 + ["liver"] * 20
    ledger, failed = table(tmp_path / "results" / "ledger.tsv"), table(tmp_path / "results" / "failed.tsv")
    assert [line["sample"] for line in ledger] == [*expected, "liver"]
    with h5py.File(tmp_path / "results" / "embeddings.h5") as file:
        assert list(file["samples"].asstr()) == expected
        assert list(file["sequence_ids"].asstr()) == [line["id"] for line in ledger[:-1]]
    assert failed == [dict(id="bad", sample="liver", status="skipped", residues="3", reason="letters outside the alphabet: J")]
    assert [line["status"] for line in ledger] == ["embedded"] * 70 + ["duplicate"] * 30 + ["skipped"]
    metrics = metrics_of(tmp_path / "work")
    assert run.submitted()["EMBED_CHUNK"] == len(metrics) >= 3
    assert sum(task["computed"] for task in metrics) == 70, "a repeat was computed again"


def test_a_corrected_samplesheet_is_read_anew_although_the_files_of_equal_name_are_the_same(tmp_path, hostile_pt):
    """Nextflow hashes a list of files as a bag: which content stands at which place must be told to it."""
    for number, place in enumerate("ab"):
        (tmp_path / place).mkdir()
        write_fasta(tmp_path / place / "proteins.faa", make_proteins([60] * 5, seed=number), place)
    arguments = [*basic(tmp_path, hostile_pt), "--input", "sheet.csv"]
    for first, second in ("ab", "ba"):
        (tmp_path / "sheet.csv").write_text(f"sample,fasta\nliver,{first}/proteins.faa\ngut,{second}/proteins.faa\n")
        run_pipeline(tmp_path, *arguments, "-resume", parser="v2")
        ledger = table(tmp_path / "results" / "ledger.tsv")
        assert [(line["sample"], line["id"][0]) for line in ledger] == [("liver", first)] * 5 + [("gut", second)] * 5
    assert not run_pipeline(tmp_path, *arguments, "-resume", parser="v2").submitted()


@pytest.mark.parametrize("names, changed, parser", [(("x.fasta", "y.fasta"), "SPLIT_FASTA", "v1"), (("one.h5", "two.h5"), "REUSE_EMBEDDINGS", "v2")])
def test_files_whose_contents_change_places_are_not_the_same_input(tmp_path, hostile_pt, names, changed, parser):
    contents = [b">a\nMKV\n", b">b\nMKL\n"]
    given = {"x.fasta": "--input", "one.h5": "--reuse"}[names[0]], ",".join(names)
    for order in (contents, contents[::-1]):
        for name, content in zip(names, order):
            (tmp_path / name).write_bytes(content)
        run = run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), *given, "-stub-run", "-resume", parser=parser)
    assert changed in run.submitted()
    assert not run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), *given, "-stub-run", "-resume", parser=parser).submitted()


def test_an_earlier_result_of_a_terabyte_is_not_read_for_a_hash(tmp_path, hostile_pt):
    """It is sparse, so it takes no place, and yet a quarter of an hour to read."""
    with open(tmp_path / "earlier.h5", "wb") as earlier:
        earlier.truncate(1 << 40)
    run = run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), "--reuse", "earlier.h5", "--verify", 16, "-stub-run")
    assert run.submitted()["REUSE_EMBEDDINGS"] == run.submitted()["MERGE_CHUNKS"] == run.submitted()["VERIFY_EMBEDDINGS"] == 1


def test_files_of_one_name_in_several_folders_are_taken_in_the_order_of_their_folders(tmp_path, hostile_pt):
    """The file system lists folders in an order of its own, which is another after a copy; so rows and ledger would be."""
    folders = [f"plate{number}" for number in (7, 3, 9, 1, 8, 2, 6, 4, 5)]
    for name in folders:
        (tmp_path / name).mkdir()
        write_fasta(tmp_path / name / "proteins.fasta", ["MKV"])
    run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), "--input", f"{tmp_path}/plate*/*.fasta", "-stub-run")
    launchers = "".join(path.read_text() for path in tmp_path.glob("work/*/*/.command.run"))
    staged = re.findall(r"ln -s \S+/(plate\d)/proteins.fasta input/(\d)/proteins.fasta", launchers)
    assert sorted((number, name) for name, number in staged) == [(str(number + 1), name) for number, name in enumerate(sorted(folders))]


REFUSED = {
    "input=sheet.tsv": [
        "record 1 has the sample 'some liver'",
        "record 2 has the fasta 'b.fasta', which is not there",
        "record 3 has the sample ''",
    ],
    "input=columns.csv": ["has a header with the columns sample and fasta", "the columns name, fasta_1"],
    "input=a.fasta,sheet.tsv": ["give one samplesheet, or FASTA files"],
    # A quote would end a word of the task's script.
    **{f"{name}=it's.{form}": [f"it's.{form} has a quote or a control character in its name; rename it"] for name, form in FORMS.items()},
    **{f"{name}=nothing.{form}": [f"--{name} names nothing.{form}, and there is no such file; nothing was run"] for name, form in FORMS.items()},
    **{f"input={name}": [f"--input names {name}, and there is no such file; nothing was run"] for name in ("nothing.csv", "nothing*.fasta")},
}


@pytest.mark.parametrize("parser", PARSERS)
def test_faults_of_a_samplesheet_and_of_names_are_told_in_one_line_each(tmp_path, parser):
    """That they end a run before any task: tests/test_pipeline.py. Here many share a run, for its start takes seconds."""
    write_fasta(tmp_path / "a.fasta", ["MKV"])
    (tmp_path / "sheet.tsv").write_text("sample\tfasta\nsome liver\ta.fasta\ngut\tb.fasta\n\ta.fasta\n")
    (tmp_path / "columns.csv").write_text("name,fasta_1\nx,a.fasta\n")
    for form in FORMS.values():
        (tmp_path / f"it's.{form}").touch()
    (tmp_path / "names.yml").write_text("names: |\n" + "".join(f"  {given}\n" for given in [*REFUSED, "input=a.fasta"]))
    run = run_pipeline(tmp_path, "-params-file", "names.yml", parser=parser, main=ROOT / "tests" / "named" / "main.nf")
    said = dict(re.findall(r"^(\S+) -> (.*)$", run.output, re.MULTILINE))
    assert said.pop("input=a.fasta") == f"[[fasta:{tmp_path}/a.fasta, sample:]]"
    assert list(said) == list(REFUSED)
    for given, words in REFUSED.items():
        assert said[given].startswith("refused: ") and all(word in said[given] for word in words), said[given]


def test_a_model_and_an_earlier_result_may_have_spaces_in_their_names(tmp_path, hostile_pt):
    folder = tmp_path / "files of mine"
    folder.mkdir()
    shutil.copy(hostile_pt, folder / "my (own) model.pt")
    given = [*basic(tmp_path, hostile_pt), "--model", folder / "my (own) model.pt"]
    run_pipeline(tmp_path, *given, "--outdir", tmp_path / "first")
    (tmp_path / "first" / "embeddings.h5").rename(folder / "my & earlier.h5")
    run = run_pipeline(tmp_path, *given, "--reuse", f"{folder}/my & earlier.h5")
    assert "60 sequences are taken from --reuse" in run.output
