import numpy as np
import pytest
import torch

from protembed.chunk_file import open_chunk_file
from protembed.device import on_device
from protembed.embedding import Embedder
from protembed.errors import Transient
from protembed.esm2 import PackedESM2
from protembed.layout import Flag
from protembed.reading import open_embeddings
from protembed.shapes import Shape
from protembed.underway import Underway
from protembed.weights import random_esm2, save_esm2
from tests.conftest import FP32_BOUND, make_proteins, metrics_of, reference_layers, relative_l2, run_inside, write_chunk, write_fasta
from tests.results import embed_all, merge_all
from tests.test_embed_chunk import embed, only_h5


@pytest.fixture(scope="module")
def sequences():
    return make_proteins([700, 401, 333, 333, 200, 150, 90, 50, 50, 49, 20, 7, 3, 1], seed=11)


def test_numbers_beyond_half_precision_are_computed_again_in_single(tmp_path, sequences):
    model = random_esm2(Shape(1, 64, 1), seed=2)
    model.layers[0].fc1.weight *= 3e5  # fc1's output leaves the range of float16 in every row
    save_esm2(model, tmp_path / "wild.pt", half=False)
    run_inside("fetch_weights.py", tmp_path / "wild.pt", "--outdir", tmp_path / "weights")
    fasta = write_fasta(tmp_path / "in.fasta", sequences[4:7])
    (chunk,) = embed_all(tmp_path, tmp_path / "weights", fasta, "--dtype", "float16", "--include", "mean,per_tok")
    with open_chunk_file(chunk) as stored:
        assert stored.flags.tolist() == [int(Flag.FP32_RERUN)] * 3
        for row, sequence in enumerate(sequences[4:7]):
            reference = reference_layers(model, sequence, [1])[1][1:-1]
            assert relative_l2(stored.vectors("representations/1/per_tok", [row]), reference) <= FP32_BOUND
    with open_embeddings(merge_all(tmp_path, tmp_path / "weights", [chunk])) as embeddings:
        assert embeddings.flags.tolist() == [16, 16, 16]


@pytest.fixture
def poisoned(tmp_path):
    """Weights that give NaN for any sequence with a tryptophan, in every precision."""
    model = random_esm2(Shape(1, 64, 1), seed=2)
    model.embed_tokens.weight[model.alphabet.get_idx("W")] = float("nan")
    save_esm2(model, tmp_path / "poisoned.pt")
    run_inside("fetch_weights.py", tmp_path / "poisoned.pt", "--outdir", tmp_path / "poisoned")
    return tmp_path / "poisoned"


def test_a_sequence_that_always_fails_does_not_take_its_neighbours_along(tmp_path, poisoned):
    chunk = write_chunk(tmp_path / "chunk.fasta", ["ACDEF", "ACWEF", "GHIKL"])
    done = embed(chunk, poisoned, tmp_path / "out", check=False)
    assert done.returncode == 69
    assert "(row 1): the model gives numbers that are not finite" in done.stderr
    embed(chunk, poisoned, tmp_path / "out", "--on-failure", "skip")
    (metrics,) = metrics_of(tmp_path / "out")
    assert (metrics["reused"], metrics["failed"]) == (2, 1)  # the neighbours were kept by the first attempt
    with open_chunk_file(only_h5(tmp_path / "out")) as stored:
        assert list(stored.failed) == [1]
        assert np.isfinite(stored.vectors("representations/1/mean", np.array([0, 2]))).all()


def test_out_of_memory_halves_the_pack_and_loses_nothing(weights, hostile_esm2, sequences):
    engine = PackedESM2(hostile_esm2, [3], ("mean",), torch.float32, torch.device("cpu"))

    def small_device(rows):
        if sum(len(sequences[row]) for row in rows) > 450:
            raise torch.OutOfMemoryError("injected")
        return engine.begin([sequences[row] for row in rows])

    embedder = Embedder(list(map(len, sequences)), small_device, None, max_tokens=4096)
    done = [row for result in embedder.run(set(range(len(sequences)))) for row in result.rows.tolist()]
    assert embedder.out_of_memory >= 3
    assert embedder.max_tokens <= 452 * 2
    assert list(embedder.failed) == [0]
    assert "out of memory with 702 tokens alone in a pack (injected); use a device with more memory, or --long_sequences" in embedder.failed[0]
    assert sorted(done) == list(range(1, len(sequences)))


class CrowdedDevice:
    """A device whose memory somebody else takes between two of its passes."""

    def __init__(self, taken_from, until=1 << 30):
        self.passes, self.taken = 0, range(taken_from, until)

    def begin(self, rows):
        self.passes += 1
        if self.passes in self.taken:
            raise torch.OutOfMemoryError("injected")
        return Underway(lambda: {"representations/1/mean": torch.ones(len(rows), 4)}, torch.device("cpu"))


@pytest.mark.parametrize("taken_from", [1, 4])
def test_want_of_memory_that_is_not_the_sequences_fault_fails_none_of_them(taken_from):
    embedder = Embedder([300] * 20, CrowdedDevice(taken_from).begin, None, max_tokens=700)
    with pytest.raises(Transient, match="with 302 tokens alone in a pack .injected.; that many should fit"):
        list(embedder.run(set(range(20))))


def test_a_row_that_had_no_memory_for_a_while_comes_through_in_the_end():
    embedder = Embedder([900, 300, 300], CrowdedDevice(1, until=3).begin, None, max_tokens=2000)
    rows = [row for batch in embedder.run({0, 1, 2}) for row in batch.rows.tolist()]
    assert sorted(rows) == [0, 1, 2] and not embedder.failed


@pytest.mark.parametrize(
    "error, meaning",
    [
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), torch.OutOfMemoryError),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), torch.OutOfMemoryError),
        (torch.AcceleratorError("CUDA error: out of memory"), torch.OutOfMemoryError),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), Transient),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"), Transient),
        (RuntimeError("shapes cannot be multiplied"), RuntimeError),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_fault_of_the_device_is_told_from_want_of_memory_and_from_our_own_mistakes(error, meaning):
    def fails():
        raise error

    with pytest.raises(meaning) as raised:
        on_device(fails)
    assert type(raised.value) is meaning


def test_a_device_that_fails_when_it_is_asked_whether_it_is_ready_is_a_reason_to_try_again():
    class Broken(Underway):
        def __init__(self):
            pass

        def is_ready(self):
            raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")

    with pytest.raises(Transient, match="the device failed: CUDA error: uncorrectable ECC"):
        list(Embedder([5, 5], lambda rows: Broken(), None, max_tokens=7).run({0, 1}))


def test_a_row_without_memory_for_single_precision_fails_alone():
    width = 4

    def begin(rows):
        vectors = torch.zeros(len(rows), width)
        vectors[[row == 1 for row in rows]] = torch.nan
        return Underway(lambda: {"representations/1/mean": vectors}, torch.device("cpu"))

    def no_memory(rows):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 60 GiB")

    embedder = Embedder([5, 6, 7], begin, no_memory, max_tokens=100)
    rows = [row for batch in embedder.run({0, 1, 2}) for row in batch.rows.tolist()]
    assert sorted(rows) == [0, 2] and list(embedder.failed) == [1]
    assert "not finite, and has no memory for single precision (CUDA out of memory" in embedder.failed[1]


class SlowDevice:
    """A device that answers when it is waited for, as a GPU does; notes what happened in which order."""

    def __init__(self, begin):
        self.begin_now, self.events = begin, []

    def begin(self, rows):
        number = len([event for event in self.events if event[0] == "begin"])
        self.events.append(("begin", number))
        device, underway = self, self.begin_now(rows)

        class Late(Underway):
            def __init__(self):
                pass

            def is_ready(self):
                return False

            def result(self):
                device.events.append(("end", number))
                return underway.result()

        return Late()


def test_the_next_pack_is_queued_before_the_last_has_ended_and_nothing_changes(hostile_esm2, sequences):
    engine = PackedESM2(hostile_esm2, [3], ("mean",), torch.float32, torch.device("cpu"))

    def begin(rows):
        return engine.begin([sequences[row] for row in rows])

    device, lengths = SlowDevice(begin), list(map(len, sequences))
    late, rows = Embedder(lengths, device.begin, None, max_tokens=500), set(range(len(sequences)))
    batches = list(late.run(rows))
    in_turn = sorted(device.events, key=lambda event: event[1] + (1.5 if event[0] == "end" else 0))  # begin 0, begin 1, end 0, begin 2, end 1, ...
    assert device.events == in_turn and len(batches) == len(late.packs) > 4
    for ours, theirs in zip(batches, Embedder(lengths, begin, None, max_tokens=500).run(rows)):
        assert torch.equal(ours.rows, theirs.rows)
        assert all(torch.equal(ours.vectors[name], theirs.vectors[name]) for name in theirs.vectors)
    assert late.tokens == sum(len(sequence) + 2 for sequence in sequences) and late.device_seconds > 0
