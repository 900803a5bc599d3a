"""What proves that an HDF5 file of ours is whole: checksums over all it holds, and `complete`, written last.

    every dataset    attribute xxh3_128: over its type, shape and bytes
    the file         attribute content_sha256: over those; attributes_sha256: over all other attributes; complete = 1
So a changed byte is found wherever it means something, and two files of equal content_sha256 hold the same. XXH3 (128 bits) keeps up
with memory, where SHA-256 would be most of the work on vectors; against who forges vectors on purpose no checksum within a file helps.
"""

import contextlib
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Collection, Dict, Iterator, List, Mapping, Optional, Tuple

import h5py
import numpy as np
from xxhash import xxh3_128

from protembed.errors import CorruptStore, ProtembedError, fault_of_reading, first_line
from protembed.layout import FORMAT_VERSION

BLOCK_BYTES = 4 << 20
CHECKSUM = "xxh3_128"  # attribute of a dataset
UNSEALED = {"complete", "attributes_sha256"}
# What h5py raises on a damaged file: nearly anything, for it believes what it reads there.
DAMAGE = (AttributeError, IndexError, KeyError, MemoryError, OSError, OverflowError, RuntimeError, SystemError, TypeError, ValueError)
MOST_COMPRESSED = 1032  # bytes that one byte can stand for: deflate's best


def blocks_of(dataset: h5py.Dataset) -> Iterator[np.ndarray]:
    """The dataset in pieces of whole rows, about BLOCK_BYTES each."""
    row_bytes = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    step = max(1, BLOCK_BYTES // row_bytes)
    return (dataset[start : start + step] for start in range(0, len(dataset), step))


def started_checksum(dtype: np.dtype, shape: Tuple[int, ...]) -> xxh3_128:
    """The checksum of a dataset of numbers before its first byte; its rows are to follow in order."""
    return xxh3_128(f"{dtype.str}{shape}".encode())


def checksum_of(dataset: h5py.Dataset, *also: "hashlib._Hash") -> str:
    """XXH3 over dtype, shape and bytes of a dataset of numbers, or over its strings one per line. also: digests over its bytes or strings alone."""
    checksum = started_checksum(dataset.dtype, dataset.shape)
    for block in blocks_of(dataset):
        content = b"\n".join([*block.tolist(), b""]) if dataset.dtype.kind == "O" else block.data
        checksum.update(content)
        for digest in also:
            digest.update(content)
    return checksum.hexdigest()


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


def seal(file: h5py.File, attributes: Mapping[str, object], checksums: Mapping[str, str] = {}) -> str:
    """Write the checksums and the attributes of the file; `complete` comes last. Returns content_sha256.

    checksums: of the datasets whose rows their writer has hashed.
    """
    for name in dataset_names(file):
        file[name].attrs[CHECKSUM] = checksums.get(name) or checksum_of(file[name])
    file.attrs.update(attributes, format_version=FORMAT_VERSION)
    file.attrs["content_sha256"] = content = content_sha256(file)
    file.attrs["attributes_sha256"] = attributes_sha256(file)
    file.flush()
    file.attrs["complete"] = 1
    return content


def check_seal(file: h5py.File, name: str, later: Collection[str] = ()) -> None:
    """CorruptStore when a checksum is not that of what it stands for. Reads all datasets but those in `later`; `name` is for the message."""
    if file.attrs["attributes_sha256"] != attributes_sha256(file):
        raise CorruptStore(f"{name}: an attribute was changed after it was written")
    for dataset in dataset_names(file):
        if dataset not in later:
            check_dataset(file, dataset, name)
    if file.attrs["content_sha256"] != content_sha256(file):
        raise CorruptStore(f"{name}: content_sha256 is not that of its datasets")


def check_dataset(file: h5py.File, dataset: str, name: str) -> None:
    """CorruptStore unless the dataset's checksum is that of what it holds."""
    compare(file[dataset].attrs.get(CHECKSUM), checksum_of(file[dataset]), dataset, name)


def compare(wanted: Optional[str], found: str, dataset: str, name: str) -> None:
    """CorruptStore unless the checksum that stands beside a dataset, if one does, is what was found."""
    if wanted is None:
        raise CorruptStore(f"{name}: dataset {dataset} has no checksum, or that of an older version of protembed; make the file anew")
    if wanted != found:
        raise CorruptStore(f"{name}: dataset {dataset} was damaged after it was written")


@contextlib.contextmanager
def opened(path: Path, wanted_format: str) -> Iterator[h5py.File]:
    """Open one of our files for reading; CorruptStore when it is not one, or not a complete one."""
    try:
        file = _open(path)
    except DAMAGE as error:
        raise _fault_or_damage(error, path, f"{path.name} cannot be read as HDF5 ({first_line(error)}); it is missing or torn") from error
    with file:
        with damage_named(path):
            if file.attrs.get("format") != wanted_format:
                raise CorruptStore(f"{path.name} is not a {wanted_format} file")
            if file.attrs.get("complete") != 1:
                raise CorruptStore(f"{path.name} was not finished by its writer")
            if str(file.attrs["format_version"]).split(".")[0] != FORMAT_VERSION.split(".")[0]:
                raise CorruptStore(f"{path.name} has format {file.attrs['format_version']}; this version reads {FORMAT_VERSION}")
            check_shards(file, path)
        yield file


def _open(path: Path) -> h5py.File:
    """With HDF5's lock, or without where the file or a shard cannot be locked: another program holds it, the file system has no locks.

    By the name of the file itself where the shards stand beside that, and not beside a link to it: HDF5 would take files of
    their names from the working folder before them.

    Never with one would be simpler, but HDF5 refuses what the caller's process has open with it. Shards are opened as their
    index is, and one that does not open is NaN. Nobody writes to a file that has its name.
    """
    try:
        return _open_by_its_name(path, None)
    except OSError:  # whatever else it was comes again
        return _open_by_its_name(path, False)


def _open_by_its_name(path: Path, locking: Optional[bool]) -> h5py.File:
    with contextlib.ExitStack() as closing:
        file = closing.enter_context(h5py.File(path, "r", locking=locking))
        shards = shard_paths(file, path)
        for shard in filter(Path.exists, shards if locking is None else ()):
            h5py.File(shard, "r").close()
        if all(shard.parent == path.parent for shard in shards):
            closing.pop_all()
            return file
    return h5py.File(path.resolve(), "r", locking=locking)  # not before the other is closed: HDF5 keeps the name of the first


def shard_paths(file: h5py.File, path: Path) -> Dict[Path, str]:
    """The files with the vectors of the index at `path`, and the content_sha256 that each had; none of another file."""
    contents = json.loads(file.attrs.get("shard_files", "{}"))
    beside = [folder for folder in (path.parent, path.resolve().parent) if all((folder / name).exists() for name in contents)]
    return {(beside or [path.parent])[0] / name: content for name, content in contents.items()}


def check_shards(file: h5py.File, path: Path) -> None:
    """CorruptStore unless the shards of an index are there, and those it was made with: HDF5 itself would show NaN without a word."""
    locking = None if file.id.get_access_plist().get_file_locking()[0] else False
    for shard, content in shard_paths(file, path).items():
        if not shard.exists():
            raise CorruptStore(f"{path.name} is an index, and {shard.name} with its vectors is not beside it; put it there, or give the shards instead")
        with h5py.File(shard, "r", locking=locking) as part:
            if part.attrs.get("content_sha256") != content or part.attrs.get("complete") != 1:
                raise CorruptStore(f"{shard.name} is not the file that {path.name} was made with")


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Around the reading of a file that may be damaged: whatever h5py makes of it is CorruptStore, or the fault of disk, network or machine."""
    try:
        yield
    except DAMAGE as error:
        raise _fault_or_damage(error, path, f"{path.name} is damaged: {first_line(error)}") from error


def _fault_or_damage(error: BaseException, path: Path, damage: str) -> ProtembedError:
    """No memory for more than a file of this size can hold: it is a damaged one that h5py believes."""
    believed = isinstance(error, MemoryError) and _bytes_wanted(error) > MOST_COMPRESSED * path.stat().st_size
    return (None if believed else fault_of_reading(error, path)) or CorruptStore(damage)


def _bytes_wanted(error: MemoryError) -> int:
    """By numpy, which keeps shape and type in the error, or by h5py, which says it; 0 when it is not known."""
    if hasattr(error, "shape") and hasattr(error, "dtype"):
        return math.prod(error.shape) * error.dtype.itemsize
    said = re.search(r"malloc (\d+) bytes", str(error))
    return int(said[1]) if said else 0
