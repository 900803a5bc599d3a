"""What progress.py reckons from files that were written by hand; test_show_progress.py has those of real tasks."""

import json

import pytest

from protembed.anchor import CONTENT, NAME
from protembed.layout import marker_of
from protembed.marker import marker_text
from tests.conftest import run_script
from tests.test_show_progress import shown


def test_the_rate_is_that_of_the_latest_attempts_last_five_commits_and_gives_the_time_left(tmp_path):
    folder = tmp_path / ("0" * 32) / ("chunk_" + "0" * 16)
    folder.mkdir(parents=True)
    (tmp_path / NAME).write_text(CONTENT)
    for number in (1, 2):
        (folder / f"attempt_0000{number}.json").write_text(json.dumps(dict(sequences=100, residues=9800)))
    for number, (seconds, attempt) in enumerate([(99.0, 1), (50.0, 2), *[(2.0, 2)] * 5]):  # 1000 tokens each
        marker_of(folder / f"batch_0000{number}.pt").write_text(marker_text("0" * 32, f"batch_0000{number}.pt", 10, 980, seconds, attempt))
    answer = shown(tmp_path)
    assert (answer["tokens_done"], answer["tokens_per_second"], answer["seconds_left"]) == (7000, 500, 6)
    assert "500 tokens/s, 0:00:06 left" in run_script("show_progress.py", tmp_path).stdout


ODD = [None, -1, "many", [1], {"a": 1}, 0.5]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_values_of_another_kind_count_for_nothing_and_hide_no_other_chunk(tmp_path, value):
    run, chunk = tmp_path / "runs" / "session", tmp_path / ("0" * 32) / ("chunk_" + "0" * 16)
    run.mkdir(parents=True)
    chunk.mkdir(parents=True)
    names = ("sequences", "residues", "reused", "failed", "device", "identity")
    (tmp_path / NAME).write_text(CONTENT)
    (run / "chunk_1.metrics.json").write_text(json.dumps({"chunk": "chunk_1", **dict.fromkeys(names, value)}))
    (run / "chunk_2.metrics.json").write_text(json.dumps({"chunk": value}))
    (chunk / "attempt_00001.json").write_text(json.dumps(dict.fromkeys(names, value)))
    (run / "split.json").write_text(json.dumps({"chunk_sizes": {"chunk_3": [7, 70], "chunk_4": value}}))
    answer = shown(tmp_path)
    assert answer["sequences"] == 7 and {"chunk_1", "chunk_3", chunk.name} <= {part["chunk"] for part in answer["by_chunk"]}
    (run / "split.json").write_text(json.dumps({"chunk_sizes": value}))
    assert shown(tmp_path)["sequences"] == 0
