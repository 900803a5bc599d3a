"""Nextflow dies in every phase of a run, by every signal; the same command with -resume ends as if nothing had been.

By default every phase once, mid-batch and publishing by every signal; with PROTEMBED_CRASH_FULL=1 each phase by each signal, alone too.
"""

import signal
from pathlib import Path

import pytest

from tests.conftest import make_proteins, write_fasta
from tests.crash import FULL
from tests.nextflow import PARSERS, kill, wait_for
from tests.phases import AFTER_EMBEDDING, CTRL_C, PHASES, PLACES, PUBLISHING, SIGNALS, Folder, counted, durable_batches

pytestmark = pytest.mark.nextflow
SEQUENCES, COPIES = 30, 20  # each sequence under 20 ids: 100 MB to publish, hardly anything to compute

# One folder, one kill in each phase, one after the other: three such folders have every signal in every phase.
CHAINS = [[(phase, SIGNALS[(shift + number) % 3]) for number, phase in enumerate(PHASES)] for shift in range(3)]
PAIRS = [[("mid-batch", "SIGTERM"), (PUBLISHING, "SIGKILL")], [("mid-batch", CTRL_C), (PUBLISHING, "SIGTERM")]]
ALONE = [[(phase, name)] for phase in PHASES for name in SIGNALS]
CASES = [CHAINS[2], *PAIRS, *(CHAINS[:2] + ALONE if FULL else [])]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, hostile_pt):
    """One chunk, every pack of it a batch."""
    folder = tmp_path_factory.mktemp("input")
    fasta = write_fasta(folder / "proteins.fasta", make_proteins([50 + 2 * number for number in range(SEQUENCES)], seed=3) * COPIES)
    given = ["--input", fasta, "--model", hostile_pt, "--weights_dir", folder / "downloads", "--include", "mean,per_tok", "--repr_layers", "0,1,2,3"]
    return [*given, "--chunk_residues", 100_000, "--max_tokens", 400, "--checkpoint_seconds", 0, "--report", "false"]


@pytest.fixture
def launch(tmp_path, arguments):
    """Parser -> a launch folder; whatever still runs there after the test is ended."""
    made = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it puts in the background deaf to it, and that is inherited

    def make(parser="v1"):
        made.append(Folder(tmp_path / "run", arguments, parser))
        return made[0]

    yield make
    for folder in made:
        folder.end_all()
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory):
    """Vectors and ledger when nothing dies."""
    folder = Folder(tmp_path_factory.mktemp("undisturbed") / "run", arguments, "v1")
    run = folder.finish()
    assert run.code == 0 and run.submitted()["EMBED_CHUNK"] == 1, run.output
    return folder.result()


def in_words(kills):
    return ", ".join(f"{name} {phase}" for phase, name in kills) if len(kills) < len(PHASES) else f"{kills[0][1]} {kills[0][0]} and on through all phases"


@pytest.mark.timeout(1800)  # nine runs in a row, on a machine that may be busy
@pytest.mark.parametrize("number, kills", list(enumerate(CASES)), ids=map(in_words, CASES))
def test_nextflow_killed_in_any_phase_resumes_to_the_undisturbed_result(launch, undisturbed, number, kills):
    folder = launch(PARSERS[number % 3 == 1])
    for phase, name in kills:
        folder.kill_in(phase, name)
    run = folder.finish()
    assert run.code == 0, run.output
    assert folder.result() == undisturbed
    assert counted(run.output) == (SEQUENCES - folder.reusable, folder.reusable), "a committed row was computed again"
    assert ("EMBED_CHUNK" in run.cached()) == (kills[-1][0] in AFTER_EMBEDDING)
    assert not folder.leftovers()


def test_a_task_killed_at_every_attempt_after_one_more_batch_converges_within_the_run(launch, undisturbed):
    folder = launch()
    second = PLACES["before the first batch"]._replace(skip=1)
    run = folder.start_held([dict(second._asdict(), name="second", gate=folder.gate(0), hold=True)])
    killed = set()
    for attempt in range(1, 5):
        (worker,) = wait_for(lambda: set(folder.held()) - killed, still=lambda: run.poll() is None)
        assert len(durable_batches(folder.path)) == attempt
        folder.reusable = len(folder.durable_rows())
        kill(worker)
        killed.add(worker)
    Path(folder.gate(0)).touch()
    assert run.wait(300) == 0, folder.console()
    assert folder.result() == undisturbed
    assert "Execution is retried (4)" in folder.console()
    assert counted(folder.console()) == (SEQUENCES - folder.reusable, folder.reusable)
    assert not folder.leftovers()
