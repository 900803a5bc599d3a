"""The policies on ids and letters, applied to many records at a time; collects what is wrong instead of stopping at the first.

A block without a fault costs a few calls. Only a block with one is looked through record by record.
"""

import re
from pathlib import Path
from typing import Dict, List, Set, Tuple

import numpy as np

from protembed.errors import BadInput
from protembed.fasta import header_lines
from protembed.first_seen import FirstSeen
from protembed.layout import Flag
from protembed.proteins import all_canonical, are_usual, foreign_letters, ids_of, substitute_foreign
from protembed.records import CheckedRecords

MOST_OFFENDERS_SHOWN = 20
_ESM_TOKEN = re.compile("<(?:cls|pad|eos|unk|mask|null_1)>", re.IGNORECASE)


class RecordChecker:
    """Applies the policies; `offender_count` is not 0 when something was refused.

    Memory: some 30 bytes per record; with duplicate_ids 'rename' also its id and 110 bytes.
    """

    def __init__(self, invalid_residues: str, duplicate_ids: str, longest_allowed: int):
        self.offender_count = 0
        self._invalid_residues, self._longest_allowed = invalid_residues, longest_allowed
        self._ids = _RenamedIds() if duplicate_ids == "rename" else _UniqueIds()
        self._offenders: List[Tuple[Path, int, str, str]] = []  # file, record in it, id, what
        self._file, self._sample, self._next = Path(), "", 0

    def begin(self, path: Path, sample: str = "") -> None:
        """The records that come next are those of this file, from its first."""
        self._file, self._sample, self._next = path, sample, 0

    def check(self, titles: List[str], residues: List[str]) -> CheckedRecords:
        """The next records of the file."""
        given = ids_of(titles)
        sequences, usual = all_canonical(residues)
        lengths = list(map(len, sequences))
        faults = [(place, what) for place, what in enumerate(map(_fault_of_id, given)) if what] if _some_faulty(given) else []
        ids, repeated = self._ids.add(given)
        faulty = {place for place, _ in faults}
        faults += [(place, self._ids.FAULT) for place in repeated if place not in faulty]
        flags, notes = [0] * len(ids), [""] * len(ids)
        if not all(lengths) or (self._longest_allowed and max(lengths) > self._longest_allowed):
            faults += self._faulty_lengths(lengths)
            notes = ["" if length else "no residues" for length in lengths]
        if not usual:
            faults += self._apply_to_letters(sequences, flags, notes)
        for place in [place for place, name in enumerate(ids) if name != given[place]] if ids is not given else ():
            notes[place] = "; ".join(filter(None, [notes[place], f"given as {given[place]}"]))
        self._refuse(faults, given)
        self._next += len(ids)
        return CheckedRecords(ids, sequences, lengths, flags, notes, [self._sample] * len(ids))

    def _faulty_lengths(self, lengths: List[int]) -> List[Tuple[int, str]]:
        most = self._longest_allowed
        faults = [(place, "has no residues; remove it or give its sequence") for place, length in enumerate(lengths) if not length]
        long = [(place, length) for place, length in enumerate(lengths) if most and length > most]
        return faults + [(place, f"has {length} residues, more than {most}; see --long_sequences") for place, length in long]

    def _apply_to_letters(self, sequences: List[str], flags: List[int], notes: List[str]) -> List[Tuple[int, str]]:
        """Change what the policy changes in place; return what it refuses."""
        faults = []
        for place, sequence in enumerate(sequences):
            letters = [] if are_usual(sequence) else foreign_letters(sequence)
            found = f"letters outside the alphabet: {' '.join(letters)}"
            if ">" in letters and ">" in _ESM_TOKEN.sub("", sequence):  # no policy may make one protein of two, or lose the second
                faults.append((place, "has a '>' within its sequence: is a line end missing before the next header?"))
            elif "<" in letters and self._invalid_residues == "substitute":  # X for the brackets of <mask> would leave M, A, S, K for residues
                faults.append((place, "has a '<', which begins no residue; ESM's tokens cannot be written into a sequence"))
            elif ";" in letters and self._invalid_residues == "substitute":  # X for the sign would leave the comment's words for residues
                faults.append((place, "has a ';', which begins a comment in some files; remove those lines"))
            elif letters and self._invalid_residues == "substitute":
                sequences[place], flags[place], notes[place] = substitute_foreign(sequence), int(Flag.SUBSTITUTED), f"X in place of {' '.join(letters)}"
            elif letters:
                sequences[place], notes[place] = "", found
                faults += [(place, f"has {found}; see --invalid_residues")] * (self._invalid_residues == "error")
        return faults

    def _refuse(self, faults: List[Tuple[int, str]], ids: List[str]) -> None:
        self.offender_count += len(faults)
        room = MOST_OFFENDERS_SHOWN - len(self._offenders)
        self._offenders += [(self._file, self._next + place, ids[place], what) for place, what in sorted(faults, key=lambda fault: fault[0])[:room]]

    def raise_if_any(self) -> None:
        """BadInput with the first offenders, `file:line id what`, and their total."""
        if self.offender_count:
            wanted: Dict[Path, List[int]] = {}
            for path, record, _, _ in self._offenders:
                wanted.setdefault(path, []).append(record)
            lines = {path: header_lines(path, set(records)) for path, records in wanted.items()}
            shown = [f"{path.name}:{lines[path][record]} {name or '(no id)'} {what}" for path, record, name, what in self._offenders]
            more = [f"... and {self.offender_count - len(shown)} more"] if self.offender_count > len(shown) else []
            raise BadInput("\n".join([f"{self.offender_count} faults in the input, nothing was embedded:", *shown, *more]))


def _some_faulty(ids: List[str]) -> bool:
    return not all(ids) or not "".join(ids).isprintable()


def _fault_of_id(name: str) -> str:
    if not name:
        return "has a header without an id; write one after the '>'"
    return "" if name.isprintable() else "has an id that is not printable UTF-8; rename it"  # bytes that are not UTF-8 are surrogates: not printable


class _UniqueIds:
    """Tells which ids came before, by 128 bits of Python's keyed hash: the odds of one false alarm in 10 million ids are 1e-25."""

    FAULT = "occurs more than once; rename it, or use --duplicate_ids rename"

    def __init__(self):
        self._seen = FirstSeen()

    def add(self, ids: List[str]) -> Tuple[List[str], List[int]]:
        """(the ids, places of those that came before)."""
        start = len(self._seen)
        hashes = [list(map(hash, ids)), [hash(name + "\0") for name in ids]]
        first = self._seen.add(np.array(hashes, np.int64).view(np.uint64).T)
        return ids, np.flatnonzero(first != np.arange(start, start + len(ids))).tolist()


class _RenamedIds:
    """Adds _2, _3, ... to ids that came before."""

    FAULT = "has the id that --duplicate_ids rename gave to a record before it; rename one of them"

    def __init__(self):
        self._next: Dict[str, int] = {}  # id in use -> the number to try first when it comes again
        self._made: Set[str] = set()  # of them those that no record came with

    def add(self, ids: List[str]) -> Tuple[List[str], List[int]]:
        """(ids that are new, places of those that a record before was given)."""
        taken: List[int] = []
        return [self._renamed(name, place, taken) for place, name in enumerate(ids)], taken

    def _renamed(self, name: str, place: int, taken: List[int]) -> str:
        if name in self._made:
            taken.append(place)
        new, number = name, self._next.get(name, 2)
        while new in self._next:
            new, number = f"{name}_{number}", number + 1
        if new != name:
            self._next[name] = number
            self._made.add(new)
        self._next[new] = 2
        return new
