import pytest
import torch
from xxhash import xxh3_128

from protembed.batch import Batch, finite_rows
from protembed.checkpoint import ChunkCheckpoint
from protembed.errors import Transient
from protembed.layout import batch_path, marker_of

NAME = "representations/1/mean"


def batch(rows, value=1.0, residues=3):
    count = len(rows)
    vectors = {NAME: torch.full((count, 4), value), "representations/1/per_tok": torch.full((count * residues, 4), value)}
    return Batch(torch.tensor(rows), torch.zeros(count, dtype=torch.uint8), torch.full((count,), residues), vectors)


@pytest.fixture
def checkpoint(tmp_path):
    return ChunkCheckpoint(tmp_path, "identity", "chunk_1", 10)


def rows_done(checkpoint):
    return sorted(sum(checkpoint.good_batches().values(), []))


def test_a_committed_batch_comes_back_as_it_was(checkpoint):
    path = checkpoint.commit([batch([4, 2], 7.5)])
    loaded = checkpoint.load(path)
    assert loaded.rows.tolist() == [4, 2]
    assert torch.equal(loaded.vectors[NAME], torch.full((2, 4), 7.5))


def test_several_batches_are_committed_as_one_file_and_what_lies_around_a_view_in_memory_is_not_written(checkpoint):
    parts = [batch([4, 2], 1.0), batch([7], 2.0, residues=5)]
    around = torch.full((100_000, 4), 3.0)
    views = batch([1], residues=2)._replace(vectors={NAME: around[:1], "representations/1/per_tok": around[:2]})
    path = checkpoint.commit([*parts, views])
    loaded = checkpoint.load(path)
    assert (loaded.rows.tolist(), loaded.residues.tolist()) == ([4, 2, 7, 1], [3, 3, 5, 2])
    assert loaded.vectors["representations/1/per_tok"][:, 0].tolist() == [1.0] * 6 + [2.0] * 5 + [3.0] * 2
    assert path.stat().st_size < around.nbytes / 10


def test_paths_are_root_identity_chunk_batch_and_nothing_else(checkpoint, tmp_path):
    checkpoint.commit([batch([0])])
    checkpoint.commit([batch([1])])
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == [f"identity/chunk_1/batch_0000{number}.pt{end}" for number in (0, 1) for end in ("", ".done")]
    assert batch_path(tmp_path, "identity", "chunk_1", 1) == tmp_path / "identity" / "chunk_1" / "batch_00001.pt"


def test_the_marker_is_a_line_that_xxhsum_can_check(checkpoint):
    """Its form is that of md5sum and its like, by which xxhsum knows the algorithm from the number of digits; a line with # is passed over."""
    path = checkpoint.commit([batch([0])])
    line, comment, rest = marker_of(path).read_text().split("\n")
    assert line == f"{xxh3_128(path.read_bytes()).hexdigest()}  {path.name}" and comment.startswith("# ") and rest == ""


def test_a_batch_without_marker_does_not_count_and_is_left_to_its_writer(checkpoint):
    path = checkpoint.commit([batch([0])])
    marker_of(path).unlink()
    assert rows_done(checkpoint) == []
    assert path.exists()
    assert checkpoint.commit([batch([0])]).name == "batch_00001.pt"


def test_a_marker_without_batch_does_not_count(checkpoint):
    checkpoint.commit([batch([0])]).unlink()
    assert rows_done(checkpoint) == []


def test_good_batches_after_a_rotten_one_are_kept(checkpoint):
    paths = [checkpoint.commit([batch([row])]) for row in range(3)]
    content = bytearray(paths[1].read_bytes())
    content[len(content) // 2] ^= 1
    paths[1].write_bytes(content)
    assert rows_done(checkpoint) == [0, 2]
    assert "batch_00001.pt" in checkpoint.rotten[0]
    assert not paths[1].exists() and len(list((checkpoint.folder / "set_aside").iterdir())) == 2


def test_a_batch_of_another_identity_or_chunk_is_not_used(checkpoint, tmp_path):
    for identity, chunk in (("other", "chunk_1"), ("identity", "chunk_2")):
        foreign = ChunkCheckpoint(tmp_path, identity, chunk, 10).commit([batch([5])])
        for path in (foreign, marker_of(foreign)):
            path.rename(checkpoint.folder / path.name)
        assert rows_done(checkpoint) == []
        assert "belongs to another run" in checkpoint.rotten[-1]


def test_a_row_that_two_writers_committed_counts_once(checkpoint):
    first, second = checkpoint.commit([batch([1, 2], 1.0)]), checkpoint.commit([batch([2, 3], 2.0)])
    assert checkpoint.good_batches() == {first: [1, 2], second: [3]}
    kept = checkpoint.load(second).of_rows([False, True])
    assert (kept.rows.tolist(), len(kept.vectors["representations/1/per_tok"])) == ([3], 3)


def test_rows_beyond_the_chunk_make_a_batch_rotten(checkpoint):
    checkpoint.commit([batch([10])])
    assert rows_done(checkpoint) == []


def test_no_temporary_file_is_left(checkpoint, tmp_path):
    checkpoint.commit([batch([0])])
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_a_folder_that_cannot_be_made_is_transient(tmp_path):
    (tmp_path / "identity").write_text("a file where a folder should be")
    with pytest.raises(Transient, match="cannot be made"):
        ChunkCheckpoint(tmp_path, "identity", "chunk_1", 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_rows_with_a_number_that_is_not_finite_are_found_and_huge_ones_are_not_taken_for_them(value):
    values = torch.zeros(3, 4)
    values[1] = value
    assert finite_rows(values).tolist() == [True, value == 3e38, True]
    values[1, :2] = torch.tensor([float("inf"), -float("inf")])
    assert finite_rows(values).tolist() == [True, False, True]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")], ids=repr)
def test_a_good_batch_for_which_there_is_no_memory_is_not_set_aside(checkpoint, monkeypatch, error):
    path = checkpoint.commit([batch([0])])
    with monkeypatch.context() as starved, pytest.raises(Transient, match="no memory to read the checkpoint"):
        starved.setattr(torch, "load", lambda *_, **__: (_ for _ in ()).throw(error))
        checkpoint.good_batches()
    assert path.exists() and rows_done(checkpoint) == [0] and not checkpoint.rotten
