import pytest

from protembed.errors import Incomplete
from protembed.layout import Flag
from protembed.ledger import Outcome, count
from protembed.records import RecordRow


@pytest.mark.parametrize("status, on_failure, complete", [("failed", "skip", True), ("skipped", "error", True), ("failed", "error", False)])
@pytest.mark.parametrize("neighbour", ["embedded", "kept", "lost"])
def test_only_what_a_policy_leaves_out_may_be_without_a_vector(status, on_failure, complete, neighbour):
    record = RecordRow("a", 3, "-", "chunk", 0, Flag(0), "")
    outcomes = [Outcome(record, "embedded", Flag(0), ""), Outcome(record, status, Flag(0), "why"), Outcome(record, neighbour, Flag(0), "gone")]
    if complete and (neighbour == "embedded" or (neighbour, on_failure) == ("kept", "error")):
        assert count(outcomes, on_failure).counts["records"] == 3
    else:
        with pytest.raises(Incomplete, match="of 3 records have no vector"):
            count(outcomes, on_failure)
