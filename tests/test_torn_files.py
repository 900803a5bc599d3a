"""Torn and rotten checkpoint files: found out and computed again, or harmless; no vector ever changes.

PROTEMBED_CRASH_FULL=1 takes a longer job and finishes the run after every damage, not after a sample (some minutes).
"""

import os
import random
import shutil

import pytest
import torch

from protembed.atomic import temporary_name
from protembed.checkpoint import ChunkCheckpoint
from tests.crash import FULL, finish, in_processes, needs_ptrace, run_traced
from tests.crash_jobs import EmbedJob, durable_batches, litter

FLIPS = 1000
pytestmark = needs_ptrace


class Finished:
    """A job that ran to its end, and what every row of it must be."""

    def __init__(self, base, proteins=24):
        self.base, self.job, self.folder, self.proteins = base, EmbedJob(base, proteins), base / "finished", proteins
        self.states = []  # copies of the folder as it stood before each file operation
        self.job.prepare(self.folder)
        assert run_traced(lambda: self.job.run(self.folder), self.folder, meanwhile=self._copy).exit_code == 0
        self.golden, self.batches = self.job.result(self.folder), durable_batches(self.folder)
        self.packs = len(self.batches)
        self.vectors = self.read(self.folder)[0]

    def _copy(self):
        self.states.append(shutil.copytree(self.folder, self.base / f"state-{len(self.states)}"))

    def read(self, folder):
        """(row -> its flags and vectors, bit for bit; what was set aside) of a checkpoint, read as embed_chunk.py reads it."""
        found = {}
        where = self.batches[0].parent
        checkpoint = ChunkCheckpoint(folder / "checkpoints", where.parent.name, where.name, self.proteins)
        for path, rows in checkpoint.good_batches().items():
            batch = checkpoint.load(path)
            per_row = [part.split(batch.residues.tolist() if len(part) > len(rows) else 1) for _, part in sorted(batch.vectors.items())]
            for row, *vectors in zip(batch.rows.tolist(), batch.flags, *per_row):
                found[row] = b"".join(vector.numpy().tobytes() for vector in vectors)
        return found, checkpoint.rotten

    def finishes(self, folder):
        """The next run computes what is not durable, and only that, and ends with the very same file."""
        kept, passes = len(durable_batches(folder)), self.job.passes(folder)
        assert finish(lambda: self.job.run(folder)) == 0
        assert self.job.result(folder) == self.golden
        assert self.job.passes(folder) - passes == self.packs - kept
        assert not litter(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return Finished(tmp_path_factory.mktemp("torn"), proteins=24 if FULL else 9)


def cut(length):
    return lambda path: os.truncate(path, int(length * path.stat().st_size))


def zero_tail(share):
    def damage(path):
        content = path.read_bytes()
        kept = int(share * len(content))
        path.write_bytes(content[:kept] + bytes(len(content) - kept))

    return damage


def drop_name(path):
    """What a power cut leaves when the folder was not synced: the bytes, under the temporary name only."""
    path.rename(path.with_name(temporary_name(path).name.replace(f".{os.getpid()}.", ".999999999.")))


DAMAGES = {"cut to nothing": cut(0), "cut after 1 %": cut(0.01), "cut in half": cut(0.5), "last bytes cut": cut(0.995)}
DAMAGES.update({"second half zeroed": zero_tail(0.5), "last 3 % zeroed": zero_tail(0.97), "name dropped": drop_name})


def targets(folder):
    """The file written last (of two names of one file the final one), and the batch written last if that is another."""
    files = [path for path in folder.rglob("*batch_*") if path.is_file()]
    for some in (files, [path for path in files if path.suffix == ".pt"]):
        yield max(some, key=lambda path: (path.stat().st_mtime_ns, path.name[0] != "."), default=None)


def test_a_torn_last_file_at_any_crash_point_changes_no_vector(finished, say):
    cases = []
    for state in finished.states:
        for target in set(filter(None, targets(state))):
            # A temporary name is never read: one damage stands for all, unless all are asked for.
            names = DAMAGES if FULL or target.name[0] != "." else ["cut in half"]
            cases += [(len(cases) + number, state, target.relative_to(state), name) for number, name in enumerate(names)]

    def check(case):
        number, state, target, name = case
        folder = finished.base / f"torn-{number}"
        shutil.copytree(state, folder)
        DAMAGES[name](folder / target)
        kept = len(durable_batches(folder))
        found, rotten = finished.read(folder)
        assert all(finished.vectors[row] == vectors for row, vectors in found.items())
        assert len(durable_batches(folder)) == kept, f"a good batch was set aside: {rotten}"
        if FULL or number % 23 == 0:
            finished.finishes(folder)
        shutil.rmtree(folder)

    in_processes(check, cases)
    assert len(finished.states) >= 12 * finished.packs
    say(f"{len(cases)} torn files at {len(finished.states)} crash points")


def test_each_of_a_thousand_flipped_bits_is_detected_or_harmless(finished, say):
    drawn = random.Random(0)
    flips = []
    for number in range(FLIPS):
        batch = drawn.choice(finished.batches)
        path = batch if number % 2 else batch.with_name(batch.name + ".done")
        flips.append((number, path.relative_to(finished.folder), batch, drawn.randrange(path.stat().st_size * 8)))

    def check(flip):
        number, path, batch, bit = flip
        folder = finished.base / f"flip-{number}"
        shutil.copytree(finished.folder, folder)
        content = bytearray((folder / path).read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        (folder / path).write_bytes(content)
        lost = set(torch.load(batch, weights_only=True)["rows"].tolist())
        found, rotten = finished.read(folder)
        assert all(finished.vectors[row] == vectors for row, vectors in found.items()), "a vector has changed"
        harmless = len(found) == len(finished.vectors)
        assert harmless or set(finished.vectors) - set(found) == lost, "more was lost than the batch that rotted"
        assert not (harmless and path.suffix == ".pt"), f"bit {bit} of {path} went unnoticed"
        if not harmless and (FULL or number % 50 < 2):
            finished.finishes(folder)
        shutil.rmtree(folder)
        with open(finished.base / f"{'harmless' if harmless else 'detected'}-{path.suffix[1:]}", "a") as tally:
            tally.write(".")

    in_processes(check, flips)
    tally = {name: (finished.base / name).stat().st_size for name in ("detected-pt", "detected-done", "harmless-done") if (finished.base / name).exists()}
    assert sum(tally.values()) == FLIPS
    say(f"{FLIPS} bit flips: {tally}")
