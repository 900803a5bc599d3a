"""The vectors of an embeddings.h5 in the layouts of other programs. pyarrow is imported only where it is needed.

Every function takes the file to write, a name for each record, and what to write; a file appears whole or not at all.
"""

from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple

import h5py
import numpy as np

from protembed.atomic import replacing, write_text
from protembed.errors import BadInput, BadOption
from protembed.hdf5 import writing

BLOCK_ROWS = 4096


class Selection(NamedTuple):
    """The vectors of one kind and layer of an open result."""

    embeddings: Any  # protembed.reading.Embeddings
    kind: str  # mean, bos, per_tok
    layer: int

    @property
    def array(self) -> np.ndarray:
        """(N, D), or (residues, D) for per_tok."""
        return self.embeddings.array(self.kind, self.layer)

    def blocks(self) -> Iterator[np.ndarray]:
        """The array in pieces of up to BLOCK_ROWS rows."""
        for start in range(0, len(self.array), BLOCK_ROWS):
            yield self.array[start : start + BLOCK_ROWS]

    def of_records(self) -> Iterator[np.ndarray]:
        """What each record owns, in order: (D,), or (residues, D) for per_tok."""
        if self.kind == "per_tok":
            offsets = self.embeddings.offsets.tolist()
            return (self.array[start:end] for start, end in zip(offsets, offsets[1:]))
        return (vector for block in self.blocks() for vector in block)


def accessions(ids: List[str]) -> List[str]:
    """The accession of UniProt's ids, sp|P0AFK0|PMBA_ECOLI; others as they are. BadInput when two records would be the same."""
    parts = (name.split("|") for name in ids)
    return _unique([part[1] if len(part) == 3 and part[0] in ("sp", "tr") and part[1] else "|".join(part) for part in parts], ids)


def dataset_names(names: List[str]) -> List[str]:
    """Names that HDF5 does not take for a path. BadInput when two records would be the same."""
    return _unique([name.replace("/", "_") if name != "." else "_" for name in names], names)


def _unique(new: List[str], old: List[str]) -> List[str]:
    first: Dict[str, str] = {}
    for name, given in zip(new, old):
        if first.setdefault(name, given) != given:
            raise BadInput(f"{first[name]} and {given} would both be called {name}; rename one, or choose another --names or --layout")
    return new


def write_per_accession(output: Path, names: List[str], chosen: Selection) -> None:
    """HDF5 with a dataset for each record; attribute original_id has the id that stood in the FASTA."""
    with replacing(output) as temporary, writing(temporary, "w") as (file, raise_fault):
        for number, (name, given, vector) in enumerate(zip(dataset_names(names), chosen.embeddings.ids, chosen.of_records())):
            file.create_dataset(name, data=vector).attrs["original_id"] = given
            if number % BLOCK_ROWS == 0:
                raise_fault()
        file.attrs.update(_provenance(chosen))


def write_npy(output: Path, names: List[str], chosen: Selection) -> None:
    """The array as numpy saves it, ids beside it, and offsets when a record has many rows. `output` ends in .npy.

    It comes last: while it is not there, the others belong to no array.
    """
    output.unlink(missing_ok=True)  # of an earlier export, whose rows were others; and so may its offsets be
    write_text(output.with_suffix(".ids.txt"), "".join(f"{name}\n" for name in names))
    output.with_suffix(".offsets.npy").unlink(missing_ok=True)
    if chosen.kind == "per_tok":
        with replacing(output.with_suffix(".offsets.npy")) as temporary, open(temporary, "wb") as file:
            np.save(file, chosen.embeddings.offsets)
    with replacing(output) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": chosen.array.dtype.str, "fortran_order": False, "shape": chosen.array.shape})
        for block in chosen.blocks():
            file.write(np.ascontiguousarray(block).data)


def write_parquet(output: Path, names: List[str], chosen: Selection) -> None:
    """Columns id, length (residues) and embedding (a fixed number of floats), a row group per block. BadOption without pyarrow."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetWriter
    except ImportError:
        raise BadOption("--layout parquet needs pyarrow; install it: pip install pyarrow") from None
    width = chosen.array.shape[1]
    embedding = pyarrow.list_(pyarrow.from_numpy_dtype(chosen.array.dtype), width)
    columns = [("id", pyarrow.string()), ("length", pyarrow.int32()), ("embedding", embedding)]
    schema = pyarrow.schema(columns, metadata={name: str(value) for name, value in _provenance(chosen).items()})
    with replacing(output) as temporary, ParquetWriter(temporary, schema) as writer:
        for number, block in enumerate(chosen.blocks()):
            rows = slice(number * BLOCK_ROWS, number * BLOCK_ROWS + len(block))
            flat = pyarrow.array(np.ascontiguousarray(block).reshape(-1))
            vectors = pyarrow.FixedSizeListArray.from_arrays(flat, width)
            writer.write_table(pyarrow.table([names[rows], pyarrow.array(chosen.embeddings.lengths[rows]), vectors], schema=schema))


def write_h5ad(output: Path, names: List[str], chosen: Selection) -> None:
    """AnnData's documented layout (encoding 0.1.0): X (N, D), obs with length and flags, uns with where it comes from."""
    with replacing(output) as temporary, writing(temporary, "w") as (file, raise_fault):
        _encoded(file, "anndata", "0.1.0")
        matrix = _encoded(file.create_dataset("X", chosen.array.shape, chosen.array.dtype), "array", "0.2.0")
        for number, block in enumerate(chosen.blocks()):
            matrix[number * BLOCK_ROWS : number * BLOCK_ROWS + len(block)] = block
            raise_fault()
        _write_frame(file, "obs", names, {"length": chosen.embeddings.lengths[:], "flags": chosen.embeddings.flags[:]})
        _write_frame(file, "var", [str(number) for number in range(chosen.array.shape[1])], {})
        for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
            _encoded(file.create_group(name), "dict", "0.1.0")
        for name, value in _provenance(chosen).items():
            _encoded(file["uns"].create_dataset(name, data=value), "string" if isinstance(value, str) else "numeric-scalar", "0.2.0")


def _write_frame(file: h5py.File, name: str, index: List[str], columns: Dict[str, np.ndarray]) -> None:
    frame = _encoded(file.create_group(name), "dataframe", "0.2.0")
    frame.attrs["_index"] = "_index"
    frame.attrs.create("column-order", list(columns), dtype=h5py.string_dtype())
    _encoded(frame.create_dataset("_index", data=index, dtype=h5py.string_dtype()), "string-array", "0.2.0")
    for column, values in columns.items():
        _encoded(frame.create_dataset(column, data=values), "array", "0.2.0")


def _encoded(item, kind: str, version: str):
    item.attrs.update({"encoding-type": kind, "encoding-version": version})
    return item


def _provenance(chosen: Selection) -> Dict[str, object]:
    kept = {name: str(chosen.embeddings.attributes[name]) for name in ("model", "weights_sha256", "content_sha256")}
    return {**kept, "layer": chosen.layer, "kind": chosen.kind}
