import json
import re

import pytest

from protembed.store import check_embeddings
from tests.conftest import FP32_BOUND, draw_lengths, make_proteins, write_fasta
from tests.nextflow import PARSERS, STEPS, basic, content, run_pipeline

pytestmark = pytest.mark.nextflow


@pytest.fixture(scope="module", params=PARSERS)
def finished(request, tmp_path_factory, hostile_pt):
    """A finished run under each parser, where an anchor had been torn: (folder, arguments, parser, number of chunks, run)."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "work" / "checkpoints").mkdir(parents=True)
    (folder / "work" / "checkpoints" / ".protembed-anchor").touch()
    arguments = [*basic(folder, hostile_pt), "--chunk_residues", 2000, "--verify", 16]
    run = run_pipeline(folder, *arguments, parser=request.param)
    chunks = run.submitted()["EMBED_CHUNK"]
    assert chunks >= 3
    return folder, arguments, request.param, chunks, run


def labels(run):
    """The numbers of chunks that the tags of the embedding speak of -> [(number of the chunk, sequences)]."""
    found = re.findall(r"process > EMBED_CHUNK \(chunk (\d+) of (\d+), (\d+) sequences, [\d.]+[kM]? residues\)", run.output)
    return {int(of): sorted((int(number), int(count)) for number, total, count in found if total == of) for _, of, _ in found}


def test_a_run_says_at_its_start_what_it_has_to_do_and_tags_count_its_chunks(finished):
    _, _, _, chunks, run = finished
    assert "input    60 records, 60 different sequences of " in run.output and "0 repeat another, 0 are skipped" in run.output
    assert re.search(rf"chunks   {chunks}, of \d+ to \d+ sequences", run.output)
    assert "layers -1, mean, float32 on cpu" in run.output and "-resume was not given" in run.output
    ((of, tags),) = labels(run).items()
    assert [number for number, _ in tags] == list(range(1, of + 1)) == list(range(1, chunks + 1)) and sum(count for _, count in tags) == 60


def test_a_finished_run_is_complete_and_says_where_its_results_are(finished):
    folder, _, _, chunks, run = finished
    assert run.submitted() == {**STEPS, "EMBED_CHUNK": chunks}
    assert "60 of 60 records embedded" in run.output
    assert "checked against fair-esm on 16 sequences: mean within " in run.output
    assert "results/embeddings.h5" in run.output and "results/ledger.tsv" in run.output and "tokens/s" in run.output
    attributes = check_embeddings(folder / "results" / "embeddings.h5")
    assert attributes["n_embedded"] == 60 and json.loads(attributes["verify"])["worst"]["mean"]["relative_l2"] < FP32_BOUND
    assert re.fullmatch("[0-9a-f]{32}", attributes["code_digest"])
    assert re.search(r"nextflow run .*/main.nf .*--chunk_residues 2000", attributes["command"])
    assert [path.name for path in (folder / "work" / "checkpoints").iterdir()] == [".protembed-anchor"]


def test_an_unchanged_run_computes_nothing_and_says_so(finished):
    folder, arguments, parser, chunks, _ = finished
    again = run_pipeline(folder, *arguments, "-resume", parser=parser)
    assert not again.submitted()
    assert again.cached() == {**STEPS, "EMBED_CHUNK": chunks}
    assert "everything was cached" in again.output


def test_what_changes_no_number_recomputes_nothing(finished):
    folder, arguments, parser, _, _ = finished
    (folder / "neutral.config").write_text("process { withName: EMBED_CHUNK { cpus = 1; memory = 3.GB } }\nprocess.beforeScript = 'true'\n")
    (folder / "proteins.fasta").touch()
    neutral = ["--outdir", "elsewhere", "--checkpoint_seconds", "7", "--max_tokens", "999", "--keep_checkpoints", "--publish_dir_mode", "link"]
    again = run_pipeline(folder, *arguments, *neutral, "-c", "neutral.config", "-resume", parser=parser)
    assert not again.submitted()
    assert content(folder, "elsewhere") == content(folder)


@pytest.mark.parametrize("finished", PARSERS[1:], indirect=True)
def test_another_checkpoint_folder_computes_no_vector_again(finished):
    folder, arguments, parser, chunks, _ = finished
    before = content(folder)
    again = run_pipeline(folder, *arguments, "--checkpoint_dir", "other_root", "-resume", parser=parser)
    assert again.submitted() == {"MERGE_CHUNKS": 1}  # which removes checkpoints, and knows their folder by its path
    assert again.cached()["EMBED_CHUNK"] == chunks and content(folder) == before


@pytest.mark.parametrize("finished", PARSERS[:1], indirect=True)
def test_a_cached_result_replaces_what_another_run_has_published_in_its_place(finished):
    folder, arguments, parser, _, _ = finished
    whole = content(folder)
    run_pipeline(folder, *arguments, "--store_dtype", "float16", "-resume", parser=parser)
    assert content(folder) != whole
    assert not run_pipeline(folder, *arguments, "-resume", parser=parser).submitted()
    assert content(folder) == whole


@pytest.mark.parametrize("finished", PARSERS[1:], indirect=True)
def test_appended_records_recompute_the_last_chunk_and_an_inserted_block_its_neighbours_only(finished):
    folder, arguments, parser, chunks, _ = finished
    given, new = make_proteins(draw_lengths(60, 20, 200), seed=21), make_proteins([150] * 20, seed=22)
    appended, inserted = write_fasta(folder / "appended.fasta", [*given, *new]), write_fasta(folder / "inserted.fasta", [*given[:20], *new[:2], *given[20:]])
    edited = [*arguments, "--outdir", "edited", "--verify", "0", "-resume"]
    again = run_pipeline(folder, *edited, "--input", appended, parser=parser)
    ((of, tags),) = labels(again).items()
    assert of > chunks and len(tags) == of and sum(count for _, count in tags) == 80
    assert again.cached()["EMBED_CHUNK"] == chunks - 1, "another total in their tags, and yet from the cache"
    assert "chunks that earlier runs have finished are taken from the cache" in again.output
    assert re.search(r"80 sequences computed, 0 from checkpoints, of them \d\d in finished chunks of earlier runs; \d+ tokens/s per task", again.output)
    again = run_pipeline(folder, *edited, "--input", inserted, parser=parser)
    assert 1 <= again.submitted()["EMBED_CHUNK"] <= 3 and again.cached()["EMBED_CHUNK"] >= chunks - 2
