"""A few hundred of what `make fuzz` draws for minutes."""

from collections import Counter

import pytest

from tests.fuzz import CHECKS, drawn


@pytest.mark.parametrize("what", CHECKS)
def test_nothing_drawn_ends_in_a_traceback_or_loses_a_record(what, say):
    tally = Counter()
    drawn(*CHECKS[what], 150, 0, tally)
    assert tally[0] > 10 and sum(tally.values()) - tally[0] > 10, "the draw is one-sided"
    say(dict(tally))
