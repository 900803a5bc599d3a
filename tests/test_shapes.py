"""Chunks are sized by what computing them costs, before the weights are there."""

import pytest

from protembed.borders import chunk_residues_for
from protembed.shapes import DEVICES, LOADS_PER_CHUNK, LONGEST_CHUNK, MOST_BYTES, READING, SHAPES, bounds_of_chunks, guessed_shape


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SHAPES)
def test_starting_is_two_percent_of_the_least_chunk_and_no_chunk_is_longer_than_a_queue_allows(name, device):
    shape = SHAPES[name]
    seconds = [residues * shape.flops_per_token / DEVICES[device].flops for residues in bounds_of_chunks(shape, device, 0)]
    start = DEVICES[device].start_seconds + shape.flops_per_token / READING
    if seconds[0] < seconds[1]:  # else the most residues of a chunk, 128 million, bind
        assert seconds[0] >= 0.99 * LOADS_PER_CHUNK * start
    assert seconds[1] <= LONGEST_CHUNK


def test_chunks_are_as_short_as_they_are_asked_to_be():
    for shape in SHAPES.values():
        least, most = bounds_of_chunks(shape, "cuda", 0, longest=600)
        assert least <= most <= 600 * DEVICES["cuda"].flops / shape.flops_per_token


def test_a_chunk_with_a_vector_per_residue_fits_on_a_disk():
    shape = SHAPES["esm2_t33_650M_UR50D"]
    for layers in (1, 3):
        least, most = bounds_of_chunks(shape, "cuda", layers)
        assert least == most and 0.9 * MOST_BYTES < most * shape.width * 4 * layers <= MOST_BYTES


@pytest.mark.parametrize("name", SHAPES)
def test_a_file_of_the_size_of_a_published_one_is_taken_for_its_model(name):
    weights = SHAPES[name].flops_per_token / 2
    assert guessed_shape("my.pt", int(2.05 * weights)) == guessed_shape("my.pt", int(4.05 * weights)) == SHAPES[name]
    assert guessed_shape(name, 0) == guessed_shape(f"random:{name}", 0) == SHAPES[name]


def test_attention_makes_a_long_sequence_cost_more():
    small, large = SHAPES["esm2_t6_8M_UR50D"], SHAPES["esm2_t36_3B_UR50D"]
    assert small.work(1000) == 1000 + 520 and large.work(1000) == 1000 + 65  # 4 L D beside 24 D^2
    assert small.work(1) == 1


def test_a_growing_input_keeps_its_chunk_size_for_long(tmp_path):
    fasta, sizes = tmp_path / "in.fasta", []
    for megabytes in range(1, 40):
        fasta.write_bytes(b"A" * (megabytes << 20))
        sizes.append(chunk_residues_for([fasta], 1 << 15, 1 << 20))
    assert (sizes[0], chunk_residues_for([fasta], (1 << 20) + 1, 1 << 27), chunk_residues_for([fasta], 3000, 3500)) == (1 << 15, 1 << 21, 1 << 11)
    assert sizes == sorted(sizes) and len(set(sizes)) <= 7 and all(size & (size - 1) == 0 for size in sizes)
