"""Which sequences the verification gets."""

import random

import pytest

from protembed.proteins import digest_of, read_fasta
from protembed.sampling import Sampler
from tests.conftest import draw_lengths, make_proteins, run_inside, write_fasta


def test_the_sample_is_the_longest_and_a_draw_that_depends_on_content_alone(tmp_path):
    given = make_proteins([*draw_lengths(40, 20, 300), 1200], seed=3)
    run_inside("split_fasta.py", write_fasta(tmp_path / "in.fasta", given), "--outdir", tmp_path, "--chunk-residues", 3000, "--sample", 6)
    sequences = [record.sequence for record in read_fasta(tmp_path / "sample.fasta")]
    assert sequences == [given[-1], *sorted(given[:-1], key=digest_of)[:5]]


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_any_count_can_be_drawn_in_any_order(count):
    sequences = make_proteins(range(20, 50), seed=1)
    drawn = []
    for seed in range(5):
        random.Random(seed).shuffle(sequences)
        sampler = Sampler(count)
        for sequence in sequences:
            sampler.add(digest_of(sequence), sequence, "chunk")
        drawn.append(list(sampler.chosen()))
    assert len(drawn[0]) == min(count, 30) and all(other == drawn[0] for other in drawn)
