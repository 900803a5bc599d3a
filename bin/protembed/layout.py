"""Names, bits and paths that our HDF5 files and checkpoints share. Format 1.0; standard library only."""

from enum import IntFlag
from pathlib import Path
from typing import Iterable, List

FORMAT = "protembed"
CHUNK_FORMAT = "protembed-chunk"
FORMAT_VERSION = "1.0"

KINDS = ("mean", "bos", "per_tok")
CONTACTS = "contacts"  # not of a layer
INCLUDABLE = (*KINDS, CONTACTS)
CONTACTS_MAX_RESIDUES = 1022  # that are embedded; of longer ones no contacts are kept: 4 MB at this length, and rising with its square
SPECIAL_TOKENS = 2  # BOS and EOS around every sequence


class Flag(IntFlag):
    """One bit per thing that happened to a record; the `/flags` dataset (uint8) holds their sum."""

    TRUNCATED = 1
    SUBSTITUTED = 2
    DUPLICATE = 4
    WINDOWED = 8
    FP32_RERUN = 16
    REUSED = 32


OF_VECTORS = int(Flag.TRUNCATED | Flag.WINDOWED | Flag.FP32_RERUN)  # the others are about records


def vector_name(layer: int, kind: str) -> str:
    """Where the vectors of one layer and kind stand in every file of ours."""
    return f"representations/{layer}/{kind}"


def vector_names(layers: Iterable[int], include: Iterable[str]) -> List[str]:
    """All of them, layer by layer, contacts last."""
    include = list(include)
    return [vector_name(layer, kind) for layer in layers for kind in KINDS if kind in include] + [CONTACTS] * (CONTACTS in include)


def is_per_residue(name: str) -> bool:
    """True when the dataset has a row per residue instead of a row per sequence."""
    return name.endswith("/per_tok")


def rows_of(name: str, residues):
    """How many rows of a dataset belong to a sequence with so many embedded residues: one, one per residue, one per pair of residues.

    residues: a whole number, or a numpy array or tensor of them.
    """
    if name == CONTACTS:
        return residues**2 * (residues <= CONTACTS_MAX_RESIDUES)
    return residues if is_per_residue(name) else residues**0


def is_ragged(name: str) -> bool:
    """True when the dataset has other than one row per sequence."""
    return name == CONTACTS or is_per_residue(name)


def offsets_name(name: str) -> str:
    """The dataset of embeddings.h5 that says where in a ragged one each record begins."""
    return "contact_offsets" if name == CONTACTS else "offsets"


MARKER = ".done"  # behind the name of a batch file


def batch_path(root: Path, identity: str, chunk: str, number: int) -> Path:
    """The one place where a checkpoint path is built."""
    return Path(root) / identity / chunk / f"batch_{number:05d}.pt"


def attempt_path(root: Path, identity: str, chunk: str, number: int) -> Path:
    """The record of the n-th task that took up a chunk, counted from 1."""
    return batch_path(root, identity, chunk, 0).with_name(f"attempt_{number:05d}.json")


def marker_of(batch: Path) -> Path:
    """The marker that makes a batch count."""
    return batch.with_name(batch.name + MARKER)


def failures_path(root: Path, identity: str, chunk: str) -> Path:
    """Rows of a chunk that cannot be embedded: lines of row and reason, for the merge to show; gone with the checkpoints."""
    return batch_path(root, identity, chunk, 0).with_name("failed.tsv")


def shard_names(path: Path, count: int) -> List[str]:
    """Of the files beside `path` that hold its vectors: embeddings_01_of_12.h5, ..."""
    return [f"{path.stem}_{number:0{len(str(count))}d}_of_{count}{path.suffix}" for number in range(1, count + 1)]
