from itertools import product

import numpy as np
import pytest

from protembed import records
from protembed.errors import BadInput, Incomplete
from protembed.ledger import FAILED_HEADER, HEADER, Outcomes, count, read_ledger
from protembed.records import NOTHING, RecordColumns, RecordRow, count_records, read_records, table_of


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
        assert count(outcomes, on_failure).counts["records"] == 3
    else:
        with pytest.raises(Incomplete, match="of 3 records have no vector"):
            count(outcomes, on_failure)


@pytest.mark.parametrize("sample", ["", "-1", "liver"])
def test_records_are_counted_by_their_bytes_as_by_their_fields(tmp_path, monkeypatch, sample):
    """Where dashes stand that mean nothing."""
    monkeypatch.setattr(records, "BLOCK_BYTES", 100)
    rows = [
        RecordRow(name, 3, digest, chunk, row, flags, note, sample if number % 2 else "")
        for number, (name, note, flags) in enumerate(product(["-", "-1", "a"], ["", "-", "-1", "letters: -"], [0, 1]))
        for digest, chunk, row in [("ab" * 32, "chunk_1", 7), (NOTHING, NOTHING, -1)][: 1 + number % 2]
    ]
    (tmp_path / "records.tsv").write_text(table_of(zip(*map(list, zip(*rows)))))
    assert list(read_records(tmp_path / "records.tsv")) == rows
    left_out = sum(row.chunk == NOTHING for row in rows)
    assert count_records(tmp_path / "records.tsv") == (len(rows), left_out, bool(sample)) and 0 < left_out < len(rows)


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
