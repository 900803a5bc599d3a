#!/usr/bin/env python3
"""Write embeddings.h5 in the layout that another program reads. A few thousand rows are in memory at a time, and all ids.

per_accession  HDF5 with a dataset for each record, as UniProt publishes embeddings and bio_embeddings writes them: (D,) for
               mean and bos, (residues, D) for per_tok. Named by the record, `/` as `_`; attribute original_id
npy            <name>.npy (rows, D) and <name>.ids.txt, one id a line; with per_tok <name>.offsets.npy (N + 1,), too
parquet        columns id, length, embedding (D numbers); needs pyarrow
h5ad           AnnData: X (N, D), obs with length and flags, uns with model, layer and digests
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, Sequence

from protembed.cli import log, run
from protembed.errors import BadOption
from protembed.exporting import Selection, accessions, write_h5ad, write_npy, write_parquet, write_per_accession
from protembed.reading import open_embeddings

LAYOUTS = {"per_accession": write_per_accession, "npy": write_npy, "parquet": write_parquet, "h5ad": write_h5ad}
SUFFIXES = {"per_accession": ".per_accession.h5", "npy": ".npy", "parquet": ".parquet", "h5ad": ".h5ad"}


@dataclass(frozen=True)
class Options:
    embeddings: str = field(metadata=dict(args=["embeddings"], help="embeddings.h5"))
    layout: str = field(default="per_accession", metadata=dict(choices=list(LAYOUTS), help="what to write (default: per_accession)"))
    output: str = field(default="", metadata=dict(help="file to write; one that is there is replaced (default: beside embeddings.h5, under its name)"))
    kind: str = field(default="mean", metadata=dict(choices=["mean", "bos", "per_tok"], help="which vectors (default: mean)"))
    layer: Optional[int] = field(
        default=None, metadata=dict(type=int, help="one of the file's, numbered as in fair-esm; -1: its last (default: its lowest, as in /embeddings)")
    )
    names: str = field(default="id", metadata=dict(choices=["id", "accession"], help="accession: the ACC of sp|ACC|NAME and tr|ACC|NAME (default: id)"))

    def __post_init__(self):
        if self.kind == "per_tok" and self.layout in ("parquet", "h5ad"):
            raise BadOption(f"--layout {self.layout} has one vector a record; for --kind per_tok choose per_accession or npy")
        if self.layout == "npy" and self.output and not self.output.endswith(".npy"):  # the names of its other files are made from it
            raise BadOption(f"--output {self.output} must end in .npy")


def layer_meant(given: Optional[int], layers: Sequence[int]) -> int:
    """Of the file's layers, which rise: the lowest, the given one, or one counted from the last; BadOption."""
    if given is None:
        return layers[0]
    if given < -len(layers):
        raise BadOption(f"--layer {given}: the file has the layers {', '.join(map(str, layers))}")
    return layers[given] if given < 0 else given


def main(options: Options) -> None:
    source = Path(options.embeddings)
    output = Path(options.output or source.with_suffix(SUFFIXES[options.layout]))
    if output.resolve() == source.resolve():
        raise BadOption(f"--output {output} is the file that is read; name another")
    if output.is_dir() or not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        found = "is a folder" if output.is_dir() else f"cannot be made: {output.parent} is no folder, or not yours to write in"
        raise BadOption(f"--output {output} {found}; name a file")
    with open_embeddings(source) as embeddings:
        layer = layer_meant(options.layer, embeddings.identity.repr_layers)
        try:
            embeddings.array(options.kind, layer)
        except KeyError as error:
            raise BadOption(f"--kind {options.kind}, --layer {layer}: {error.args[0]}") from None
        names = accessions(embeddings.ids) if options.names == "accession" else embeddings.ids
        LAYOUTS[options.layout](output, names, Selection(embeddings, options.kind, layer))
    log.info("%s: %d records, %s of layer %d", output, len(names), options.kind, layer)


if __name__ == "__main__":
    sys.exit(run(Options, main))
