#!/usr/bin/env python3
"""Embed the sequences of one chunk: packed forward passes, a checkpoint every few seconds, one HDF5 in row order.

Run it again after any kind of death: rows that a checkpoint holds are not computed again. Writes <chunk>.h5 and
<chunk>.metrics.json. A step of the pipeline: embed_fasta.py takes a FASTA as it is, without Nextflow.
"""

import functools
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, NoReturn, Set

import torch

from protembed import __version__
from protembed.allocation import keep_freed_memory
from protembed.anchor import folder_of
from protembed.atomic import write_text
from protembed.attempts import Attempt
from protembed.batch import Batch
from protembed.checkpoint import ChunkCheckpoint
from protembed.chunk_file import ChunkContent, RowVectors, write_chunk_file
from protembed.cli import log, run
from protembed.committer import BackgroundCommitter
from protembed.device import compute_exactly, on_device, usable_device
from protembed.embedding import Embedder
from protembed.errors import BadOption, Incomplete, Transient, first_line
from protembed.esm2 import PackedESM2, default_max_tokens
from protembed.identity import chunk_name, identity_of
from protembed.layout import CONTACTS, CONTACTS_MAX_RESIDUES, INCLUDABLE, failures_path
from protembed.meter import Meter
from protembed.proteins import digest_of, read_fasta
from protembed.stitching import Stitcher, shares
from protembed.underway import Underway
from protembed.weights import Description, load_esm2
from protembed.windows import POLICIES, Pieces


@dataclass(frozen=True)
class Options:
    fasta: str = field(metadata=dict(args=["fasta"], help="chunk written by split_fasta.py"))
    weights: str = field(metadata=dict(help="weights folder written by fetch_weights.py"))
    outdir: str = field(default=".", metadata=dict(help="folder for the chunk's .h5 and .metrics.json (default: .)"))
    anchor: str = field(default="", metadata=dict(help="anchor file in the checkpoint folder; none: <outdir>/checkpoints"))
    repr_layers: str = field(default="-1", metadata=dict(help="layers, comma separated, 0..N, negatives from the end (default: -1)"))
    include: str = field(default="mean", metadata=dict(help=f"comma separated, any of {', '.join(INCLUDABLE)} (default: mean)"))
    dtype: str = field(
        default="auto",
        metadata=dict(choices=["auto", "float32", "float16", "bfloat16"], help="of the matrix products; auto: float32 on CPU, float16 on GPU (default: auto)"),
    )
    long_sequences: str = field(default="truncate", metadata=dict(choices=POLICIES, help="beyond max-residues (default: truncate)"))
    max_residues: int = field(default=1022, metadata=dict(help="residues that are embedded of a long sequence, or at once (default: 1022)"))
    on_failure: str = field(
        default="error",
        metadata=dict(choices=["error", "skip"], help="a sequence that cannot be embedded: exit 69 when all others are kept, or go on (default: error)"),
    )
    device: str = field(default="cpu", metadata=dict(choices=["cpu", "cuda"], help="where to compute (default: cpu)"))
    threads: int = field(default=0, metadata=dict(help="CPU threads; 0: as torch counts the cores of this process (default: 0)"))
    max_tokens: int = field(default=0, metadata=dict(help="tokens per pack; 0: by device (default: 0)"))
    checkpoint_seconds: float = field(default=30.0, metadata=dict(help="seconds between checkpoints (default: 30)"))
    leave_when_orphaned: bool = field(default=False, metadata=dict(help="exit 75 at the next pack when the parent process is gone"))
    session: str = field(default="", metadata=dict(help="Nextflow's session id: exit 75 at the next pack when a newer task of it has the chunk"))

    def __post_init__(self):
        if unknown := set(self.include.split(",")) - set(INCLUDABLE):
            raise BadOption(f"--include has {', '.join(sorted(unknown))}; choose from {', '.join(INCLUDABLE)}")
        if CONTACTS in self.include and self.long_sequences == "window" and self.max_residues < CONTACTS_MAX_RESIDUES:
            raise BadOption(f"contacts with windows need --max-residues of at least {CONTACTS_MAX_RESIDUES}: no pair of residues may be in none")
        if self.max_residues < 1 or min(self.max_tokens, self.threads) < 0 or not self.checkpoint_seconds >= 0:  # nan is not, either
            raise BadOption("--max-residues must be at least 1, --max-tokens, --threads and --checkpoint-seconds not negative")


class Chunk:
    """The rows of a chunk as they stand in the FASTA, and the pieces that the model gets to see: passes and checkpoints take those."""

    def __init__(self, options: Options):
        sequences = [record.sequence for record in read_fasta(Path(options.fasta))]
        self.digests = [digest_of(sequence) for sequence in sequences]
        self.name = chunk_name(self.digests)
        self.pieces = Pieces(sequences, options.long_sequences, options.max_residues)
        self.flags = torch.tensor([self.pieces.flag(number) for number in range(len(self.pieces))], dtype=torch.uint8)


class Recipe:
    """How the options say that vectors are made, and the model that does it, loaded when it is asked for."""

    def __init__(self, options: Options):
        self.dtype = {"cpu": "float32", "cuda": "float16"}[options.device] if options.dtype == "auto" else options.dtype
        self.device = usable_device(options.device, self.dtype)
        self.folder = Path(options.weights)
        weights = Description.read(self.folder)
        self.width = weights.width
        limits = options.long_sequences, options.max_residues
        regression = weights.needed_regression() if CONTACTS in options.include.split(",") else ""
        self.identity = identity_of(weights.sha256, weights.layers, regression, options.repr_layers, options.include, self.dtype, *limits)
        self._engines: Dict[str, PackedESM2] = {}

    def engine(self, dtype: str) -> PackedESM2:
        """The model in a dtype, loaded once. Without functools.cache, whose ring of references keeps it on the device after the last use."""
        if dtype not in self._engines:
            model = load_esm2(self.folder / "model.pt", self.folder / "regression.pt" if self.identity.regression_sha256 else None)
            self._engines[dtype] = PackedESM2(model, self.identity.repr_layers, self.identity.include, getattr(torch, dtype), self.device)
        return self._engines[dtype]

    def load(self) -> None:
        """The model, before the first pass. Transient when the device has no room for it: somebody else may be using it."""
        try:
            on_device(self.engine, self.dtype)
        except torch.OutOfMemoryError as error:
            raise Transient(f"no memory for the weights: {first_line(error)}; use a device with more, or one that nobody else uses") from error

    def embedder(self, chunk: Chunk, max_tokens: int) -> Embedder:
        """Of the chunk's pieces."""

        def begin(dtype: str, numbers: List[int]) -> Underway:
            return self.engine(dtype).begin([chunk.pieces.seen(number) for number in numbers], [shares(chunk.pieces, number) for number in numbers])

        in_fp32 = None if self.dtype == "float32" else lambda numbers: begin("float32", numbers).result()[0]
        budget = max_tokens or default_max_tokens(self.device, self.width, len(self.identity.repr_layers) * ("per_tok" in self.identity.include))
        return Embedder([piece.residues for piece in chunk.pieces.plan], functools.partial(begin, self.dtype), in_fp32, budget)


def embed_missing(embedder: Embedder, chunk: Chunk, checkpoint: ChunkCheckpoint, attempt: Attempt, missing: Set[int], options: Options) -> None:
    """Compute and commit rows; on return all of them are durable or in embedder.failed."""
    commit = functools.partial(checkpoint.commit, attempt=attempt.number)
    with BackgroundCommitter(commit, options.checkpoint_seconds) as committer, Meter(chunk.name, len(missing)) as meter:
        for batch in embedder.run(missing):
            if len(batch.rows):  # none came out well: see embedder.failed
                committer.add(batch._replace(flags=batch.flags | chunk.flags[batch.rows]))
            meter.advance(len(batch.rows), embedder.tokens)
            if reason := attempt.given_up():
                raise Transient(f"{reason}; its successor goes on from the checkpoints")


def as_arrays(batch: Batch) -> RowVectors:
    """A batch as the chunk file takes it."""
    return RowVectors(batch.rows.numpy(), batch.flags.numpy(), {name: part.numpy() for name, part in batch.vectors.items()})


def report_failures(failed: Dict[int, str], chunk: Chunk, path: Path) -> NoReturn:
    """Tell the user here, and the merge through the checkpoint folder: it knows the ids and speaks for all chunks."""
    write_text(path, "".join(f"{row}\t{reason}\n" for row, reason in sorted(failed.items())))
    shown = [f"{chunk.digests[row].hex()[:16]} (row {row}): {reason}" for row, reason in sorted(failed.items())[:20]]
    raise Incomplete("\n".join([f"{len(failed)} sequences of {chunk.name} cannot be embedded; the others are kept:", *shown]))


def main(options: Options) -> None:
    started = time.monotonic()
    chunk, recipe = Chunk(options), Recipe(options)
    keep_freed_memory()
    torch.set_num_threads(options.threads or torch.get_num_threads())  # torch's own: the cores that a batch system gave, not the node's
    compute_exactly()
    outdir = Path(options.outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    root = folder_of(Path(options.anchor)) if options.anchor else outdir / "checkpoints"
    place = root, recipe.identity.digest, chunk.name
    checkpoint = ChunkCheckpoint(*place, len(chunk.pieces))
    provided = checkpoint.good_batches()
    missing = set(range(len(chunk.pieces))).difference(*provided.values())
    if reused := len(chunk.pieces.rows_without(missing)):
        log.info("%s: %d of %d sequences are in the checkpoint", chunk.name, reused, len(chunk.digests))
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")  # tells which device of a machine did which chunk
    facts = dict(device=device, visible_devices=visible, sequences=len(chunk.digests), residues=sum(chunk.pieces.residues()), reused=reused)
    to_do = dict(sequences=len(chunk.pieces), residues=sum(piece.residues for piece in chunk.pieces.plan), reused=len(chunk.pieces) - len(missing))
    attempt = Attempt(*place, dict(facts, **to_do), options.session, options.leave_when_orphaned)
    if missing:
        recipe.load()
    loaded, embedder = time.monotonic(), recipe.embedder(chunk, options.max_tokens)
    embed_missing(embedder, chunk, checkpoint, attempt, missing, options)
    computed, provided = time.monotonic(), provided | checkpoint.committed
    failed = chunk.pieces.failed_rows(embedder.failed)
    if failed and options.on_failure == "error":
        report_failures(failed, chunk, failures_path(*place))
    provenance = dict(device=device, torch=torch.__version__, max_tokens=str(embedder.max_tokens))
    content = ChunkContent(recipe.identity, chunk.digests, chunk.pieces.residues(), recipe.width, failed, provenance)
    write_chunk_file(outdir / f"{chunk.name}.h5", content, map(as_arrays, Stitcher(chunk.pieces).whole(checkpoint.read(provided))))
    metrics = dict(
        {**facts, **embedder.figures()},
        chunk=chunk.name,
        identity=recipe.identity.digest,
        failed=len(failed),
        computed=len(chunk.digests) - reused - len(failed),
        set_aside=checkpoint.rotten,
        load_seconds=loaded - started,
        embed_seconds=computed - loaded,
        seconds=time.monotonic() - started,
        version=__version__,
        attempts=attempt.history(),
    )
    write_text(outdir / f"{chunk.name}.metrics.json", json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(run(Options, main))
