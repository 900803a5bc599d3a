"""Drawn FASTA files and command lines for the real scripts: `make fuzz MINUTES=10`; test_fuzz.py takes a few.

A file is put together from pieces that mean something to a FASTA reader, or is any bytes, plain or compressed, whole or damaged.
Whatever it is: all its records come out as they are, or one of our errors says why not. A traceback is a find.
"""

import argparse
import bz2
import gzip
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import zstandard
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from protembed.fasta import open_text
from protembed.proteins import digest_of, read_fasta, substitute_foreign
from protembed.records import NOTHING, read_records
from tests.conftest import run_inside

FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None  # an example is some thirty fsyncs
PIECES = [">", ">a", ">a\n", "\n", "\n\n", "\r\n", "\r", " ", "\t", "MKV", "mkvl\n", "AC*\n", "*", "J", "<mask>", "<pad>\n", ">b c d\n", "\n>", "-.", "\0", "é"]
PIECES += ["\ufeff", ">x|y/z\t1\n", "\u2028", "\x1c", "\x85", "\xa0", "中", ">a_2\n", "MKV\n>a\nMKV\n", "W" * 70 + "\n", ">" + "i" * 300 + "\n", "ß", ";", "1"]
RECORDS = st.lists(st.tuples(st.sampled_from("abcde"), st.text("ACDEFGHIKLMNPQRSTVWYXBUZO", min_size=1, max_size=9)), min_size=1, max_size=40)
WELL_FORMED = RECORDS.map(lambda records: "".join(f">{name}{number % 30}\n{sequence}\n" for number, (name, sequence) in enumerate(records)))
ANY = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
ODD = st.one_of(ANY, ANY.map(">s\nM{}".format), st.tuples(WELL_FORMED, ANY).map("".join))
PACKERS = [bytes, gzip.compress, bz2.compress, zstandard.compress]


@st.composite
def contents(draw):
    """Bytes of a file. Three in five are good: a run ends well when all of its files are."""
    if draw(st.integers(0, 15)):
        text = draw(WELL_FORMED if draw(st.sampled_from([True, True, True, False, False])) else ODD)
        plain = text.encode(draw(st.sampled_from(["utf-8", "utf-8", "latin-1"])), "ignore")
    else:
        plain = draw(st.binary(max_size=60))
    packed = draw(st.sampled_from(PACKERS))(plain)
    if packed and draw(st.integers(0, 7)) == 7:  # not 0, which is drawn oftener
        place = draw(st.integers(0, len(packed) - 1))
        packed = draw(
            st.sampled_from([packed[:place], packed[:place] + bytes([packed[place] ^ 1 << place % 8]) + packed[place + 1 :], packed + packed[:place]])
        )
    return packed


OPTIONS = st.fixed_dictionaries(
    {
        "--invalid-residues": st.sampled_from(["skip", "skip", "substitute", "error"]),
        "--duplicate-ids": st.sampled_from(["rename", "rename", "error"]),
        "--chunk-residues": st.integers(0, 60),
        "--sample": st.integers(0, 4),
        "--longest-allowed": st.sampled_from([0, 0, 5]),
        "--max-residues": st.integers(0, 9),
    }
)
WORDS = st.one_of(
    st.text(max_size=6), st.integers().map(str), st.sampled_from(["error", "skip", "nan", "-1", "1e9", "esm2_t6_8M_UR50D", "random:", "x,y", "cuda", "--", "/"])
)
NAMES = [
    "chunk-residues",
    "model",
    "model-bytes",
    "device",
    "max-residues",
    "residue-vectors",
    "invalid-residues",
    "duplicate-ids",
    "sample",
    "samples",
    "longest-allowed",
]
ARGUMENTS = st.lists(st.tuples(st.sampled_from([f"--{name}" for name in [*NAMES, "no-such-option", "s"]]), WORDS).map("{0[0]}={0[1]}".format), max_size=4)


def plainly_read(path):
    """(id, sequence) of all records, as simply as can be. Biopython's own records cannot hold letters beyond ASCII; test_odd_inputs.py compares with them."""
    records = []
    for line in open_text(path).read().split("\n"):
        if line.startswith(">"):
            records.append([(line[1:].split(None, 1) or [""])[0], ""])
        elif records:
            records[-1][1] += line
    return [(name, "".join(map(ascii_upper, residues)).removesuffix("*")) for name, residues in records]


def ascii_upper(letter):
    """Of one letter; nothing of white space."""
    return "" if letter.isspace() else letter.upper() if letter.isascii() else letter


def check_fasta(files, options, tally=None):
    """Split drawn files; every record must come out as it is, or the exit code must be 65 with a line."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        folder = Path(name)
        paths = [folder / f"{number}.fasta" for number in range(len(files))]
        for path, content in zip(paths, files):
            path.write_bytes(content)
        done = run_inside("split_fasta.py", *paths, "--outdir", folder / "out", *sum(options.items(), ()), check=False)
        (Counter() if tally is None else tally)[done.returncode] += 1
        if done.returncode:
            assert done.returncode == 65 and done.stderr.strip() and not (folder / "out" / "records.tsv").exists()
            return
        chunks = {path.stem: [record.sequence for record in read_fasta(path)] for path in (folder / "out" / "chunks").iterdir()}
        rows = list(read_records(folder / "out" / "records.tsv"))
        whole = [record for path in paths for record in plainly_read(path)]
        assert len(rows) == len(whole) and len({row.id for row in rows}) == len(rows)
        for row, (name, sequence) in zip(rows, whole):
            assert row.id == name or (options["--duplicate-ids"] == "rename" and row.id.startswith(f"{name}_"))
            assert row.residues == len(sequence)
            if row.sha256 == NOTHING:
                assert options["--invalid-residues"] == "skip" and row.note and row.chunk == NOTHING
            else:
                assert chunks[row.chunk][row.row] == substitute_foreign(sequence) and row.sha256 == digest_of(substitute_foreign(sequence)).hex()


def check_options(arguments, tally=None):
    """Any command line ends with 0 or a code of the contract."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        (Path(name) / "in.fasta").write_text(">a\nMKV\n>b\nMKVL\n")
        done = run_inside("split_fasta.py", Path(name) / "in.fasta", f"--outdir={name}", *arguments, check=False)
        (Counter() if tally is None else tally)[done.returncode] += 1
        assert done.returncode in (0, 65, 78), done.stderr


CHECKS = {
    "FASTA files": (check_fasta, dict(files=st.lists(contents(), min_size=1, max_size=3), options=OPTIONS)),
    "command lines": (check_options, dict(arguments=ARGUMENTS)),
}


def drawn(check, strategies, examples, number, tally=None):
    """Run a check on so many examples, drawn from a seed."""
    quiet = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    seed(number)(quiet(given(**strategies)(lambda **example: check(**example, tally=tally))))()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    end, number, tallies = time.monotonic() + 60 * arguments.minutes, arguments.seed, {name: Counter() for name in CHECKS}
    while time.monotonic() < end:
        for name, (check, strategies) in CHECKS.items():
            drawn(check, strategies, 100, number, tallies[name])
        number += 1
    for name, tally in tallies.items():
        print(f"{sum(tally.values())} {name}, no traceback, no record lost; exit codes: {dict(sorted(tally.items()))}")


if __name__ == "__main__":
    sys.exit(main())
