"""Checkpoint files that are whole but not ours: of another recipe or chunk, malformed, or a hostile pickle."""

import hashlib
import os
import pickle
import shutil

import pytest
import torch
from xxhash import xxh3_128

from protembed.batch import Batch
from protembed.checkpoint import ChunkCheckpoint
from protembed.layout import marker_of
from tests.crash import finish, needs_ptrace
from tests.crash_jobs import EmbedJob, durable_batches
from tests.test_torn_files import Finished

pytestmark = needs_ptrace


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return Finished(tmp_path_factory.mktemp("foreign"))


class Hostile:
    """Unpickled, it makes a file; harmless stand-in for anything."""

    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return os.system, (f"touch {self.trap}",)


def forge(folder, batch, content):
    """Put bytes in place of a batch, with the marker that vouches for them."""
    path = folder / batch
    path.write_bytes(content)
    path.with_name(path.name + ".done").write_text(f"{xxh3_128(content).hexdigest()}  {path.name}\n")


def foreign_files(finished, trap):
    """Name -> bytes of a file that has no business in this folder."""
    job, folder = finished.job, finished.base / "elsewhere"
    job.prepare(folder)
    assert finish(lambda: job.run(folder, "identity", max_residues=1000)) == 0
    other = EmbedJob(finished.base, proteins=20)
    assert finish(lambda: other.run(folder, "chunk")) == 0
    stored = torch.load(finished.batches[3], weights_only=True)
    rows, mean = len(stored["rows"]), "representations/1/mean"

    def saved(content, **how):
        torch.save(content, folder / "forged.pt", **how)
        return (folder / "forged.pt").read_bytes()

    yield from ((f"of another {path.parent.name[:5]}{number}", path.read_bytes()) for number, path in enumerate(durable_batches(folder)[:: finished.packs]))
    yield "hostile pickle in torch's format", saved(dict(stored, flags=Hostile(trap)))
    yield "hostile pickle in torch's old format", saved(dict(stored, flags=Hostile(trap)), _use_new_zipfile_serialization=False)
    yield "bare hostile pickle", pickle.dumps(Hostile(trap))
    yield "no dictionary", saved(torch.zeros(3))
    yield "without vectors", saved(dict(stored, vectors={}))
    yield "vectors of too few rows", saved(dict(stored, vectors={**stored["vectors"], mean: stored["vectors"][mean][1:]}))
    yield "a row twice", saved(dict(stored, rows=stored["rows"][[0] * rows]))
    yield "rows beyond the chunk", saved(dict(stored, rows=stored["rows"] + 24))
    yield "vectors that are not finite", saved(dict(stored, vectors={**stored["vectors"], mean: torch.nan * stored["vectors"][mean]}))
    yield "vectors of another type", saved(dict(stored, vectors={**stored["vectors"], mean: stored["vectors"][mean].double()}))


def test_foreign_and_hostile_files_are_set_aside_and_nothing_in_them_is_executed(finished, tmp_path):
    trap = tmp_path / "trap"
    pickle.loads(pickle.dumps(Hostile(trap)))
    assert trap.exists(), "the bait must be alive"
    trap.unlink()
    for number, (what, content) in enumerate(foreign_files(finished, trap)):
        folder = finished.base / f"foreign-{number}"
        shutil.copytree(finished.folder, folder)
        forge(folder, finished.batches[3].relative_to(finished.folder), content)
        passes = finished.job.passes(folder)
        assert finish(lambda folder=folder: finished.job.run(folder)) == 0, what
        assert finished.job.result(folder) == finished.golden, what
        assert finished.job.passes(folder) - passes == 1, f"{what}: one pack is computed again"
        assert len(list(folder.rglob("set_aside/*"))) == 2, what
        assert not trap.exists(), f"{what}: its code was executed"


def test_the_number_of_a_batch_that_was_set_aside_is_never_used_again(finished):
    folder = shutil.copytree(finished.folder, finished.base / "numbers")
    last = max(durable_batches(folder))
    os.truncate(last, 100)
    finished.finishes(folder)
    assert not last.exists(), "a slow reader that still judges the old file would set the new one aside"


def test_a_marker_of_an_earlier_version_counts_by_its_sha256(tmp_path):
    checkpoint = ChunkCheckpoint(tmp_path, "identity", "chunk_1", 1)
    path = checkpoint.commit([Batch(torch.tensor([0]), torch.tensor([0], dtype=torch.uint8), torch.tensor([3]), {"representations/3/mean": torch.ones(1, 4)})])
    marker_of(path).write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    assert list(checkpoint.good_batches().values()) == [[0]]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert not checkpoint.good_batches() and not path.exists()
