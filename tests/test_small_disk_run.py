"""Real Nextflow whose checkpoint folder is on a real full disk."""

import re
import time
from collections import Counter

import pytest
import torch

from tests.conftest import metrics_of
from tests.crash_jobs import durable_batches
from tests.nextflow import basic, content, run_pipeline

pytestmark = pytest.mark.nextflow


def test_a_run_whose_checkpoints_are_on_a_full_disk_says_so_and_with_more_room_resumes_to_the_same_content(tmp_path, hostile_pt, disk, say):
    (tmp_path / "whole").mkdir()
    (tmp_path / "no_retry.config").write_text("process.maxRetries = 0\n")
    arguments = [*basic(tmp_path, hostile_pt), "--chunk_residues", 2000, "--include", "mean,per_tok", "--max_tokens", 404, "--checkpoint_seconds", 0]
    arguments += ["-c", tmp_path / "no_retry.config"]
    run_pipeline(tmp_path / "whole", *arguments)
    small = disk(1200)  # less than the checkpoints of one chunk, more than some batches
    elsewhere = dict(inside=small.command("env", f"--chdir={tmp_path}"))
    arguments += ["--checkpoint_dir", small.place, "-resume"]
    started = time.monotonic()
    failed = run_pipeline(tmp_path, *arguments, **elsewhere, check=False)
    assert failed.code != 0 and "terminated with an error exit status (75)" in failed.output
    assert "this is the first run here: there is no cache of an earlier one" in failed.output, "it was given -resume all the same"
    assert re.search(f"{small.place}/.*: No space left on device; make room there, then run again with -resume", failed.output), failed.output
    say(f"without a retry, the message came after {time.monotonic() - started:.0f} s")
    before, committed = {metrics["chunk"] for metrics in metrics_of(tmp_path / "work")}, Counter()
    for batch in durable_batches(small.seen):
        committed[batch.parent.name] += len(torch.load(batch, weights_only=True)["rows"])
    small.grow()
    resumed = run_pipeline(tmp_path, *arguments, **elsewhere)
    ran = [metrics for metrics in metrics_of(tmp_path / "work") if metrics["chunk"] not in before]
    assert ran and all(metrics["reused"] == committed[metrics["chunk"]] for metrics in ran) and sum(metrics["reused"] for metrics in ran) > 0
    assert resumed.cached()["EMBED_CHUNK"] == len(before) and resumed.submitted()["EMBED_CHUNK"] == len(ran)
    assert content(tmp_path) == content(tmp_path / "whole")
