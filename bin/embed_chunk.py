#!/usr/bin/env python3
"""Embed the sequences of one chunk: packed forward passes, a checkpoint every few seconds, one HDF5 in row order.

Run it again after any kind of death: rows that a checkpoint holds are not computed again. Writes <chunk>.h5 and
<chunk>.metrics.json.
"""

import functools
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, NoReturn, Set, Tuple

import numpy as np
import torch

from protembed import __version__
from protembed.anchor import folder_of
from protembed.atomic import write_text
from protembed.checkpoint import BackgroundCommitter, Batch, ChunkCheckpoint
from protembed.chunk_file import ChunkContent, RowVectors, write_chunk_file
from protembed.cli import log, run
from protembed.embedding import Embedder, PackVectors
from protembed.errors import BadOption, Incomplete, Transient
from protembed.esm2 import PackedESM2, default_max_tokens, resolve_layers, usable_device
from protembed.identity import Identity, chunk_name
from protembed.layout import KINDS, Flag, failures_path
from protembed.proteins import digest_of, read_fasta
from protembed.weights import Description, load_esm2

SECONDS_BETWEEN_LINES = 10  # of progress on stderr


@dataclass(frozen=True)
class Options:
    fasta: str = field(metadata=dict(args=["fasta"], help="chunk written by split_fasta.py"))
    weights: str = field(metadata=dict(help="weights folder written by fetch_weights.py"))
    outdir: str = field(default=".", metadata=dict(help="folder for the chunk's .h5 and .metrics.json (default: .)"))
    anchor: str = field(default="", metadata=dict(help="anchor file in the checkpoint folder; none: <outdir>/checkpoints"))
    repr_layers: str = field(default="-1", metadata=dict(help="layers, comma separated, 0..N, negatives from the end (default: -1)"))
    include: str = field(default="mean", metadata=dict(help=f"comma separated, any of {', '.join(KINDS)} (default: mean)"))
    dtype: str = field(
        default="auto",
        metadata=dict(choices=["auto", "float32", "float16", "bfloat16"], help="of the matrix products; auto: float32 on CPU, float16 on GPU (default: auto)"),
    )
    long_sequences: str = field(default="truncate", metadata=dict(choices=["error", "truncate", "full"], help="beyond max-residues (default: truncate)"))
    max_residues: int = field(default=1022, metadata=dict(help="residues that are embedded of a long sequence (default: 1022)"))
    on_failure: str = field(
        default="error",
        metadata=dict(choices=["error", "skip"], help="a sequence that cannot be embedded: exit 69 when all others are kept, or go on (default: error)"),
    )
    device: str = field(default="cpu", metadata=dict(choices=["cpu", "cuda"], help="where to compute (default: cpu)"))
    threads: int = field(default=0, metadata=dict(help="CPU threads; 0: all cores (default: 0)"))
    max_tokens: int = field(default=0, metadata=dict(help="tokens per pack; 0: by device (default: 0)"))
    checkpoint_seconds: float = field(default=30.0, metadata=dict(help="seconds between checkpoints (default: 30)"))
    leave_when_orphaned: bool = field(default=False, metadata=dict(help="exit 75 at the next pack when the parent process is gone"))

    def __post_init__(self):
        unknown = set(self.include.split(",")) - set(KINDS)
        if unknown:
            raise BadOption(f"--include has {', '.join(sorted(unknown))}; choose from {', '.join(KINDS)}")
        if self.max_residues < 1 or self.max_tokens < 0 or self.checkpoint_seconds < 0:
            raise BadOption("--max-residues must be at least 1, --max-tokens and --checkpoint-seconds not negative")


class Chunk:
    """The rows of a chunk: what stands in the FASTA, and what the model gets to see of it."""

    def __init__(self, options: Options):
        whole = [record.sequence for record in read_fasta(Path(options.fasta))]
        limit = None if options.long_sequences == "full" else options.max_residues
        self.digests = [digest_of(sequence) for sequence in whole]
        self.name = chunk_name(self.digests)
        self.seen = [sequence[:limit] for sequence in whole]
        self.flags = [Flag.TRUNCATED if len(sequence) > len(seen) else Flag(0) for sequence, seen in zip(whole, self.seen)]
        self.residues = [len(sequence) for sequence in self.seen]


def load_embedder(options: Options, chunk: Chunk) -> Tuple[Embedder, Identity, int]:
    """The model on its device, ready for the chunk; the identity of the vectors it gives; their width."""
    device = usable_device(options.device)
    dtype_name = {"cpu": "float32", "cuda": "float16"}[device.type] if options.dtype == "auto" else options.dtype
    torch.set_num_threads(options.threads or os.cpu_count() or 1)
    torch.backends.cuda.matmul.allow_tf32 = False
    folder = Path(options.weights)
    weights = Description.read(folder)
    layers = resolve_layers(options.repr_layers, weights.layers)
    include = tuple(sorted(set(options.include.split(","))))
    limit = 0 if options.long_sequences == "full" else options.max_residues
    identity = Identity(weights.sha256, layers, include, dtype_name, options.long_sequences, limit)

    @functools.cache
    def engine(dtype: torch.dtype) -> PackedESM2:
        return PackedESM2(load_esm2(folder / "model.pt"), layers, include, dtype, device)

    def in_fp32(sequences):
        return engine(torch.float32).embed(sequences)  # loaded when the first row needs it, and kept for the others

    max_tokens = options.max_tokens or default_max_tokens(device, weights.width)
    embed_fp32 = None if dtype_name == "float32" else in_fp32
    return Embedder(chunk.seen, engine(getattr(torch, dtype_name)).embed, embed_fp32, max_tokens), identity, weights.width


def embed_missing(embedder: Embedder, chunk: Chunk, checkpoint: ChunkCheckpoint, missing: Set[int], options: Options) -> None:
    """Compute and commit rows; on return all of them are durable or in embedder.failed."""
    parent, started, done, told = os.getppid(), time.monotonic(), 0, 0.0
    with BackgroundCommitter(checkpoint.commit, options.checkpoint_seconds) as committer:
        for result in embedder.run(missing):
            if result.rows:  # none came out well: see embedder.failed
                committer.add(as_batch(result, chunk))
            done += len(result.rows)
            now = time.monotonic()
            if now - told >= SECONDS_BETWEEN_LINES or done == len(missing):
                told = now
                log.info("%s: %d of %d sequences, %.0f tokens/s", chunk.name, done, len(missing), embedder.tokens / (now - started))
            if options.leave_when_orphaned and os.getppid() != parent:
                raise Transient("the task that started this process is gone; its successor goes on from the checkpoints")


def as_batch(result: PackVectors, chunk: Chunk) -> Batch:
    """The vectors of a pack as the checkpoint wants them."""
    flags = [flag | chunk.flags[row] for flag, row in zip(result.flags, result.rows)]
    return Batch(torch.tensor(result.rows), torch.tensor(flags, dtype=torch.uint8), torch.tensor(result.residues), result.vectors)


def row_vectors(checkpoint: ChunkCheckpoint, provided: Dict[Path, List[int]]) -> Iterator[RowVectors]:
    """The checkpointed vectors, batch by batch, each row once."""
    for path, rows in provided.items():
        batch = checkpoint.load(path)
        if batch is None:
            raise Transient(f"checkpoint {path} was good and is not any more; the next attempt computes its rows again")
        keep = np.isin(batch.rows.numpy(), rows)
        if not keep.all():  # a second writer has committed some of these rows before
            batch = batch.of_rows(keep)
        yield RowVectors(batch.rows.numpy(), batch.flags.numpy(), {name: part.numpy() for name, part in batch.vectors.items()})


def report_failures(failed: Dict[int, str], chunk: Chunk, path: Path) -> NoReturn:
    """Tell the user here, and the merge through the checkpoint folder: it knows the ids and speaks for all chunks."""
    write_text(path, "".join(f"{row}\t{reason}\n" for row, reason in sorted(failed.items())))
    shown = [f"{chunk.digests[row].hex()[:16]} (row {row}): {reason}" for row, reason in sorted(failed.items())[:20]]
    raise Incomplete("\n".join([f"{len(failed)} sequences of {chunk.name} cannot be embedded; the others are kept:", *shown]))


def main(options: Options) -> None:
    started = time.monotonic()
    chunk = Chunk(options)
    embedder, identity, width = load_embedder(options, chunk)
    outdir = Path(options.outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    root = folder_of(Path(options.anchor)) if options.anchor else outdir / "checkpoints"
    checkpoint = ChunkCheckpoint(root, identity.digest, chunk.name, len(chunk.seen))
    provided = checkpoint.good_batches()
    reused = sum(map(len, provided.values()))
    if reused:
        log.info("%s: %d of %d sequences are in the checkpoint", chunk.name, reused, len(chunk.seen))
    loaded = time.monotonic()
    embed_missing(embedder, chunk, checkpoint, set(range(len(chunk.seen))).difference(*provided.values()), options)
    computed = time.monotonic()
    provided = checkpoint.good_batches()
    lost = set(range(len(chunk.seen))).difference(embedder.failed, *provided.values())
    if lost:
        raise Transient(f"{len(lost)} sequences of {chunk.name} were committed and cannot be read back; the next attempt computes them again")
    if embedder.failed and options.on_failure == "error":
        report_failures(embedder.failed, chunk, failures_path(root, identity.digest, chunk.name))
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    provenance = {"device": device, "torch": torch.__version__, "max_tokens": str(embedder.max_tokens)}
    content = ChunkContent(identity, chunk.digests, chunk.residues, width, embedder.failed, provenance)
    write_chunk_file(outdir / f"{chunk.name}.h5", content, row_vectors(checkpoint, provided))
    metrics = dict(
        chunk=chunk.name,
        sequences=len(chunk.seen),
        residues=sum(chunk.residues),
        reused=reused,
        failed=len(embedder.failed),
        computed=len(chunk.seen) - reused - len(embedder.failed),
        forward_passes=embedder.forward_passes,
        tokens=embedder.tokens,
        packing_efficiency=embedder.efficiency(),
        max_tokens=embedder.max_tokens,
        pack_tokens=embedder.pack_tokens,
        packs=len(embedder.packs),
        out_of_memory=embedder.out_of_memory,
        set_aside=checkpoint.rotten,
        load_seconds=loaded - started,
        embed_seconds=computed - loaded,
        seconds=time.monotonic() - started,
        device=device,
        version=__version__,
    )
    write_text(outdir / f"{chunk.name}.metrics.json", json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run(Options, main))
