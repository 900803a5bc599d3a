"""FASTA in, canonical sequences and their digests out. Knows nothing of models, chunks or HDF5.

Canonical: white space removed, upper case (of ASCII letters), one trailing `*` (stop codon) stripped. Two records are the same protein when
the SHA-256 of their canonical sequences is equal.
"""

import hashlib
import re
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Iterable, Iterator, List, NamedTuple, Tuple

from protembed.fasta import read_blocks

# fair-esm's alphabet without its special tokens: 20 amino acids, X B U Z O, and the gap signs `.` and `-`.
ALPHABET = "LAGVSERTIDPKQNFYMHWCXBUZO.-"
_UPPER = str.maketrans(ascii_lowercase, ascii_uppercase)  # str.upper() would make residues of some foreign letters: SS of the German ß
_FOREIGN_LETTER = re.compile(f"[^{re.escape(ALPHABET)}]")


class Record(NamedTuple):
    """One FASTA entry."""

    id: str  # the header up to the first white space
    sequence: str  # canonical; letters outside ALPHABET are still in it


def ids_of(titles: List[str]) -> List[str]:
    """The first word of each header; empty when there is none."""
    return [(title.split(None, 1) or [""])[0] for title in titles]


def canonical(residues: str) -> str:
    """Upper case in ASCII, without white space, one trailing `*` stripped."""
    residues = "".join(residues.split())
    residues = residues.upper() if residues.isascii() else residues.translate(_UPPER)
    return residues[:-1] if residues.endswith("*") else residues


def all_canonical(residues: List[str]) -> Tuple[List[str], bool]:
    """(the same of many, whether all their letters are of ALPHABET)."""
    if are_usual("".join(residues)):
        return residues, True
    sequences = list(map(canonical, residues))
    return sequences, are_usual("".join(sequences))


def are_usual(letters: str) -> bool:
    """Whether these are canonical and all of ALPHABET: a few times faster than to look for those that are not."""
    return letters.isascii() and not letters.encode().translate(None, ALPHABET.encode())


def foreign_letters(sequence: str) -> List[str]:
    """The letters of a canonical sequence that fair-esm's alphabet does not have, sorted, each once, in printable form."""
    letters = sorted(set(_FOREIGN_LETTER.findall(sequence)))
    return [letter if letter.isprintable() else ascii(letter)[1:-1] for letter in letters]


def substitute_foreign(sequence: str) -> str:
    """The sequence with `X` for every letter outside the alphabet."""
    return _FOREIGN_LETTER.sub("X", sequence)


def digest_of(sequence: str) -> bytes:
    """SHA-256 (32 bytes) of a canonical sequence."""
    return digests_of([sequence])


def digests_of(sequences: Iterable[str]) -> bytes:
    """Those of many, one behind the other."""
    sha256 = hashlib.sha256
    return b"".join([sha256(sequence.encode()).digest() for sequence in sequences])


def read_fasta(path: Path) -> Iterator[Record]:
    """Stream the records of a FASTA file, plain, .gz, .bz2 or .zst; BadInput as read_blocks raises it."""
    for titles, residues in read_blocks(path):
        yield from map(Record, ids_of(titles), all_canonical(residues)[0])
