"""FASTA in, canonical sequences and their digests out. Knows nothing of models, chunks or HDF5.

Canonical: white space removed, upper case, one trailing `*` (stop codon) stripped. Two records are the same protein when
the SHA-256 of their canonical sequences is equal.
"""

import bz2
import gzip
import hashlib
import re
import zlib
from itertools import chain
from pathlib import Path
from typing import IO, Iterator, List, NamedTuple

import zstandard
from Bio.SeqIO.FastaIO import SimpleFastaParser

from protembed.errors import BadInput

# fair-esm's alphabet without its special tokens: 20 amino acids, X B U Z O, and the gap signs `.` and `-`.
ALPHABET = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
_FOREIGN_LETTER = re.compile(f"[^{re.escape(ALPHABET)}]")


class Record(NamedTuple):
    """One FASTA entry."""

    id: str  # the header up to the first white space
    sequence: str  # canonical; letters outside ALPHABET are still in it
    source: str  # "file:line" of the header


def canonical(residues: str) -> str:
    """Upper case, without white space, one trailing `*` stripped."""
    residues = "".join(residues.split()).upper()
    return residues[:-1] if residues.endswith("*") else residues


def foreign_letters(sequence: str) -> List[str]:
    """The letters of a canonical sequence that fair-esm's alphabet does not have, sorted, each once."""
    return sorted(set(_FOREIGN_LETTER.findall(sequence)))


def substitute_foreign(sequence: str) -> str:
    """The sequence with `X` for every letter outside the alphabet."""
    return _FOREIGN_LETTER.sub("X", sequence)


def digest_of(sequence: str) -> bytes:
    """SHA-256 (32 bytes) of a canonical sequence."""
    return hashlib.sha256(sequence.encode()).digest()


def read_fasta(path: Path) -> Iterator[Record]:
    """Stream the records of a FASTA file, plain or .gz, .bz2, .zst.

    BadInput when the file is missing, empty, cut off, not text, or has text before its first `>`.
    """
    lines = _CountedLines(Path(path))
    first_header = lines.skip_to_first_header()
    header_line = lines.number
    for title, residues in SimpleFastaParser(chain([first_header], lines.stream)):
        words = title.split(None, 1)
        yield Record(words[0] if words else "", canonical(residues), f"{lines.name}:{header_line}")
        header_line = lines.number  # the parser has just read the next record's header


def open_text(path: Path) -> IO[str]:
    """Open a text file for reading, decompressing by the ending of its name; any line ending counts as one."""
    text = {"mode": "rt", "encoding": "utf-8", "errors": "surrogateescape"}
    if path.suffix == ".gz":
        return gzip.open(path, **text)
    if path.suffix == ".bz2":
        return bz2.open(path, **text)
    if path.suffix == ".zst":
        return zstandard.open(path, **text)
    return open(path, **text)


class _CountedLines:
    """The lines of a file, with the number of the last one read; turns every reading fault into BadInput."""

    def __init__(self, path: Path):
        self.name = path.name
        self.number = 0
        self.stream = self._read(path)

    def skip_to_first_header(self) -> str:
        """Read up to the first header and return it; nothing but blank lines may precede it."""
        for line in self.stream:
            if line.startswith(">"):
                return line
            if line.strip():
                raise BadInput(f"{self.name}:{self.number}: expected a header that starts with '>', found {line.strip()[:40]!r}; is this a protein FASTA file?")
        raise BadInput(f"{self.name}: no records; the file is empty")

    def _read(self, path: Path) -> Iterator[str]:
        try:
            with open_text(path) as handle:
                for self.number, line in enumerate(handle, 1):
                    yield line
        except FileNotFoundError:
            raise BadInput(f"{self.name}: no such file") from None
        except (EOFError, zlib.error, zstandard.ZstdError) as error:
            raise BadInput(f"{self.name}: compressed file ends early after line {self.number} ({error}); copy it again") from error
        except OSError as error:  # gzip.BadGzipFile is one
            raise BadInput(f"{self.name}: cannot be read after line {self.number}: {error}") from error
