#!/usr/bin/env python3
"""A FASTA to embeddings.h5 in one process, without Nextflow: the pipeline's own steps one after the other, as one chunk.

    embed_fasta.py proteins.fasta --model esm2_t33_650M_UR50D --output proteins.h5
    embed_fasta.py proteins.fasta --model esm2_t33_650M_UR50D --output proteins.h5 --repr_layers 0 32 33 --include mean per_tok

Run it again after any kind of death: what <output>.work holds is not computed again. Writes <output>, and beside it
<output>.ledger.tsv: what became of each record. The file is the pipeline's (docs/output.md), ids in the order of the input.
Options of esm-extract have their names here; underscores and dashes are the same.
"""

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import List

import embed_chunk
import fetch_weights
import merge_chunks
import split_fasta
import verify_embeddings
from protembed.anchor import CONTENT, NAME
from protembed.atomic import replacing, write_text
from protembed.cli import log, run
from protembed.errors import BadOption
from protembed.layout import INCLUDABLE
from protembed.shapes import RANDOM, regression_beside
from protembed.windows import POLICIES

ONE_CHUNK = 1 << 50  # residues


@dataclass(frozen=True)
class Options:
    fasta: List[str] = field(metadata=dict(args=["fasta"], nargs="+", type=str, help="FASTA files, plain or .gz .bz2 .zst, in order"))
    model: str = field(metadata=dict(help="a name of fair-esm's (esm2_t33_650M_UR50D), random:NAME, or a path that ends in .pt"))
    output: str = field(metadata=dict(help="the HDF5 to write"))
    repr_layers: List[str] = field(
        default_factory=lambda: ["-1"], metadata=dict(nargs="+", type=str, help="layers, 0..N, negatives from the end (default: -1)")
    )
    include: List[str] = field(default_factory=lambda: ["mean"], metadata=dict(nargs="+", type=str, help=f"any of {', '.join(INCLUDABLE)} (default: mean)"))
    max_tokens: int = field(default=0, metadata=dict(args=["--toks-per-batch", "--max-tokens"], help="tokens of a forward pass; 0: by device (default: 0)"))
    max_residues: int = field(
        default=1022, metadata=dict(args=["--truncation-seq-length", "--max-residues"], help="residues of a long sequence that are embedded (default: 1022)")
    )
    long_sequences: str = field(default="truncate", metadata=dict(choices=POLICIES, help="beyond that (default: truncate)"))
    invalid_residues: str = field(default="error", metadata=dict(choices=["error", "substitute", "skip"], help="letters that are no residues (default: error)"))
    duplicate_ids: str = field(default="error", metadata=dict(choices=["error", "rename"], help="ids that occur again: stop, or add _2, _3 (default: error)"))
    on_failure: str = field(default="error", metadata=dict(choices=["error", "skip"], help="a sequence that cannot be embedded (default: error)"))
    dtype: str = field(
        default="auto", metadata=dict(choices=["auto", "float32", "float16", "bfloat16"], help="auto: float32 on CPU, float16 on GPU (default: auto)")
    )
    store_dtype: str = field(default="float32", metadata=dict(choices=["float32", "float16"], help="of the vectors in the file (default: float32)"))
    device: str = field(default="cpu", metadata=dict(choices=["cpu", "cuda"], help="where to compute (default: cpu)"))
    threads: int = field(default=0, metadata=dict(help="CPU threads; 0: as torch counts the cores of this process (default: 0)"))
    verify: int = field(default=16, metadata=dict(help="sequences to embed again with unmodified fair-esm before the file is written; 0: none (default: 16)"))
    weights_dir: str = field(default="~/.cache/protembed", metadata=dict(help="keeps downloads between runs (default: ~/.cache/protembed)"))
    checkpoint_seconds: float = field(default=30.0, metadata=dict(help="seconds between checkpoints (default: 30)"))


def listed(words: List[str]) -> str:
    """'0 32', '0,32' or both, as the steps take them."""
    return ",".join(",".join(words).split(","))


def make(folder: Path) -> None:
    """Unless it is there; BadOption when it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadOption(f"{folder} cannot be made ({error.strerror}); give --output or --weights-dir another place") from error


def anchor_in(folder: Path) -> str:
    """The folder, with its anchor file (main.nf does the same)."""
    make(folder)
    if not (folder / NAME).exists():
        write_text(folder / NAME, CONTENT)
    return str(folder / NAME)


def options_of_steps(options: Options, work: Path) -> dict:
    """What each step is called with."""
    same = {name: getattr(options, name) for name in ("max_residues", "long_sequences", "on_failure", "device", "threads")}
    longest = options.max_residues if options.long_sequences == "error" else 0
    policies = dict(invalid_residues=options.invalid_residues, duplicate_ids=options.duplicate_ids, longest_allowed=longest)
    recipe = dict(repr_layers=listed(options.repr_layers), include=listed(options.include), dtype=options.dtype)
    place = dict(weights=str(work / "weights"), outdir=str(work))
    downloads = "" if options.model.endswith(".pt") or options.model.startswith(RANDOM) else anchor_in(Path(options.weights_dir).expanduser())
    return dict(
        split=split_fasta.Options(options.fasta, outdir=str(work), chunk_residues=ONE_CHUNK, sample=options.verify, **policies),
        fetch=fetch_weights.Options(options.model, outdir=place["weights"], anchor=downloads),
        embed=dict(place, max_tokens=options.max_tokens, checkpoint_seconds=options.checkpoint_seconds, **recipe, **same),
        verify=dict(place, sample=str(work / "sample.fasta"), device=options.device, threads=options.threads),
    )


def ledger_of(output: Path) -> Path:
    """The ledger beside the HDF5."""
    return output.with_name(output.name + ".ledger.tsv")


def refuse_outputs(options: Options, output: Path) -> None:
    """BadOption when a file that is written is one that is read, or cannot be one."""
    for path in (output, ledger_of(output)):
        if path.is_dir():
            raise BadOption(f"{path} is a folder; name another --output")
    model = Path(options.model)
    for path in [*map(Path, options.fasta), model, regression_beside(model)]:
        if path.resolve() in (output.resolve(), ledger_of(output).resolve()):
            raise BadOption(f"{path} is read; name another --output")


def main(options: Options) -> None:
    output = Path(options.output)
    refuse_outputs(options, output)
    work = output.with_name(output.name + ".work")
    steps = options_of_steps(options, work)
    embed_chunk.Options("", **steps["embed"])  # a bad option is told before the input is read
    make(work)
    split_fasta.main(steps["split"])
    fetch_weights.main(steps["fetch"])
    chunks = []
    for fasta in sorted((work / "chunks").glob("chunk_*.fasta")):  # one, or none when every record is left out
        embed_chunk.main(embed_chunk.Options(str(fasta), **steps["embed"]))
        chunks.append(str(work / f"{fasta.stem}.h5"))
    verdict = ""
    if options.verify:
        verify_embeddings.main(verify_embeddings.Options(chunks=chunks, **steps["verify"]))
        verdict = str(work / "verify.json")
    merge_chunks.main(
        merge_chunks.Options(
            records=str(work / "records.tsv"),
            weights=str(work / "weights" / "weights.json"),
            outdir=str(work),
            store_dtype=options.store_dtype,
            on_failure=options.on_failure,
            chunks=chunks,
            verify=verdict,
            run_command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        )
    )
    for made, path in (("ledger.tsv", ledger_of(output)), ("embeddings.h5", output)):
        with replacing(path) as temporary:
            shutil.move(work / made, temporary)
    shutil.rmtree(work)
    log.info("%s is written; %s.ledger.tsv says what became of each record", output, output.name)


if __name__ == "__main__":
    sys.exit(run(Options, main))
