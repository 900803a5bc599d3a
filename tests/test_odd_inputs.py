"""FASTA as it comes: what Biopython makes of it is what we make of it, and nothing is lost at any cut or in any container."""

import bz2
import gzip
import io

import numpy as np
import pytest
import zstandard
from Bio import SeqIO
from hypothesis import given
from hypothesis import strategies as st

from protembed.errors import BadInput
from protembed.fasta import BLOCK_RECORDS, read_blocks
from protembed.first_seen import FirstSeen
from protembed.proteins import digest_of, read_fasta
from protembed.records import read_records
from tests.conftest import make_proteins, run_inside, write_fasta

ODD = {
    "wrapped": ">a x\nMKV\nLLA\n>b\nAC\nDE\n",
    "blank lines everywhere": "\n\n>a\n\nMKV\n\nLLA\n\n\n>b\nACDE\n\n",
    "no newline at the end": ">a\nMKV\n>b\nACDE",
    "white space in lines": ">a\nM K V\t\n  LLA \n>b\n\tAC DE\n",
    "lower case and stops": ">a\nmkv*\n>b\nACde*\n>c\nMKV\n*\n",
    "long and odd ids": f">{'x' * 300}|/y\tz\nMKV\n>tr|Q9|é{'ü' * 9}_中文 b\nACDE\n>> c\nMM\n>#;,'\"%s\\\nMV\n",
    "a header's spaces": ">  a b\nMKV\n>b \t c\nACDE\n",
    "gaps": ">a\nM-K.V\n>b\n-\n",
}
ENDINGS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["no mark", "byte order mark"])
@pytest.mark.parametrize("what", ODD)
def test_records_are_those_of_bio_seqio(tmp_path, what, start, ending):
    path = tmp_path / "in.fasta"
    path.write_bytes((start + ODD[what]).replace("\n", ENDINGS[ending]).encode())
    expected = [(record.id, "".join(str(record.seq).split()).upper().removesuffix("*")) for record in SeqIO.parse(io.StringIO(ODD[what].lstrip()), "fasta")]
    assert len(expected) == ODD[what].count("\n>") + ODD[what].startswith(">")
    assert list(read_fasta(path)) == expected
    run_inside("split_fasta.py", path, "--outdir", tmp_path / "out")
    assert [(row.id, row.sha256) for row in read_records(tmp_path / "out" / "records.tsv")] == [(name, digest_of(text).hex()) for name, text in expected]


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstandard.compress}


@pytest.mark.parametrize("packer", PACKERS)
def test_all_members_of_a_file_are_read_whatever_its_name(tmp_path, packer):
    path = tmp_path / "misnamed.fasta"
    path.write_bytes(b"".join(PACKERS[packer](text.encode()) for text in (">a\nMK", "V\n>b\n", "", "AC\n")))
    assert list(read_fasta(path)) == [("a", "MKV"), ("b", "AC")]
    path = tmp_path / f"plain.{packer}"
    path.write_text(">a\nMKV\n")
    assert list(read_fasta(path)) == [("a", "MKV")]


@pytest.mark.parametrize("packer", PACKERS)
def test_a_compressed_file_cut_anywhere_is_refused(tmp_path, packer):
    whole = PACKERS[packer]("".join(f">{number}\n{sequence}\n" for number, sequence in enumerate(make_proteins([40] * 9))).encode())
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(BadInput, match="ends early|cannot be read|no records|expected a header"):
            list(read_blocks(tmp_path / "cut"))


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("tail", ["a line end", "plain text", "another compression", 0, 1, 2, 3])
def test_what_follows_a_compressed_part_and_is_damaged_or_none_is_refused_and_no_record_lost_in_silence(tmp_path, packer, tail):
    """A number: a bit is flipped in this byte of the second part."""
    part, second = (bytearray(PACKERS[packer](text)) for text in (b">a\nMKV\n", b">b\nACDE\n"))
    if isinstance(tail, int):
        second[tail] ^= 1 << tail % 8
    tails = {"a line end": b"\n", "plain text": b">b\nACDE\n", "another compression": PACKERS["gz" if packer != "gz" else "bz2"](b">b\nACDE\n")}
    (tmp_path / "in.fasta").write_bytes(part + tails.get(tail, second))
    try:
        assert list(read_fasta(tmp_path / "in.fasta")) == [("a", "MKV"), ("b", "ACDE")] and tail == 3  # a level or a name may be another
    except BadInput as error:
        assert "ends early" in str(error) or "cannot be read" in str(error)


@pytest.mark.parametrize("policy", ["error", "substitute", "skip"])
@pytest.mark.parametrize("word", ["<mask>", "<pad>", "<cls>", "<eos>", "<unk>"])
def test_a_token_written_into_a_sequence_is_never_taken_for_one(tmp_path, word, policy):
    (tmp_path / "in.fasta").write_text(f">a\nMKV\n>b\nMK{word}V\n")
    done = run_inside("split_fasta.py", tmp_path / "in.fasta", "--outdir", tmp_path, "--invalid-residues", policy, check=False)
    assert done.returncode == (0 if policy == "skip" else 65)
    if policy == "skip":
        assert [row.row for row in read_records(tmp_path / "records.tsv")] == [0, -1]
    else:
        assert "in.fasta:3 b has " in done.stderr and "<" in done.stderr


@pytest.mark.parametrize("policy", ["error", "substitute", "skip"])
@pytest.mark.parametrize("content", [">a\nMKV>b x\nACDE\n", ">a\nMKV\n >b\nACDE\n", ">a\nMK<AC>b\nACDE\n"], ids=["no line end", "indented", "bracket before"])
def test_a_header_within_a_sequence_is_refused_and_never_made_a_part_of_the_record_before_it(tmp_path, content, policy):
    (tmp_path / "in.fasta").write_text(">first\nMK\n" + content)
    done = run_inside("split_fasta.py", tmp_path / "in.fasta", "--outdir", tmp_path, "--invalid-residues", policy, check=False)
    assert done.returncode == 65 and "in.fasta:3 a has a '>' within its sequence: is a line end missing before the next header?" in done.stderr


@pytest.mark.parametrize(
    "content, says", [(b">caf\xe9\nMK\n", "has an id that is not printable UTF-8"), (b">a\nM\xe9K\n", "letters outside the alphabet: \\udce9")]
)
def test_bytes_of_latin_1_are_one_clear_line(tmp_path, content, says):
    (tmp_path / "in.fasta").write_bytes(content)
    done = run_inside("split_fasta.py", tmp_path / "in.fasta", "--outdir", tmp_path, check=False)
    assert done.returncode == 65 and says in done.stderr and "in.fasta:1 " in done.stderr


@pytest.mark.parametrize("policy", ["error", "substitute", "skip"])
def test_the_words_of_a_comment_line_never_become_residues(tmp_path, policy):
    (tmp_path / "in.fasta").write_text(">a\nMKV\n; reviewed by hand\nACDE\n>b\nMK\n")
    done = run_inside("split_fasta.py", tmp_path / "in.fasta", "--outdir", tmp_path, "--invalid-residues", policy, check=False)
    assert done.returncode == (0 if policy == "skip" else 65)
    if policy == "skip":
        assert [row.row for row in read_records(tmp_path / "records.tsv")] == [-1, 0]
    else:
        assert "in.fasta:1 a has " in done.stderr and ";" in done.stderr


@pytest.mark.parametrize("letter", "ßıſéﬁ")
def test_a_letter_beyond_ascii_is_no_residue_though_its_upper_case_is_one(tmp_path, letter):
    (tmp_path / "in.fasta").write_text(f">a\nmk{letter}v\n")
    done = run_inside("split_fasta.py", tmp_path / "in.fasta", "--outdir", tmp_path, check=False)
    assert done.returncode == 65 and f"in.fasta:1 a has letters outside the alphabet: {letter};" in done.stderr
    run_inside("split_fasta.py", tmp_path / "in.fasta", "--outdir", tmp_path, "--invalid-residues", "substitute")
    (row,) = read_records(tmp_path / "records.tsv")
    assert (row.residues, row.sha256, row.note) == (4, digest_of("MKXV").hex(), f"X in place of {letter}")


def test_what_is_wrong_far_into_a_file_has_its_line_and_what_is_equal_its_first_record(tmp_path):
    """Beyond several blocks of the reader."""
    sequences = make_proteins([21] * (3 * BLOCK_RECORDS))
    sequences[-1] = sequences[5]
    fasta = write_fasta(tmp_path / "in.fasta", sequences)
    run_inside("split_fasta.py", fasta, "--outdir", tmp_path / "out", "--chunk-residues", 3000)
    rows = list(read_records(tmp_path / "out" / "records.tsv"))
    assert (rows[-1].chunk, rows[-1].row, rows[-1].note) == (rows[5].chunk, rows[5].row, "same sequence as protein5")
    assert len({(row.chunk, row.row) for row in rows}) == len(rows) - 1
    with open(fasta, "a") as handle:
        handle.write(">protein7\nMJ\n")
    done = run_inside("split_fasta.py", fasta, "--outdir", tmp_path / "bad", check=False)
    line = 2 * len(sequences) + 1
    assert f"in.fasta:{line} protein7 occurs more than once" in done.stderr and f"in.fasta:{line} protein7 has letters outside" in done.stderr


@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=8))
def test_the_table_of_keys_is_a_dictionary(blocks):
    """Few different keys, all in neighbouring slots."""
    table, first = FirstSeen(), {}
    for block in blocks:
        numbers = range(len(table), len(table) + len(block))
        expected = [first.setdefault(key, number) for number, key in zip(numbers, block)]
        assert table.add(np.array([[key % 5, key] for key in block], np.uint64).reshape(-1, 2)).tolist() == expected


def test_the_table_of_keys_grows_without_forgetting():
    keys = np.random.default_rng(0).integers(0, 1 << 63, (600_000, 2), np.uint64)
    keys[1::2] = keys[::2][np.random.default_rng(1).permutation(300_000)]
    table, first = FirstSeen(), {}
    found = np.concatenate([table.add(part) for part in np.array_split(keys, 100)])
    assert found.tolist() == [first.setdefault(key, number) for number, key in enumerate(map(bytes, keys))]


def test_a_zst_whose_window_is_too_large_is_no_file_that_ends_early_but_one_to_unpack_first(tmp_path):
    packing = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=28, strategy=1)).compressobj()
    (tmp_path / "in.fasta.zst").write_bytes(packing.compress(b">a\nMKV\n") + packing.flush())
    with pytest.raises(BadInput, match="in.fasta.zst: packed with .* more than 128 MiB .*; unpack it first: zstd -d --long=31 in.fasta.zst"):
        list(read_blocks(tmp_path / "in.fasta.zst"))


@pytest.mark.parametrize("packer", PACKERS)
def test_a_byte_order_mark_may_be_cut_by_the_parts_of_a_compressed_file(tmp_path, packer):
    text = b"\xef\xbb\xbf>a\nMKV\n"
    (tmp_path / "parts").write_bytes(PACKERS[packer](text[:1]) + PACKERS[packer](text[1:]))
    assert list(read_blocks(tmp_path / "parts")) == [(["a"], ["MKV"])]
