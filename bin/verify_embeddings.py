#!/usr/bin/env python3
"""Prove the numbers of this run: embed a sample again with unmodified fair-esm in fp32, one sequence at a time, and compare.

Reads the sample that split_fasta.py drew and the chunk files that hold it; writes verify.json with the worst relative L2
distance and cosine of every kind of vector. Exit code 69 when a figure is beyond the bound for the run's dtype.
"""

import json
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Dict, Iterator, List, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from protembed.atomic import write_text
from protembed.chunk_file import FILES_OF_A_CHUNK, ChunkFile, open_chunk_file
from protembed.cli import log, run
from protembed.device import compute_exactly, on_device, usable_device
from protembed.errors import BadOption, Incomplete, Transient, first_line
from protembed.hdf5 import allow_open_files
from protembed.layout import CONTACTS, Flag, rows_of, vector_name
from protembed.proteins import digest_of, read_fasta
from protembed.reading import open_embeddings
from protembed.weights import Description, load_esm2
from protembed.windows import window_starts

# Per compute dtype: worst relative L2 distance of any vector, least cosine of a pooled one. float16 has 10 bits of mantissa,
# bfloat16 three fewer: distances may be 8 times as large, 1 - cosine goes with their square.
BOUNDS = {"float32": (2e-5, 0.99999), "float16": (2e-3, 0.99999), "bfloat16": (1.6e-2, 0.99936)}


@dataclass(frozen=True)
class Options:
    sample: str = field(metadata=dict(help="sample.fasta written by split_fasta.py"))
    weights: str = field(metadata=dict(help="weights folder written by fetch_weights.py"))
    outdir: str = field(default=".", metadata=dict(help="where verify.json goes (default: .)"))
    device: str = field(default="cpu", metadata=dict(choices=["cpu", "cuda"], help="where fair-esm computes (default: cpu)"))
    threads: int = field(default=0, metadata=dict(help="CPU threads; 0: as torch counts the cores of this process (default: 0)"))
    earlier: str = field(default="", metadata=dict(help="comma separated: the files of reuse_embeddings.py (default: none)"))
    chunks: List[str] = field(default_factory=list, metadata=dict(args=["chunks"], nargs="*", type=str, help="chunk files that hold the sample"))

    def __post_init__(self):
        if self.threads < 0:
            raise BadOption(f"--threads must not be negative, found {self.threads}")


class Worst:
    """The worst figures of one kind of vector."""

    def __init__(self):
        self.relative_l2, self.cosine = 0.0, 1.0

    def take(self, ours: np.ndarray, reference: Tensor) -> None:
        """Both (rows, D); a row is judged by itself. A NaN stays."""
        ours, reference = torch.tensor(ours, dtype=torch.float64), reference.double().cpu()
        distances = (ours - reference).norm(dim=1) / reference.norm(dim=1)
        cosines = torch.nn.functional.cosine_similarity(ours, reference)
        self.relative_l2 = float(np.maximum(self.relative_l2, distances.max().item()))
        self.cosine = float(np.minimum(self.cosine, cosines.min().item()))

    def is_beyond(self, most: float, least: float) -> bool:
        """Also when a figure is no number."""
        return not (self.relative_l2 <= most and self.cosine >= least)


def reference_vectors(model, device: torch.device, sequence: str, layers: Tuple[int, ...], size: int, with_contacts: bool = False) -> Dict[str, Tensor]:
    """What fair-esm's own extract script computes of windows of `size` residues, averaged: vector name -> (rows, D)."""
    windows = [slice(start, start + size) for start in window_starts(len(sequence), size)]
    passes = [_representations(model, device, sequence[window], layers, with_contacts and len(windows) == 1) for window in windows]
    vectors = {name: passes[0][name].reshape(1, -1) for name in (CONTACTS,) if name in passes[0]}
    for layer in layers:
        residues, times = torch.zeros(len(sequence), model.embed_dim, device=device), torch.zeros(len(sequence), 1, device=device)
        for window, representations in zip(windows, passes):
            residues[window] += representations[layer][1:-1]
            times[window] += 1
        vectors[vector_name(layer, "per_tok")] = residues / times
        vectors[vector_name(layer, "mean")] = (residues / times).mean(0, keepdim=True)
        vectors[vector_name(layer, "bos")] = torch.stack([representations[layer][0] for representations in passes]).mean(0, keepdim=True)
    return vectors


@torch.inference_mode()
def _representations(model, device: torch.device, sequence: str, layers: Tuple[int, ...], with_contacts: bool) -> Dict[Union[int, str], Tensor]:
    _, _, tokens = model.alphabet.get_batch_converter()([("one", sequence)])
    found = model(tokens.to(device), repr_layers=list(layers), return_contacts=with_contacts)
    return {name: part[0] for name, part in {**found["representations"], **({CONTACTS: found[CONTACTS]} if with_contacts else {})}.items()}


def sampled_rows(path: Path, files: List[ChunkFile]) -> Iterator[Tuple[ChunkFile, int, str]]:
    """(file, row, sequence as the model saw it) of the sampled sequences that have vectors."""
    for record in read_fasta(path):
        digest = np.frombuffer(digest_of(record.sequence), np.uint8)
        places = ((file, int(row)) for file in files for row in np.flatnonzero((file.digests == digest).all(axis=1)) if row not in file.failed)
        for file, row in islice(places, 1):
            yield file, row, record.sequence[: file.offsets[row + 1] - file.offsets[row]]


def compare(files: List[ChunkFile], options: Options) -> Tuple[Dict[str, Worst], int]:
    """The worst figures by kind of vector, and of how many sequences."""
    worst: Dict[str, Worst] = {}
    if not files:  # no sampled sequence has vectors; the merge says why
        return worst, 0
    torch.set_num_threads(options.threads or torch.get_num_threads())
    compute_exactly()
    device = usable_device(options.device)
    regression = Path(options.weights) / "regression.pt" if CONTACTS in files[0].identity.include else None
    model = load_esm2(Path(options.weights) / "model.pt", regression).to(device).float()
    count = 0
    for file, row, sequence in sampled_rows(Path(options.sample), files):
        count += 1
        size = file.identity.max_residues if file.flags[row] & Flag.WINDOWED else len(sequence)
        has_contacts = CONTACTS in file.identity.include and rows_of(CONTACTS, len(sequence)) > 0
        for name, reference in reference_vectors(model, device, sequence, file.identity.repr_layers, size, has_contacts).items():
            kind = name.rpartition("/")[2]
            if kind in file.identity.include:
                ours = file.vectors(name, np.array([row]))
                worst.setdefault(kind, Worst()).take(ours.reshape(1, -1) if kind == CONTACTS else ours, reference)
    return worst, count


def main(options: Options) -> None:
    started = time.monotonic()
    allow_open_files(FILES_OF_A_CHUNK * len(options.chunks))
    with ExitStack() as stack:
        files = [stack.enter_context(open_chunk_file(Path(path))) for path in sorted(options.chunks)]
        files += [stack.enter_context(open_embeddings(path)) for path in filter(None, options.earlier.split(","))]
        try:
            worst, count = on_device(compare, files, options)
        except torch.OutOfMemoryError as error:
            raise Transient(f"no memory for fair-esm in fp32: {first_line(error)}; use a device with more, or --verify 0") from error
        dtype = files[0].identity.compute_dtype if files else "float32"
    most, least = BOUNDS[dtype]
    # Drawn weights have sharper attention than learned ones: the bounds of half precision are about the latter.
    binding = dtype == "float32" or not Description.read(Path(options.weights)).random
    figures = {kind: dict(relative_l2=figure.relative_l2, cosine=figure.cosine) for kind, figure in worst.items()}
    verdict = dict(sequences=count, dtype=dtype, bound_relative_l2=most, bound_cosine=least, binding=binding, worst=figures, seconds=time.monotonic() - started)
    outdir = Path(options.outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    write_text(outdir / "verify.json", json.dumps(verdict, indent=2) + "\n")
    said = "; ".join(f"{kind}: relative L2 {figure.relative_l2:.1e}, cosine {figure.cosine:.7f}" for kind, figure in worst.items())
    # Of contacts in half precision no bound is known: they are reported.
    judged = {kind: figure for kind, figure in worst.items() if kind != CONTACTS or dtype == "float32"}
    if binding and any(figure.is_beyond(most, 0.0 if kind == "per_tok" else least) for kind, figure in judged.items()):
        raise Incomplete(f"vectors of this run are not fair-esm's: worst of {count} sequences: {said}; allowed with {dtype}: {most:.0e} and {least}")
    log.info("%d sequences embedded again by fair-esm in fp32: %s", count, said)


if __name__ == "__main__":
    sys.exit(run(Options, main))
