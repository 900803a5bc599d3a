"""Which rows of a chunk are done, and their vectors. Crash-only: there is no state but files that are whole or absent.

    <root>/<identity>/<chunk>/batch_00000.pt        rows and their vectors
    <root>/<identity>/<chunk>/batch_00000.pt.done   "<XXH3, 128 bits>  batch_00000.pt", written after the data is durable; a second
                                                    line, which xxhsum passes over, says how much that was (for progress)

A row counts as done when its batch has a marker and the marker's digest matches. The set of such pairs is the manifest.
Several writers may share a folder (an orphaned task and its successor): names are never overwritten and numbers never
reused, and either writer's vectors for a row are good, because chunk and identity are in the path and in the file.
A batch without a marker may belong to a writer that is still alive: it is left where it is and counts for nothing.
A batch whose marker does not match, or that holds something else, is rotten: it is moved to set_aside/ and computed again.
"""

import hashlib
import io
import re
from pathlib import Path
from typing import IO, Callable, Dict, Iterator, List, Optional

import torch
from torch.serialization import set_crc32_options
from xxhash import xxh3_128

from protembed.atomic import create_exclusive, fsync_path, remove_leftovers, set_aside
from protembed.batch import Batch
from protembed.checkpoint_folder import names_in
from protembed.device import wants_memory
from protembed.errors import Transient, fault_of_reading, first_line
from protembed.layout import MARKER, batch_path, marker_of
from protembed.marker import marker_text, vouched_digest

FORMAT = "protembed-batch 2"
SHA256_DIGITS = 64  # markers of earlier versions: what they stand for is not computed again
_NUMBER = re.compile(r"batch_(\d+)\.pt\b")  # of a batch, its marker, or what was set aside of them


class ChunkCheckpoint:
    """The batches of one chunk under one identity."""

    def __init__(self, root: Path, identity: str, chunk: str, row_count: int):
        self.root, self.identity, self.chunk, self.row_count = Path(root), identity, chunk, row_count
        self.folder = batch_path(root, identity, chunk, 0).parent
        self.rotten: List[str] = []  # what was set aside, with reasons
        self.committed: Dict[Path, List[int]] = {}  # by this object: path -> rows
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for parent in (self.folder.parent, self.root):  # a power cut must not take the new folders with the batches in them
                fsync_path(parent)
            remove_leftovers(self.folder)
        except OSError as error:
            raise Transient(f"checkpoint folder {self.folder} cannot be made: {error}") from error

    def good_batches(self) -> Dict[Path, List[int]]:
        """Path -> rows it provides, in order of number; a row that two batches hold belongs to the first."""
        provided: Dict[Path, List[int]] = {}
        seen: set = set()
        for name in sorted(name for name in names_in(self.folder) if name.startswith("batch_") and name.endswith(".pt.done")):
            path = self.folder / name.removesuffix(MARKER)
            batch = self.load(path)
            if batch is not None:
                provided[path] = [row for row in batch.rows.tolist() if row not in seen]
                seen.update(provided[path])
        return provided

    def read(self, provided: Dict[Path, List[int]]) -> Iterator[Batch]:
        """The batches of good_batches() and of our commits, one at a time, each row once; Transient when one is not good any more."""
        for path, rows in provided.items():
            batch = self.load(path)
            if batch is None:
                raise Transient(f"checkpoint {path} was good and is not any more; the next attempt computes its rows again")
            keep = torch.isin(batch.rows, torch.tensor(rows, dtype=torch.int64))  # another writer may have had some before
            yield batch if keep.all() else batch.of_rows(keep)

    def load(self, path: Path) -> Optional[Batch]:
        """Read one batch, trusting nothing; None when it does not count. Executes no code found in the file."""
        try:
            marker = marker_of(path).read_text(encoding="ascii", errors="replace")
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except (OSError, MemoryError) as error:
            raise fault_of_reading(error, path) or Transient(f"checkpoint {path} cannot be read: {error}") from error
        if "\n" not in marker:  # torn in its first line, or a living writer is at it (a file system without hard links shows that)
            return None
        fault, batch = self._judge(marker, content)
        if fault:
            self._set_aside(path, fault)
        return batch

    def _judge(self, marker: str, content: bytes) -> "tuple[str, Optional[Batch]]":
        wanted = vouched_digest(marker)
        digest = hashlib.sha256 if len(wanted) == SHA256_DIGITS else xxh3_128
        if digest(content).hexdigest() != wanted:
            return "its digest is not the marker's", None
        try:
            stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            if (stored["format"], stored["identity"], stored["chunk"]) != (FORMAT, self.identity, self.chunk):
                return "it belongs to another run", None
            batch = Batch.restored(stored)
            if not batch.is_well_formed(self.row_count):
                return "its rows and vectors do not fit together, or not the chunk", None
        except Exception as error:  # whatever a hostile or foreign file makes the loader raise
            if wants_memory(error):  # not the file's fault
                raise Transient(f"no memory to read the checkpoint {self.folder}: {first_line(error)}; give the task more") from error
            return f"it cannot be loaded ({type(error).__name__})", None
        return "", batch

    def _set_aside(self, path: Path, fault: str) -> None:
        self.rotten.append(f"{path.name}: {fault}")
        for part in (marker_of(path), path):  # the marker first: a kill in between leaves a batch that does not count
            set_aside(part)

    def commit(self, parts: List[Batch], seconds: float = 0.0, attempt: int = 0) -> Path:
        """Make batches durable in one file and return its path: a kill after this loses none of their rows.

        `seconds` of work by `attempt` are noted in the marker.
        """
        stored = dict(Batch.stored(parts), format=FORMAT, identity=self.identity, chunk=self.chunk)
        rows, residues = stored["rows"].tolist(), int(stored["residues"].sum())
        digests: List[str] = []
        try:
            path = self._create_numbered(lambda handle: digests.append(_save(stored, handle)))
            text = marker_text(digests[-1], path.name, len(rows), residues, seconds, attempt)
            create_exclusive(marker_of(path), lambda handle: handle.write(text.encode("ascii")))
        except OSError as error:
            raise Transient(f"checkpoint in {self.folder} cannot be written: {error}") from error
        self.committed[path] = rows
        return path

    def _create_numbered(self, write: Callable[[IO[bytes]], object]) -> Path:
        # What was set aside keeps its number: a slow reader that still judges the old file would set the new one aside.
        names = names_in(self.folder) + names_in(self.folder / "set_aside")
        number = max((int(match[1]) for match in map(_NUMBER.match, names) if match), default=-1) + 1
        while True:
            path = batch_path(self.root, self.identity, self.chunk, number)
            try:
                create_exclusive(path, write)
                return path
            except FileExistsError:
                number += 1


def _save(stored: dict, handle: IO[bytes]) -> str:
    """Write and return the digest of what was written, which need not be read again for it."""
    hashing = _Hashing(handle)  # torch, given a path, keeps to itself what was wrong with the disk
    set_crc32_options(compute_crc32=False)  # the digest says more
    try:
        torch.save(stored, hashing)
    finally:
        set_crc32_options(compute_crc32=True)  # weights that this process saves must have the bytes that they have in any other
    return hashing.digest.hexdigest()


class _Hashing:
    """A file that is written from beginning to end, and its digest."""

    def __init__(self, handle: IO[bytes]):
        self._handle, self.digest, self.flush = handle, xxh3_128(), handle.flush

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self._handle.write(content)
