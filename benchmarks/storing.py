#!/usr/bin/env python3
"""What compression does to embeddings.h5: size, time to write, time to read one row and all rows, by layout.

Vectors are those of real proteins embedded by random weights when --vectors names an embeddings.h5, else drawn: a mean and a
spread for each column, as pooled vectors have. All layouts hold the same ones; they take turns. Writes JSON.
"""

import datetime
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "bin")]

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from argparse_dataclass import ArgumentParser  # noqa: E402
from measuring import machine  # noqa: E402

from protembed import hdf5  # noqa: E402
from protembed.vector_datasets import Form  # noqa: E402

BLOCK = 4096  # rows that the merge writes at a time


@dataclass(frozen=True)
class Options:
    vectors: str = field(default="", metadata=dict(help="an embeddings.h5 whose vectors are taken, again and again (default: drawn ones)"))
    rows: int = field(default=100_000, metadata=dict(help="rows (default: 100000)"))
    width: int = field(default=1280, metadata=dict(help="numbers of a drawn row (default: 1280)"))
    dtypes: str = field(default="float32,float16", metadata=dict(help="of the file (default: float32,float16)"))
    pieces: str = field(default="64,256,1024", metadata=dict(help="KiB of a compressed piece (default: 64,256,1024)"))
    single: int = field(default=500, metadata=dict(help="rows that are read one by one (default: 500)"))
    folder: str = field(default=".", metadata=dict(help="for the files, on a disk (default: .)"))
    out: str = field(default="", metadata=dict(help="JSON (default: benchmarks/results/storing-<date>.json)"))


def drawn_vectors(options: Options) -> np.ndarray:
    """(rows, width) fp32."""
    if options.vectors:
        with h5py.File(options.vectors) as file:
            return file["embeddings"][:].astype(np.float32)
    drawn = np.random.default_rng(0)
    mean, spread = drawn.normal(0, 0.1, options.width), drawn.uniform(0.02, 0.1, options.width)
    return (mean + spread * drawn.standard_normal((options.rows, options.width), np.float32)).astype(np.float32)


def measured(vectors: np.ndarray, form: Form, options: Options) -> Dict[str, float]:
    """Write a file of this form, then read it: from the page cache, so that the layout's own cost shows."""
    path = Path(options.folder) / "storing.h5"
    path.unlink(missing_ok=True)
    started = time.process_time()
    with hdf5.writing(path, "w") as (file, _):
        form.create(file, "embeddings", vectors.shape)
        for start in range(0, len(vectors), BLOCK):
            block = vectors[start : start + BLOCK].astype(form.dtype)
            file["embeddings"][start : start + len(block)] = block
    written = time.process_time()
    rows = np.random.default_rng(1).integers(0, len(vectors), options.single)
    with h5py.File(path) as file:
        begun = time.process_time()
        everything = file["embeddings"][:]
        read = time.process_time()
    assert np.array_equal(everything, vectors.astype(form.dtype))
    with h5py.File(path) as file:
        dataset, singly = file["embeddings"], time.process_time()
        for row in rows.tolist():
            dataset[row]
        ended = time.process_time()
    size = path.stat().st_size
    path.unlink()
    gigabytes = vectors.size * np.dtype(form.dtype).itemsize / 1e9
    return dict(
        bytes=size, share=size / gigabytes / 1e9, write_gb_per_second=gigabytes / (written - started),
        read_gb_per_second=gigabytes / (read - begun), row_milliseconds=1000 * (ended - singly) / len(rows),
    )  # fmt: skip


def main(options: Options) -> None:
    vectors, results = drawn_vectors(options), []
    for dtype in options.dtypes.split(","):
        for compression in ("none", "lzf", "gzip"):
            for kibibytes in [0] if compression == "none" else map(int, options.pieces.split(",")):
                hdf5.CHUNK_BYTES = kibibytes << 10
                figures = measured(vectors, Form(dtype, compression), options)
                results.append(dict(dtype=dtype, compression=compression, piece_kib=kibibytes, **figures))
                print(json.dumps({name: round(value, 3) if isinstance(value, float) else value for name, value in results[-1].items()}), file=sys.stderr)
    date = datetime.date.today().isoformat()
    out = Path(options.out or HERE / "results" / f"storing-{date}.json")
    out.write_text(
        json.dumps(
            dict(benchmark="storing", date=date, shape=vectors.shape, drawn=not options.vectors, machine=machine(torch.device("cpu")), cells=results), indent=1
        )
        + "\n"
    )


if __name__ == "__main__":
    main(ArgumentParser(Options, description=__doc__).parse_args())
