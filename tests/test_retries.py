"""Each class of exit code, driven through real Nextflow under the pipeline's own conf/base.config: retried, ignored or the end."""

import csv
import os
from collections import defaultdict

import pytest

from tests.conftest import ROOT
from tests.nextflow import run_pipeline

pytestmark = pytest.mark.nextflow
EXITS = ROOT / "tests" / "exits" / "main.nf"
RETRIED = [*range(130, 146), 75, 104, 175, 176, 247]
FINAL = [1, 2, 65, 66, 67, 68, 69, 78]


def attempts(folder):
    """Task -> its attempts in order, as the trace has them."""
    found = defaultdict(list)
    with open(folder / "trace.txt") as trace:
        for row in sorted(csv.DictReader(trace, delimiter="\t"), key=lambda row: int(row["attempt"])):
            found[row["name"]].append(row)
    return found


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """All classes that do not end a run, in one."""
    folder = tmp_path_factory.mktemp("retries")
    run_pipeline(folder, "--codes", ",".join(map(str, RETRIED)), "--others", "true", main=EXITS)
    return attempts(folder)


def test_what_another_attempt_may_mend_is_retried(tried):
    for code in RETRIED:
        first, second = tried[f"ENDS_WITH ({code})"]
        assert (first["status"], first["exit"], second["status"]) == ("FAILED", str(code), "COMPLETED")
    first, second = tried["HAS_A_TIME_LIMIT"]
    assert (first["status"], first["exit"], second["status"]) == ("FAILED", "-", "COMPLETED")


def test_a_chunk_with_a_sequence_that_cannot_be_embedded_is_ignored_and_the_others_go_on(tried):
    assert [(row["status"], row["exit"]) for row in tried["EMBED_CHUNK (69)"]] == [("FAILED", "69")]


def test_memory_grows_after_a_kill_for_want_of_it_and_time_after_a_time_limit_and_neither_otherwise(tried):
    grown = {code: [(row["memory"], row["time"]) for row in tried[f"ENDS_WITH ({code})"]] for code in RETRIED}
    once = ("4 GB", "12h")
    assert {code: after for code, (before, after) in grown.items() if before == once and after != once} == {
        130: ("8 GB", "12h"),  # LSF
        137: ("8 GB", "12h"),
        247: ("8 GB", "12h"),
        140: ("4 GB", "1d"),
    }
    assert [row["memory"] for row in tried["EMBED_CHUNK (137)"]] == ["8 GB", "16 GB"]
    assert [(row["memory"], row["time"]) for row in tried["EMBED_CHUNK (140)"]] == [("8 GB", "1d")] * 2, "it goes on from its checkpoints"


def test_a_task_that_wants_more_than_this_machine_has_gets_what_it_has(tried):
    (row,) = tried["WANTS_TOO_MUCH"]
    assert row["status"] == "COMPLETED" and int(row["cpus"]) == os.cpu_count()


def test_what_will_not_get_better_ends_the_run_after_the_tasks_that_were_begun(tmp_path):
    """All begin at once, 65 ends first: the others are left to end by themselves, none is tried again."""
    late = ",".join(str(code) for code in FINAL if code != 65)
    site = tmp_path / "site.config"
    site.write_text("executor.cpus = 99\nexecutor.memory = 999.GB\n")
    run = run_pipeline(tmp_path, "--codes", ",".join(map(str, FINAL)), "--seconds", late, "-c", site, main=EXITS, check=False)
    assert run.code != 0
    assert {name: [(row["status"], row["exit"]) for row in rows] for name, rows in attempts(tmp_path).items()} == {
        f"ENDS_WITH ({code})": [("FAILED", str(code))] for code in FINAL
    }
