import numpy as np
import pytest

from protembed.errors import BadInput, Incomplete
from protembed.ledger import FAILED_HEADER, HEADER, Outcomes, count, read_ledger
from protembed.records import RecordColumns


def outcomes_of(*statuses):
    """Records a, b, c, ... of three residues that came out so."""
    many, found = len(statuses), np.array([status == "embedded" for status in statuses])
    records = RecordColumns(list("abcdefgh"[:many]), [3] * many, ["-"] * many, ["chunk"] * many, list(range(many)), [0] * many, [""] * many, ["s"] * many)
    reasons = ["" if status == "embedded" else f"why {status}" for status in statuses]
    return Outcomes(
        records, records.digests(), list(statuses), np.zeros(many, np.uint8), reasons, 3 * found.astype(np.int64), found, *np.zeros((2, many), np.int64)
    )


@pytest.mark.parametrize("status, on_failure, complete", [("failed", "skip", True), ("skipped", "error", True), ("failed", "error", False)])
@pytest.mark.parametrize("neighbour", ["embedded", "kept", "lost"])
def test_only_what_a_policy_leaves_out_may_be_without_a_vector(status, on_failure, complete, neighbour):
    outcomes = [outcomes_of("embedded", status), outcomes_of(neighbour)]
    if complete and (neighbour == "embedded" or (neighbour, on_failure) == ("kept", "error")):
        assert count(outcomes, on_failure)[0].counts["records"] == 3
    else:
        with pytest.raises(Incomplete, match="of 3 records have no vector"):
            count(outcomes, on_failure)


def test_a_line_of_the_ledger_has_the_columns_of_its_header_and_rows_count_those_with_a_vector():
    some = outcomes_of("embedded", "failed", "embedded")
    lines = [dict(zip(HEADER.split(), line.split("\t"))) for line in some.lines(7).splitlines()]
    assert [(line["id"], line["status"], line["row"], line["reason"]) for line in lines] == [
        ("a", "embedded", "7", ""),
        ("b", "skipped", "-", "why failed"),
        ("c", "embedded", "8", ""),
    ]
    (failed,) = some.failed_lines().splitlines()
    assert dict(zip(FAILED_HEADER.split(), failed.split("\t"))) == {"id": "b", "sample": "s", "status": "failed", "residues": "3", "reason": "why failed"}


def test_a_ledger_that_is_torn_changed_or_not_there_is_named_with_its_line(result, tmp_path):
    path, whole = tmp_path / "ledger.tsv", (result.parent / "ledger.tsv").read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    bad = {whole[:keep]: "ledger.tsv:17: " for keep in range(last + 1, len(whole))}
    bad |= {whole[:keep]: "is not a ledger.tsv of this version" for keep in (0, 30)}
    bad |= {whole.replace(b"\t3\t", b"\tx\t", 1): "ledger.tsv:5: ", whole[:-1] + b"\tmore\n": "ledger.tsv:17: "}
    bad |= {whole[:-2] + b"\xff" + whole[-2:]: "ledger.tsv is damaged somewhere after line [0-9]+: it is not UTF-8"}
    for content, says in bad.items():
        path.write_bytes(content)
        with pytest.raises(BadInput, match=says):
            list(read_ledger(path))
    with pytest.raises(BadInput, match="nothing.tsv: no such file"):
        list(read_ledger(tmp_path / "nothing.tsv"))
