"""What proves that an HDF5 file of ours is whole: checksums over all it holds, and `complete`, written last.

    every dataset    attribute sha256: over its type, shape and bytes
    the file         attribute content_sha256: over those; attributes_sha256: over all other attributes; complete = 1
So a changed byte is found wherever it means something, and two files of equal content_sha256 hold the same.
"""

import contextlib
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator, List, Mapping

import h5py
import numpy as np

from protembed.errors import CorruptStore, fault_of_the_file_system, first_line
from protembed.layout import FORMAT_VERSION

BLOCK_BYTES = 16 << 20
CHECKSUM = "sha256"  # attribute of a dataset
UNSEALED = {"complete", "attributes_sha256"}
# What h5py raises on a damaged file: nearly anything, for it believes what it reads there.
DAMAGE = (AttributeError, IndexError, KeyError, MemoryError, OSError, OverflowError, RuntimeError, SystemError, TypeError, ValueError)


def blocks_of(dataset: h5py.Dataset) -> Iterator[np.ndarray]:
    """The dataset in pieces of whole rows, about 16 MiB each."""
    row_bytes = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    step = max(1, BLOCK_BYTES // row_bytes)
    for start in range(0, len(dataset), step):
        yield dataset[start : start + step]


def checksum_of(dataset: h5py.Dataset) -> str:
    """SHA-256 over dtype, shape and bytes of a dataset of numbers, or over its strings one per line."""
    digest = hashlib.sha256(f"{dataset.dtype.str}{dataset.shape}".encode())
    with ThreadPoolExecutor(1) as beside:  # hashing a block takes as long as reading the next
        hashed = None
        for block in blocks_of(dataset):
            content = b"\n".join([*block.tolist(), b""]) if block.dtype.kind == "O" else np.ascontiguousarray(block).data
            if hashed:
                hashed.result()
            hashed = beside.submit(digest.update, content)
    return digest.hexdigest()


def dataset_names(file: h5py.File) -> List[str]:
    """The datasets of a file, sorted, each once: /embeddings is a second name of a dataset and not listed."""
    names: List[str] = []
    file.visititems_links(lambda name, link: names.append(name) if isinstance(file[name], h5py.Dataset) else None)
    return sorted(set(names) - {"embeddings"})


def content_sha256(file: h5py.File) -> str:
    """One digest over ids and all datasets, from their checksums: equal for files that hold the same, whoever made them."""
    lines = [f"{name} {file[name].attrs[CHECKSUM]}\n" for name in dataset_names(file)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def attributes_sha256(file: h5py.File) -> str:
    """One digest over the attributes of the file that a seal covers, as sorted JSON."""
    values = {name: np.asarray(value).tolist() for name, value in file.attrs.items() if name not in UNSEALED}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def seal(file: h5py.File, attributes: Mapping[str, object]) -> None:
    """Write the checksums and the attributes of the file; `complete` comes last."""
    for name in dataset_names(file):
        file[name].attrs[CHECKSUM] = checksum_of(file[name])
    file.attrs.update(attributes, format_version=FORMAT_VERSION)
    file.attrs["content_sha256"] = content_sha256(file)
    file.attrs["attributes_sha256"] = attributes_sha256(file)
    file.flush()
    file.attrs["complete"] = 1


def check_seal(file: h5py.File, name: str) -> None:
    """CorruptStore when a checksum is not that of what it stands for. Reads the whole file; `name` is for the message."""
    if file.attrs["attributes_sha256"] != attributes_sha256(file):
        raise CorruptStore(f"{name}: an attribute was changed after it was written")
    for dataset in dataset_names(file):
        if file[dataset].attrs.get(CHECKSUM) != checksum_of(file[dataset]):
            raise CorruptStore(f"{name}: dataset {dataset} was damaged after it was written")
    if file.attrs["content_sha256"] != content_sha256(file):
        raise CorruptStore(f"{name}: content_sha256 is not that of its datasets")


@contextlib.contextmanager
def opened(path: Path, wanted_format: str) -> Iterator[h5py.File]:
    """Open one of our files for reading; CorruptStore when it is not one, or not a complete one."""
    try:
        file = h5py.File(path, "r")
    except DAMAGE as error:
        raise fault_of_the_file_system(error, path) or CorruptStore(
            f"{path.name} cannot be read as HDF5 ({first_line(error)}); it is missing or torn"
        ) from error
    with file:
        with damage_named(path):
            if file.attrs.get("format") != wanted_format:
                raise CorruptStore(f"{path.name} is not a {wanted_format} file")
            if file.attrs.get("complete") != 1:
                raise CorruptStore(f"{path.name} was not finished by its writer")
            if str(file.attrs["format_version"]).split(".")[0] != FORMAT_VERSION.split(".")[0]:
                raise CorruptStore(f"{path.name} has format {file.attrs['format_version']}; this version reads {FORMAT_VERSION}")
        yield file


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Around the reading of a file that may be damaged: whatever h5py makes of it is CorruptStore, or the disk's fault."""
    try:
        yield
    except DAMAGE as error:
        raise fault_of_the_file_system(error, path) or CorruptStore(f"{path.name} is damaged: {first_line(error)}") from error
