"""What the checkpoint folder says of sequences that failed."""

import os
import shutil

from protembed.checkpoint_folder import read_failures
from protembed.layout import failures_path


def put_reason(root, identity, reason, time):
    path = failures_path(root, identity, "chunk_1")
    path.parent.mkdir(parents=True)
    path.write_text(reason)
    os.utime(path, (time, time))
    return path


def test_reasons_are_those_of_the_recipe_that_is_merged_or_when_no_file_tells_it_the_last_ones(tmp_path):
    put_reason(tmp_path, "new", "5\tnot finite\n", 2000)
    put_reason(tmp_path, "old", "3\tout of memory\n", 1000)
    assert read_failures(tmp_path, "old") == {"chunk_1": {3: "out of memory"}}
    assert read_failures(tmp_path) == {"chunk_1": {5: "not finite"}}
    assert read_failures(tmp_path, "gone") == {}


def test_reasons_that_the_merge_of_another_run_removes_meanwhile_are_none(tmp_path, monkeypatch):
    path = put_reason(tmp_path, "mine", "5\tnot finite\n", 2000)
    listed = os.listdir

    def removed_then(folder):
        names = listed(folder)
        shutil.rmtree(path.parent, ignore_errors=True)
        return names

    monkeypatch.setattr(os, "listdir", removed_then)
    assert read_failures(tmp_path, "mine") == {}
