"""Opening an embeddings.h5: vectors by id, by row or by slice, as numpy arrays or as a torch dataset.

    from protembed import open_embeddings
    with open_embeddings("results/embeddings.h5") as embeddings:
        embeddings["P0AFK0"]                   # (D,) mean over residues, of the lowest layer that was asked for
        embeddings[100:200], embeddings[["P0AFK0", "P31663"]]   # (rows, D)
        embeddings.per_tok("P0AFK0", layer=33)                  # (residues, D)
Needs h5py, numpy and xxhash; torch only for as_torch. The file is mapped: what is not asked for is not read.
"""

import math
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Dict, List, Optional, Union

import numpy as np

from protembed.choosing import Which, rows_meant
from protembed.consistency import check_whole
from protembed.hdf5 import allow_open_files, mapped
from protembed.identity import Identity
from protembed.layout import CONTACTS, FORMAT, KINDS, Flag, is_ragged, offsets_name, vector_name, vector_names
from protembed.seals import check_shards, damage_named, opened, shard_paths


def open_embeddings(path: Union[str, Path], verify: bool = False) -> "Embeddings":
    """Open a finished embeddings.h5 of format 1; it closes as a context manager or by close().

    verify: read every byte first and compare checksums, as check_h5.py does. CorruptStore when the file is torn, unfinished or
    none of ours; with verify also when it was changed, or is not consistent (then Incomplete and ForeignFile, too).
    """
    embeddings = Embeddings(Path(path))
    if verify:
        embeddings.verify()
    return embeddings


class Embeddings:
    """An open embeddings.h5. It may be handed to other processes, forked or spawned."""

    failed: Dict[int, str] = {}  # a chunk file has rows that failed; a finished file has none

    def __init__(self, path: Path):
        self.path = path
        self._open = ExitStack()
        try:
            self._file = self._open.enter_context(opened(path, FORMAT))
            with damage_named(path):
                self.attributes: Dict[str, object] = dict(self._file.attrs)
                self.identity = Identity.from_json(self.attributes["recipe"])
                self.names = vector_names(self.identity.repr_layers, self.identity.include)
                mapped_names = [*self.names, "lengths", "flags", "sha256"]
                allow_open_files(len(shard_paths(self._file, path)) + len(mapped_names))  # a mapping holds its file open
                self._arrays = {name: mapped(self._file[name], self.path) for name in mapped_names}
                check_shards(self._file, path)  # again: they are open now, and another run may have put others in their place meanwhile
        except BaseException:
            self.close()
            raise

    def verify(self) -> None:
        """Read every byte; CorruptStore, Incomplete or ForeignFile when something is wrong."""
        with damage_named(self.path):
            check_whole(self._file, self.path.name)

    def close(self) -> None:
        """Arrays that were handed out stay valid, but for those of a compressed file."""
        self._open.close()

    def __enter__(self) -> "Embeddings":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def __reduce__(self):
        return Embeddings, (self.path,)

    @cached_property
    def ids(self) -> List[str]:
        """In the order of the rows. Read at first use, as is the table behind row_of: some 200 bytes per record."""
        return self._file["sequence_ids"].asstr()[:].tolist()

    @cached_property
    def _row_of(self) -> Dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def row_of(self, name: str) -> int:
        """The row of an id; KeyError when there is none."""
        if name not in self._row_of:
            raise KeyError(f"{self.path.name} has no record {name!r}")
        return self._row_of[name]

    def __len__(self) -> int:
        return len(self._arrays["lengths"])

    def __contains__(self, name: str) -> bool:
        return name in self._row_of

    def __getitem__(self, which: Which) -> np.ndarray:
        """The mean of the lowest layer: (D,) for one record, (rows, D) for several. KeyError, IndexError, TypeError."""
        return self.mean(which)

    def mean(self, which: Which = slice(None), layer: Optional[int] = None) -> np.ndarray:
        """Means over residues, (D,) or (rows, D), in the file's dtype; layer: as in fair-esm, the lowest of the file by default."""
        return np.array(self.array("mean", layer)[self._rows(which)])

    def bos(self, which: Which = slice(None), layer: Optional[int] = None) -> np.ndarray:
        """Vectors of the BOS token, shaped as means are."""
        return np.array(self.array("bos", layer)[self._rows(which)])

    def per_tok(self, which: Which, layer: Optional[int] = None) -> Union[np.ndarray, List[np.ndarray]]:
        """A vector per embedded residue: (residues, D) for one record, a list of those for several."""
        array, rows = self.array("per_tok", layer), self._rows(which)
        if isinstance(rows, int):
            rows = range(len(self))[rows]  # negative ones count from the end
            return np.array(array[self.offsets[rows] : self.offsets[rows + 1]])
        return [np.array(array[self.offsets[row] : self.offsets[row + 1]]) for row in np.arange(len(self))[rows]]

    def contacts(self, which: Union[str, int]) -> Optional[np.ndarray]:
        """(residues, residues) probabilities of one record; None when it is longer than the attribute contacts_max_residues."""
        if CONTACTS not in self.names:
            raise KeyError(f"{self.path.name} has no contacts; it has {', '.join(self.names)}")
        flat = self.vectors(CONTACTS, np.array([range(len(self))[self._rows(which)]]))
        side = math.isqrt(len(flat))
        return np.array(flat).reshape(side, side) if side else None

    @cached_property
    def _contact_offsets(self) -> np.ndarray:
        return self._file[offsets_name(CONTACTS)][:]

    def array(self, kind: str, layer: Optional[int] = None) -> np.ndarray:
        """The whole dataset of a kind (mean, bos, per_tok) and layer: mapped, or h5py's when it is compressed. KeyError says what there is instead."""
        name = vector_name(self.identity.repr_layers[0] if layer is None else layer, kind)
        if kind not in KINDS or name not in self.names:
            raise KeyError(f"{self.path.name} has no {name}; it has {', '.join(self.names)}")
        return self._arrays[name]

    def _rows(self, which: Which) -> Union[int, slice, np.ndarray]:
        return rows_meant(which, len(self), self.row_of)

    def as_torch(self, kind: str = "mean", layer: Optional[int] = None) -> "torch.utils.data.Dataset":  # noqa: F821
        """A map-style dataset of (id, tensor): (D,) for mean and bos, (residues, D) for per_tok. Imports torch."""
        from protembed.torch_dataset import EmbeddingDataset

        return EmbeddingDataset(self, kind, layer)

    # What the merge asks of chunk files, too.
    @property
    def digests(self) -> np.ndarray:
        """(N, 32) uint8, SHA-256 of the canonical sequences."""
        return self._arrays["sha256"]

    @property
    def flags(self) -> np.ndarray:
        """(N,) uint8, sums of layout.Flag."""
        return self._arrays["flags"]

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int32, residues of the records before any cut."""
        return self._arrays["lengths"]

    @cached_property
    def offsets(self) -> np.ndarray:
        """(N + 1,) int64: embedded residues before each record, which are the rows of per_tok."""
        if "offsets" in self._file:
            return self._file["offsets"][:]
        embedded = np.where(self.flags[:] & Flag.TRUNCATED, self.identity.max_residues, self.lengths[:])
        return np.concatenate([[0], np.cumsum(embedded, dtype=np.int64)])

    def check_vectors(self) -> None:
        """Nothing: of this file verify() reads all at once, and the merge asks for that."""

    @property
    def provenance(self) -> Dict[str, str]:
        """Of the vectors: torch, device."""
        return {key: str(self.attributes[key]) for key in ("torch", "device")}

    def origin(self) -> Dict[str, str]:
        """What names this very file, to say where a vector came from."""
        return {"file": self.path.name, **{key: str(self.attributes[key]) for key in ("content_sha256", "created")}}

    def vectors(self, name: str, rows: np.ndarray) -> np.ndarray:
        """(len(rows), D) of a vector dataset, rows in any order and repeated as asked; all that is theirs for per_tok and contacts."""
        array = self._arrays[name]
        if not is_ragged(name):
            return array[rows[0] : rows[-1] + 1] if (np.diff(rows) == 1).all() else array[rows]
        starts = self._contact_offsets if name == CONTACTS else self.offsets
        return np.concatenate([array[starts[row] : starts[row + 1]] for row in rows])

    def width(self, name: str) -> int:
        """D of a vector dataset."""
        return self._arrays[name].shape[1]
