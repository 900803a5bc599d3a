"""Where checkpoints can be kept, what happens where they cannot, and how they are written in a mounted bucket."""

import errno
import os
import shutil
import signal
import stat

import pytest

from protembed.atomic import create_exclusive, write_text
from protembed.layout import marker_of
from tests.conftest import ROOT, metrics_of, write_fasta
from tests.crash import needs_ptrace, run_traced
from tests.crash_jobs import EmbedJob, durable_batches
from tests.nextflow import PARSERS, basic, content, run_pipeline, start_pipeline, wait_for, workers

SEEN = {
    ("/scratch/run/checkpoints", "/scratch/run", False): True,
    ("~/.cache/protembed", "/scratch/run", False): True,
    ("s3://bucket/work/checkpoints", "s3://bucket/work", True): True,
    ("s3://bucket/work/checkpoints", "s3://bucket/work", False): False,
    ("az://container/work/checkpoints", "az://container/work", True): True,
    ("az://container/work/checkpoints", "az://container/work", False): False,
    ("gs://bucket/work/checkpoints", "gs://bucket/work", False): True,
    ("~/.cache/protembed", "s3://bucket/work", True): False,
    ("/efs/checkpoints", "s3://bucket/work", False): False,
    ("s3://bucket/checkpoints", "/scratch/run", True): False,
}


@pytest.mark.nextflow
@pytest.mark.parametrize("parser", PARSERS)
def test_a_folder_is_seen_by_tasks_that_work_beside_it_and_a_bucket_when_it_is_mounted(tmp_path, parser):
    places = [",".join([folder, work, str(fusion).lower()]) for folder, work, fusion in SEEN]
    run = run_pipeline(tmp_path, "--places", " ".join(places), parser=parser, main=ROOT / "tests" / "reach" / "main.nf")
    assert f"work folder: {tmp_path / 'work'}\n" in run.output
    for place, seen in zip(places, SEEN.values()):
        assert f"{place} {str(seen).lower()}\n" in run.output


@pytest.mark.nextflow
def test_a_folder_given_by_bucket_dir_is_where_tasks_of_a_cloud_work(tmp_path):
    run = run_pipeline(tmp_path, "--places", "a,a,false", "-bucket-dir", tmp_path / "bucket", parser="v2", main=ROOT / "tests" / "reach" / "main.nf")
    assert f"work folder: {tmp_path / 'bucket'}\n" in run.output


@pytest.mark.nextflow
def test_a_weights_dir_that_cannot_be_written_matters_to_downloads_alone_and_is_told_in_a_sentence(tmp_path, hostile_pt):
    (tmp_path / "file").write_text("")
    given = [*basic(tmp_path, hostile_pt), "-stub-run", "--weights_dir", tmp_path / "file" / "weights"]
    assert run_pipeline(tmp_path, *given).submitted()["FETCH_WEIGHTS"] == 1
    run = run_pipeline(tmp_path, *given, "--model", "esm2_t6_8M_UR50D", check=False)
    assert run.code != 0 and not run.submitted()
    assert f"{tmp_path}/file/weights cannot be written" in run.output and "give --weights_dir" in run.output


@pytest.mark.nextflow
def test_a_folder_to_run_in_may_have_brackets_in_its_name(tmp_path, hostile_pt):
    """Which make a pattern of it to Nextflow. So may an input, and what a samplesheet names."""
    (tmp_path / "run [1]").mkdir()
    write_fasta(tmp_path / "run [1]" / "part [2].fasta", ["MKV"])
    (tmp_path / "run [1]" / "sheet.csv").write_text(f"sample,fasta\na,part [2].fasta\nb,{tmp_path}/run [1]/part [2].fasta\n")
    given = [*basic(tmp_path, hostile_pt), "--duplicate_ids", "rename"]
    (tmp_path / "run [1]" / "params [1].yml").write_text("report: false\n")
    run_pipeline(tmp_path / "run [1]", *given, "--input", "sheet.csv", "-params-file", "params [1].yml", "--plan", parser="v2")
    run = run_pipeline(tmp_path / "run [1]", *given, "--input", "part [2].fasta", parser="v2")
    assert run.submitted()["MERGE_CHUNKS"] == 1
    assert (tmp_path / "run [1]" / "results" / "embeddings.h5").exists()
    assert (tmp_path / "run [1]" / "work" / "checkpoints" / ".protembed-anchor").exists()


@pytest.mark.nextflow
def test_without_checkpoints_a_killed_task_begins_anew_and_all_else_is_as_ever(tmp_path, hostile_pt):
    given = [*basic(tmp_path, hostile_pt), "--checkpoint_seconds", 0]
    place = given.index("--chunk_residues")
    del given[place : place + 2]  # chunks by what they cost
    run_pipeline(tmp_path, *given, "--outdir", "usual")
    shutil.rmtree(tmp_path / "work")
    run = start_pipeline(tmp_path, *given, "--checkpoint_dir", "none")
    os.kill(wait_for(lambda: workers(tmp_path), still=lambda: run.poll() is None)[0], signal.SIGKILL)
    assert run.wait(timeout=300) == 0
    console = (tmp_path / "console.txt").read_text()
    assert "Execution is retried (1)" in console and "checkpoints are off: a killed task begins anew" in console
    assert content(tmp_path) == content(tmp_path, "usual")
    assert not (tmp_path / "work" / "checkpoints").exists()
    assert {chunk["reused"] for chunk in metrics_of(tmp_path / "work")} == {0}
    ended = [path.parent for path in tmp_path.glob("work/*/*/.exitcode") if path.read_text().strip() == "0"]
    assert ended and not [folder for folder in ended if (folder / "checkpoints").exists()], "a second copy of the vectors"
    scripts = [path.read_text() for path in tmp_path.glob("work/*/*/.command.sh")]
    assert any("--longest-chunk '600'" in script for script in scripts)
    embedding = [script for script in scripts if "embed_chunk.py" in script]
    assert embedding and all('--leave-when-orphaned --session "${PROTEMBED_SESSION}"' in script for script in embedding)


@pytest.mark.nextflow
def test_checkpoints_in_a_bucket_that_tasks_do_not_see_are_refused(tmp_path, hostile_pt):
    run = run_pipeline(tmp_path, *basic(tmp_path, hostile_pt), "--checkpoint_dir", "s3://bucket/checkpoints", check=False)
    assert run.code != 0 and not run.submitted()
    assert "--checkpoint_dir s3://bucket/checkpoints: tasks whose work folder is" in run.output


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF], ids=errno.errorcode.get)
def test_a_file_system_that_cannot_sync_folders_is_good_enough_and_one_that_cannot_sync_files_is_not(tmp_path, monkeypatch, number):
    sync, refuses = os.fsync, [stat.S_ISDIR]

    def fsync(descriptor):
        if refuses[0](os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "result", "first")
    create_exclusive(tmp_path / "checkpoint", lambda handle: handle.write(b"first"))
    refuses[0] = stat.S_ISREG
    with pytest.raises(OSError, match=os.strerror(number)):
        write_text(tmp_path / "result", "second")
    with pytest.raises(OSError, match=os.strerror(number)):
        create_exclusive(tmp_path / "another", lambda handle: handle.write(b"second"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"result": "first", "checkpoint": "first"}


def test_a_link_that_nfs_made_and_then_calls_taken_is_ours_and_a_name_that_another_has_is_not(tmp_path, monkeypatch):
    link = os.link

    def made_twice(source, target):
        link(source, target)
        link(source, target)

    create_exclusive(tmp_path / "others", lambda handle: handle.write(b"others"))
    monkeypatch.setattr(os, "link", made_twice)
    create_exclusive(tmp_path / "ours", lambda handle: handle.write(b"ours"))
    with pytest.raises(FileExistsError):
        create_exclusive(tmp_path / "others", lambda handle: handle.write(b"ours"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"others": "others", "ours": "ours"}


@needs_ptrace
def test_without_hard_links_a_batch_is_written_once_under_its_own_name(tmp_path):
    """As in a mounted bucket, where a second name is a copy. The first small file of a task finds out."""
    job = EmbedJob(tmp_path, proteins=6)
    job.prepare(tmp_path / "run")
    run = run_traced(lambda: job.run(tmp_path / "run"), tmp_path / "run", refused=("link", "linkat"))
    assert run.exit_code == 0
    batches = durable_batches(tmp_path / "run")
    assert len(batches) >= 2
    for path in [part for batch in batches for part in (batch, marker_of(batch))]:
        calls = [operation.call for operation in run.operations if operation.path == str(path)]
        assert calls[0].startswith("open") and set(calls[1:-1]) == {"write"} and calls[-1] == "fsync", calls
    assert not [operation for operation in run.operations if "/.batch_" in operation.path or "batch_" in operation.source]
