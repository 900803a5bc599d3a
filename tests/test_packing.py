import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protembed.packing import balanced_budget, packing_efficiency, plan_packs
from protembed.proteins import read_fasta
from tests.conftest import DEMO_FASTA

counts = st.lists(st.integers(1, 1100), max_size=400)
budgets = st.integers(1, 5000)


def proteome_lengths():
    return [len(record.sequence) for record in read_fasta(DEMO_FASTA)]


def fragments(base_pairs):
    """Lengths of the translated reads of the origin system: 150 bases give 50, 49 or 49 residues, some reads are shorter."""
    drawn = random.Random(base_pairs)
    whole = base_pairs // 3
    return [drawn.choice([whole, whole, whole - 1]) if drawn.random() < 0.9 else drawn.randint(20, whole) for _ in range(4000)]


def log_normal():
    drawn = random.Random(5)
    return [min(1022, max(1, int(drawn.lognormvariate(5.6, 0.7)))) for _ in range(2000)]


@given(counts, budgets)
def test_every_row_is_in_exactly_one_pack(token_counts, budget):
    rows = [row for pack in plan_packs(token_counts, budget) for row in pack.rows]
    assert sorted(rows) == list(range(len(token_counts)))


@given(counts, budgets)
def test_no_pack_is_over_budget_unless_one_sequence_alone_is(token_counts, budget):
    for pack in plan_packs(token_counts, budget):
        assert pack.tokens == sum(token_counts[row] for row in pack.rows)
        assert pack.tokens <= budget or len(pack.rows) == 1


@given(counts, budgets)
def test_packs_are_those_of_textbook_first_fit_decreasing(token_counts, budget):
    bins = []
    for row in sorted(range(len(token_counts)), key=lambda row: -token_counts[row]):
        fitting = (open_bin for open_bin in bins if open_bin[0] + token_counts[row] <= budget)
        chosen = next(fitting, None) or bins.append([0, []]) or bins[-1]
        chosen[0] += token_counts[row]
        chosen[1].append(row)
    assert [pack.rows for pack in plan_packs(token_counts, budget)] == [rows for _, rows in bins]


@given(counts, budgets)
def test_efficiency_is_real_tokens_over_the_true_budget(token_counts, budget):
    packs = plan_packs(token_counts, budget)
    offered = sum(max(budget, pack.tokens) for pack in packs)
    assert packing_efficiency(packs, budget) == (pytest.approx(sum(token_counts) / offered) if token_counts else 1.0)


@pytest.mark.parametrize(
    "lengths", [fragments(150), fragments(300), fragments(500), proteome_lengths(), log_normal()], ids=["150", "300", "500", "ecoli", "lognormal"]
)
@pytest.mark.parametrize("budget", [4096, 16384])
def test_packs_are_98_per_cent_full_when_there_are_ten_or_more(lengths, budget):
    lengths = [min(length, 1022) for length in lengths] * (1 + 11 * budget // sum(lengths))
    for rows in (len(lengths), 19 * len(lengths) // 20):  # more and less than whole packs
        token_counts = [length + 2 for length in lengths[:rows]]
        true_budget = balanced_budget(token_counts, budget)
        packs = plan_packs(token_counts, true_budget)
        assert len(packs) >= 10
        assert true_budget <= budget
        assert packing_efficiency(packs, true_budget) >= 0.98


@given(counts, budgets)
def test_balancing_never_costs_a_pack_nor_exceeds_the_budget(token_counts, budget):
    balanced = balanced_budget(token_counts, budget)
    assert balanced <= budget
    assert len(plan_packs(token_counts, balanced)) == len(plan_packs(token_counts, budget))


def test_the_longest_rows_come_first_so_that_memory_runs_out_early_or_never():
    packs = plan_packs([5, 900, 30, 700, 2], 1000)
    assert [pack.rows for pack in packs] == [[1, 2, 0, 4], [3]]


def test_a_budget_below_one_is_our_mistake():
    with pytest.raises(ValueError, match="max_tokens"):
        plan_packs([1], 0)
