"""Whether what a file holds can be: as many rows everywhere, ids once, offsets that rise, flags that the rows bear out.

Checksums (seals.py) find what was changed after it was written; this finds what should never have been written.
"""

import hashlib
from typing import Iterable, List

import h5py
import numpy as np

from protembed.errors import CorruptStore, ForeignFile, Incomplete
from protembed.identity import Identity
from protembed.layout import CONTACTS, Flag, is_per_residue, rows_of, vector_names
from protembed.seals import blocks_of, check_seal, dataset_names

ALL_FLAGS = sum(Flag)


def check_rows(file: h5py.File, rows: int, vectors: List[str], name: str, others: Iterable[str] = ("flags", "offsets", "sha256")) -> None:
    """CorruptStore unless the datasets are those of `vectors` and `others`, of fitting lengths, finite, with rising offsets.

    Vectors of rows that failed have no meaning and are zeros or what the disk held: only finished files are tested for NaN.
    """
    wanted = sorted([*vectors, *others])
    if dataset_names(file) != wanted:
        raise CorruptStore(f"{name} holds {', '.join(dataset_names(file))}; its recipe makes {', '.join(wanted)}")
    residues = pairs = 0
    if "offsets" in others:
        offsets = file["offsets"][:]
        residues = int(offsets[-1]) if len(offsets) else 0
        if len(offsets) != rows + 1 or offsets[0] != 0 or (np.diff(offsets) < 1).any():
            raise CorruptStore(f"{name}: offsets do not rise from 0 with every row")
        pairs = int(rows_of(CONTACTS, np.diff(offsets)).sum())
    if "contact_offsets" in others:
        pairs = _checked_pairs(file, rows, name)
    for dataset in wanted:
        expected = pairs if dataset == CONTACTS else residues if is_per_residue(dataset) else rows + dataset.endswith("offsets")
        if len(file[dataset]) != expected:
            raise CorruptStore(f"{name}: {dataset} has {len(file[dataset])} rows, {expected} belong there")
    if (file["flags"][:] & ~np.uint8(ALL_FLAGS)).any():
        raise CorruptStore(f"{name}: a flag that format 1.0 does not have")


def _checked_pairs(file: h5py.File, rows: int, name: str) -> int:
    offsets = file["contact_offsets"][:]
    lengths = np.sqrt(np.diff(offsets).clip(0)).round().astype(np.int64)
    fitting = len(offsets) == rows + 1 and offsets[0] == 0 and (np.diff(offsets) == rows_of(CONTACTS, lengths)).all()
    if not fitting or ("offsets" in file and not np.array_equal(np.diff(offsets), rows_of(CONTACTS, np.diff(file["offsets"][:])))):
        raise CorruptStore(f"{name}: contact_offsets are not those of square matrices of its records")
    return int(offsets[-1])


def check_whole(file: h5py.File, name: str) -> None:
    """All that can be known of a finished embeddings.h5: CorruptStore, Incomplete or ForeignFile. Reads every byte."""
    check_seal(file, name)
    check_records(file, name)


def check_records(file: h5py.File, name: str) -> None:
    """The same for a finished embeddings.h5. Incomplete when rows are missing, ForeignFile when its recipe is not its identity's.

    Memory: some 150 bytes per record.
    """
    recipe = Identity.from_json(file.attrs["recipe"])
    if recipe.digest != file.attrs["identity"]:
        raise ForeignFile(f"{name}: its recipe is not that of its identity {file.attrs['identity']}")
    vectors, rows = vector_names(recipe.repr_layers, recipe.include), len(file["sequence_ids"])
    others = (
        ["flags", "lengths", "sequence_ids", "sha256"]
        + ["offsets"] * ("per_tok" in recipe.include)
        + ["contact_offsets"] * (CONTACTS in recipe.include)
        + ["samples"] * ("samples" in file)
    )
    if rows != file.attrs["n_embedded"] or file.attrs["n_records"] != file.attrs["n_embedded"] + file.attrs["n_skipped"]:
        counts = ", ".join(f"{key} {file.attrs[key]}" for key in ("n_records", "n_embedded", "n_skipped"))
        raise Incomplete(f"{name}: {rows} rows, but {counts}: rows are missing")
    check_rows(file, rows, vectors, name, others)
    if "mean" in recipe.include and file["embeddings"] != file[next(vector for vector in vectors if vector.endswith("/mean"))]:
        raise CorruptStore(f"{name}: /embeddings is not the lowest layer's mean")
    _check_ids(file, name)
    _check_flags(file, recipe, name)
    for vector in vectors:
        if not all(np.isfinite(block).all() for block in blocks_of(file[vector])):
            raise CorruptStore(f"{name}: {vector} holds a number that is not finite")


def _check_ids(file: h5py.File, name: str) -> None:
    """By 16 bytes of each: a set of ten million strings would take gigabytes."""
    short = [hashlib.blake2b(word, digest_size=16).digest() for block in blocks_of(file["sequence_ids"]) for word in block.tolist()]
    keys = np.frombuffer(b"".join(short), "V16")
    order = np.argsort(keys, kind="stable")
    again = order[1:][keys[order[1:]] == keys[order[:-1]]]
    if len(again):
        raise CorruptStore(f"{name}: id {file['sequence_ids'].asstr()[int(again.min())]} stands there more than once")


def _check_flags(file: h5py.File, recipe: Identity, name: str) -> None:
    flags, lengths = file["flags"][:], file["lengths"][:]
    digests = np.frombuffer(file["sha256"][:].tobytes(), "V32")
    first = np.ones(len(digests), bool)
    order = np.argsort(digests, kind="stable")
    first[order[1:]] = digests[order[1:]] != digests[order[:-1]]
    wrong = {
        # The first of its sequence in a shard may repeat one of a shard before it.
        "duplicate": (first == ((flags & Flag.DUPLICATE) > 0)) & ~(first & ("shard" in file.attrs)),
        "truncated": ((flags & Flag.TRUNCATED) > 0) != ((lengths > recipe.max_residues) & (recipe.long_sequences == "truncate")),
        "windowed": ((flags & Flag.WINDOWED) > 0) != ((lengths > recipe.max_residues) & (recipe.long_sequences == "window")),
    }
    for flag, rows in wrong.items():
        if rows.any():
            raise CorruptStore(f"{name}: row {int(rows.argmax())} is wrongly flagged, or not, as {flag}")
