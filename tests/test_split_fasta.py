import bz2
import gzip
import json
import random
import shutil

import pytest
import zstandard

from protembed.fasta import header_lines
from protembed.layout import Flag
from protembed.proteins import digest_of, read_fasta
from protembed.records import read_records
from tests.conftest import DEMO_FASTA, draw_lengths, make_proteins, run_inside, run_script, write_fasta


def split(tmp_path, fasta, *arguments, check=True):
    return run_inside("split_fasta.py", fasta, "--outdir", tmp_path / "out", *arguments, check=check)


def chunks_of(tmp_path):
    return {path.stem: [record.sequence for record in read_fasta(path)] for path in (tmp_path / "out" / "chunks").iterdir()}


def records_of(tmp_path):
    return list(read_records(tmp_path / "out" / "records.tsv"))


def test_every_record_leads_to_its_own_sequence_in_input_order(tmp_path):
    split(tmp_path, DEMO_FASTA, "--chunk-residues", 20000)
    chunks, given = chunks_of(tmp_path), list(read_fasta(DEMO_FASTA))
    assert len(chunks) > 3
    assert [row.id for row in records_of(tmp_path)] == [record.id for record in given]
    for row, record in zip(records_of(tmp_path), given):
        assert chunks[row.chunk][row.row] == record.sequence
        assert row.sha256 == digest_of(record.sequence).hex()
        assert row.residues == len(record.sequence)


def test_a_sequence_that_occurs_again_is_written_once_and_flagged(tmp_path):
    first, second = make_proteins([40, 50])
    split(tmp_path, write_fasta(tmp_path / "in.fasta", [first, second, first.lower() + "*"]))
    assert sorted(sum(chunks_of(tmp_path).values(), [])) == sorted([first, second])
    rows = records_of(tmp_path)
    assert [row.flags for row in rows] == [Flag(0), Flag(0), Flag.DUPLICATE]
    assert (rows[2].chunk, rows[2].row) == (rows[0].chunk, rows[0].row)
    assert rows[2].note == "same sequence as protein0"


def test_appended_records_change_the_last_chunks_and_an_inserted_block_its_neighbours(tmp_path):
    """1 % each; tests/test_resume.py counts the tasks that Nextflow runs again."""
    given, new = make_proteins(draw_lengths(1000, 50, 500)), make_proteins([200] * 10, seed=2)

    def chunks(sequences):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        split(tmp_path, write_fasta(tmp_path / "a.fasta", sequences), "--chunk-residues", 5000)
        return list(dict.fromkeys(row.chunk for row in records_of(tmp_path)))

    before, appended, inserted = chunks(given), chunks([*given, *new]), chunks([*given[:500], *new, *given[500:]])
    assert len(before) > 40
    assert appended[: len(before) - 1] == before[:-1] and len(appended) <= len(before) + 2
    changed = [place for place, name in enumerate(inserted) if name not in before]
    assert 1 <= len(changed) <= 3 and changed == list(range(changed[0], changed[-1] + 1))
    assert inserted[: changed[0]] == before[: changed[0]] and inserted[changed[-1] + 1 :] == before[len(before) - len(inserted) + changed[-1] + 1 :]


def test_chunks_stay_between_half_and_twice_of_what_was_asked_for(tmp_path):
    given = make_proteins(draw_lengths(500, 20, 300))
    split(tmp_path, write_fasta(tmp_path / "a.fasta", given), "--chunk-residues", 4000)
    sizes = [sum(map(len, sequences)) for sequences in chunks_of(tmp_path).values()]
    assert max(sizes) <= 8000
    assert sorted(sizes)[1] >= 2000  # only the last chunk may be smaller


def test_a_chunk_is_named_by_its_content_not_by_ids_or_files(tmp_path):
    given = make_proteins([60, 70, 80])
    split(tmp_path, write_fasta(tmp_path / "a.fasta", given, prefix="left"))
    names = set(chunks_of(tmp_path))
    split(tmp_path, write_fasta(tmp_path / "b.fa", given, prefix="right"))
    assert set(chunks_of(tmp_path)) == names


@pytest.mark.parametrize("suffix, pack", [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".zst", zstandard.compress)])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_compressed_files_and_any_line_ending_read_alike(tmp_path, suffix, pack, ending):
    text = "\n>one|x a b\nMKV\nLLA*\n\n>two/y\tz\nac de\n"
    path = tmp_path / f"in.fasta{suffix}"
    path.write_bytes(pack(text.replace("\n", ending).encode()))
    assert list(read_fasta(path)) == [("one|x", "MKVLLA"), ("two/y", "ACDE")]
    assert header_lines(path, [0, 1]) == {0: 2, 1: 6}


def test_several_files_are_read_in_the_order_given(tmp_path):
    one, two = write_fasta(tmp_path / "z.fasta", make_proteins([30]), "first"), write_fasta(tmp_path / "a.fasta", make_proteins([31]), "second")
    run_script("split_fasta.py", one, two, "--outdir", tmp_path / "out")
    assert [row.id for row in records_of(tmp_path)] == ["first0", "second0"]


TRUNCATED_GZ = gzip.compress(b">a\n" + bytes(random.Random(0).choices(b"ACDEFGHIKLMNPQRSTVWY", k=20000)))[:5000]


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "in.fasta: no records; the file is empty"),
        (b"\n\n", "in.fasta: no records; the file is empty"),
        (b"MKV\n>a\nMK\n", "in.fasta:1: expected a header that starts with '>', found 'MKV'"),
        (b">a\n>b\nMK\n", "in.fasta:1 a has no residues"),
        (b">a\nMK\n>b\n\n", "in.fasta:3 b has no residues"),
        (b">a\n*\n", "in.fasta:1 a has no residues"),
        (b">a\nMK\n>b\nMK\n>a\nMV\n", "in.fasta:5 a occurs more than once"),
        (b">a\nMJK\n", "in.fasta:1 a has letters outside the alphabet: J"),
        (b">a\nM1*K\n", "in.fasta:1 a has letters outside the alphabet: * 1"),
        (b">a\nM<mask>K\n", "in.fasta:1 a has letters outside the alphabet: < >"),
        (b">\nMK\n", "in.fasta:1 (no id) has a header without an id"),
        (b">a\xff\nMK\n", "has an id that is not printable UTF-8"),
        (b">a\nM\xc3\xa9K\n", "letters outside the alphabet"),
        (TRUNCATED_GZ, "in.fasta.gz: compressed file ends early"),
        (b"\x1f\x8bnonsense", "in.fasta.gz: "),
    ],
)
def test_bad_input_is_exit_65_with_one_line_per_offender(tmp_path, content, says):
    path = tmp_path / ("in.fasta.gz" if content[:2] == b"\x1f\x8b" else "in.fasta")
    path.write_bytes(content)
    done = split(tmp_path, path, check=False)
    assert done.returncode == 65
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "records.tsv").exists()


def test_a_missing_file_is_exit_65(tmp_path):
    done = split(tmp_path, tmp_path / "nowhere.fasta", check=False)
    assert (done.returncode, "nowhere.fasta: no such file" in done.stderr) == (65, True)


def test_the_first_twenty_offenders_are_listed_and_all_are_counted(tmp_path):
    done = split(tmp_path, write_fasta(tmp_path / "in.fasta", ["MJ"] * 33), check=False)
    assert done.returncode == 65
    assert done.stderr.count("letters outside the alphabet") == 20
    assert "33 faults" in done.stderr and "and 13 more" in done.stderr


def test_policies_substitute_skip_and_rename_are_recorded_per_record(tmp_path):
    path = tmp_path / "in.fasta"
    path.write_text(">a\nMKJV\n>a_2\nMKV\n>a_2\nMV\n>a\nMJ\n")
    split(tmp_path, path, "--invalid-residues", "substitute", "--duplicate-ids", "rename")
    rows = records_of(tmp_path)
    assert [row.id for row in rows] == ["a", "a_2", "a_2_2", "a_3"]
    assert [row.note for row in rows] == ["X in place of J", "", "given as a_2", "X in place of J; given as a"]
    assert rows[0].flags == Flag.SUBSTITUTED
    assert "MKXV" in sum(chunks_of(tmp_path).values(), [])
    split(tmp_path, path, "--invalid-residues", "skip", "--duplicate-ids", "rename")
    row = records_of(tmp_path)[0]
    assert (row.chunk, row.row, row.note) == ("-", -1, "letters outside the alphabet: J")
    assert json.loads((tmp_path / "out" / "split.json").read_text())["skipped"] == 2


def test_no_record_loses_its_own_id_to_one_that_was_renamed(tmp_path):
    path = tmp_path / "in.fasta"
    path.write_text(">a\nMKV\n>a\nMKL\n>a_2\nMV\n")
    done = split(tmp_path, path, "--duplicate-ids", "rename", check=False)
    assert done.returncode == 65 and "in.fasta:5 a_2 has the id that --duplicate_ids rename gave to a record before it; rename one of them" in done.stderr


def test_a_long_record_is_an_offender_only_when_asked(tmp_path):
    path = write_fasta(tmp_path / "in.fasta", make_proteins([50, 60]))
    split(tmp_path, path)
    done = split(tmp_path, path, "--longest-allowed", 55, check=False)
    assert (done.returncode, "protein1 has 60 residues, more than 55" in done.stderr) == (65, True)
