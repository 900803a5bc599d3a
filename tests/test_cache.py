"""What -resume runs again: each step whose parameters, code or inputs are others, and no other."""

import shutil

import pytest

from tests.conftest import ROOT
from tests.nextflow import PARSERS, basic, content, run_pipeline

pytestmark = pytest.mark.nextflow

# Each parameter that can change a result, and the steps that must run again: chunks are known by content, what follows a step by place.
AFTER = {"VERIFY_EMBEDDINGS", "MERGE_CHUNKS"}
CHANGES = [
    (["--max_residues", "100"], {"EMBED_CHUNK", *AFTER}),
    (["--long_sequences", "full"], {"EMBED_CHUNK", *AFTER}),
    (["--repr_layers", "0,1"], {"EMBED_CHUNK", *AFTER}),
    (["--include", "mean,bos"], {"EMBED_CHUNK", *AFTER}),
    (["--dtype", "bfloat16"], {"EMBED_CHUNK", *AFTER}),
    (["--on_failure", "skip"], {"EMBED_CHUNK", *AFTER}),
    (["--store_dtype", "float16"], {"MERGE_CHUNKS"}),
    (["--invalid_residues", "skip"], {"SPLIT_FASTA", *AFTER}),
    (["--duplicate_ids", "rename"], {"SPLIT_FASTA", *AFTER}),
    (["--chunk_residues", "2000"], {"SPLIT_FASTA", *AFTER}),
    (["--verify", "3"], {"SPLIT_FASTA", *AFTER}),
    (["--verify", "0"], {"SPLIT_FASTA", "MERGE_CHUNKS"}),
    (["--model", "random:esm2_t6_8M_UR50D"], {"FETCH_WEIGHTS", "EMBED_CHUNK", *AFTER}),
]


# The strict parser is the one that hashes nothing but inputs; of the old one every third shows that it agrees.
CASES = [("v2", *change) for change in CHANGES] + [("v1", *change) for change in CHANGES[::3]]


@pytest.fixture(scope="module")
def stubbed(tmp_path_factory, hostile_pt):
    """Parser -> folder, arguments and output of a finished stub run: the real workflow and cache, tasks that only touch their outputs. In the C locale."""
    finished = {}
    with pytest.MonkeyPatch.context() as surroundings:
        for name in ("LC_ALL", "LC_CTYPE", "LANG", "JAVA_TOOL_OPTIONS"):
            surroundings.delenv(name, raising=False)
        for parser in PARSERS:
            folder = tmp_path_factory.mktemp(f"stub-{parser}")
            arguments = [*basic(folder, hostile_pt), "--verify", 16, "-stub-run"]
            finished[parser] = folder, arguments, run_pipeline(folder, *arguments, parser=parser).output
    return finished


def test_in_the_c_locale_nextflow_writes_its_report_without_a_warning(stubbed):
    folder, _, said = stubbed["v1"]  # the other parser warns of our labels
    assert "WARN" not in said and "Unmappable" not in said
    assert list((folder / "results").rglob("execution_report_*.html"))


@pytest.mark.parametrize("parser, change, rerun", CASES, ids=[f"{parser}{change[0]}" for parser, change, _ in CASES])
def test_what_changes_a_number_is_computed_again(stubbed, parser, change, rerun):
    folder, arguments, _ = stubbed[parser]
    again = run_pipeline(folder, *arguments, *change, "-resume", parser=parser)
    assert set(again.submitted()) == rerun


def test_another_regression_beside_the_model_is_not_taken_for_the_one_before(tmp_path, hostile_pt):
    """Beside the file that the name leads to, as in a store of models."""
    (tmp_path / "store").mkdir()
    shutil.copy(hostile_pt, tmp_path / "store" / "hostile.pt")
    (tmp_path / "mine.pt").symlink_to("store/hostile.pt")
    arguments = [*basic(tmp_path, "mine.pt"), "-stub-run", "-resume"]
    regression = tmp_path / "store" / "hostile-contact-regression.pt"
    for words in ("", "one", "two"):
        regression.write_text(words) if words else None
        assert "FETCH_WEIGHTS" in run_pipeline(tmp_path, *arguments, parser="v2").submitted()
    (launcher, *_) = (path.read_text() for path in tmp_path.glob("work/*/*/.command.run") if "hostile-contact-regression.pt" in path.read_text())
    assert "local/mine.pt" in launcher and "local/hostile-contact-regression.pt" in launcher


def test_changed_code_in_the_package_recomputes_everything(tmp_path, hostile_pt):
    """Nextflow hashes the scripts, not what they import: the code digest has to."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".git", ".venv", "tests", "results", "work", ".nextflow*"))
    arguments = [*basic(tmp_path, hostile_pt), "-stub-run", "-resume"]
    main = checkout / "main.nf"
    first = run_pipeline(tmp_path, *arguments, main=main)
    with open(checkout / "bin" / "protembed" / "tokens.py", "a") as module:
        module.write("# a change\n")
    assert run_pipeline(tmp_path, *arguments, main=main).submitted() == first.submitted()
    assert not run_pipeline(tmp_path, *arguments, main=main).submitted()


def test_a_chunk_that_is_made_again_in_its_old_place_with_other_bits_is_merged_and_verified_again(tmp_path, hostile_pt, monkeypatch):
    """Its task has the same hash, its file the same path and size: only the digest of its metrics tells."""
    arguments = [*basic(tmp_path, hostile_pt), "--chunk_residues", 100_000, "--verify", 16]
    run_pipeline(tmp_path, *arguments, parser="v2")
    (chunk,) = tmp_path.glob("work/*/*/chunk_*.h5")
    before, size = content(tmp_path), chunk.stat().st_size
    shutil.rmtree(chunk.parent)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")  # an older processor, to torch: other roundings
    again = run_pipeline(tmp_path, *arguments, "-resume", parser="v2")
    assert chunk.stat().st_size == size and content(tmp_path) != before
    assert again.submitted() == {"EMBED_CHUNK": 1, "VERIFY_EMBEDDINGS": 1, "MERGE_CHUNKS": 1}
    assert [path.name for path in (tmp_path / "work" / "checkpoints").iterdir()] == [".protembed-anchor"]
