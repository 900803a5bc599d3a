"""The three scripts that write files, as small real jobs for the crash tests, and what must hold of their folders.

Each runs the script's own command line in this process, on proteins of E. coli and drawn weights; fork before you run one.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Dict, List, Set

import h5py
import numpy as np
from xxhash import xxh3_128

import embed_chunk
import merge_chunks
import split_fasta
from protembed import cli
from protembed.anchor import CONTENT, NAME
from protembed.chunk_file import open_chunk_file
from protembed.esm2 import PackedESM2
from protembed.proteins import read_fasta
from protembed.shapes import Shape
from protembed.store import check_embeddings
from protembed.weights import describe, random_esm2, save_esm2
from tests.conftest import DEMO_FASTA
from tests.crash import finish

PROTEINS = 24
PACK_TOKENS = 200
BEGIN = PackedESM2.begin
CHECKPOINTS = "checkpoints"


class EmbedJob:
    """embed_chunk.py on one chunk; every pack is a batch. Folder: out/ and checkpoints/, as Nextflow has them."""

    def __init__(self, base: Path, proteins: int = PROTEINS):
        self.weights, self.fasta = base / "weights", base / f"{proteins}.fasta"
        self.model = random_esm2(Shape(1, 64, 1))  # at hand: to read it from the file again would be half of a run's time
        if not self.weights.exists():
            self.weights.mkdir(parents=True)
            save_esm2(self.model, self.weights / "model.pt")
            describe(self.weights / "model.pt", "random:tiny", "seed 0").write(self.weights)
        write_shortest(self.fasta, proteins)

    def prepare(self, folder: Path) -> None:
        """An empty checkpoint folder with its anchor, as main.nf makes it."""
        (folder / CHECKPOINTS).mkdir(parents=True)
        (folder / CHECKPOINTS / NAME).write_text(CONTENT)

    def run(self, folder: Path, out: str = "out", **options) -> None:
        """One thread, a commit after every pack. Each forward pass leaves a byte in a file beside the folder."""

        def counted(model, *arguments):
            with open(folder.with_suffix(".passes"), "a") as passes:
                passes.write(".")
            return BEGIN(model, *arguments)

        PackedESM2.begin, embed_chunk.load_esm2 = counted, lambda *_: self.model
        chosen = dict(include="mean,per_tok", threads=1, max_tokens=PACK_TOKENS, checkpoint_seconds=0.0)
        paths = dict(weights=self.weights, outdir=folder / out, anchor=folder / CHECKPOINTS / NAME)
        run_script(embed_chunk, self.fasta, **paths, **{**chosen, **options})

    def passes(self, folder: Path) -> int:
        """Forward passes of all runs in the folder so far."""
        counter = folder.with_suffix(".passes")
        return counter.stat().st_size if counter.exists() else 0

    def result(self, folder: Path, out: str = "out") -> Dict[str, bytes]:
        """Every dataset of the verified chunk file, bit for bit, and its checksum."""
        (path,) = (folder / out).glob("*.h5")
        with open_chunk_file(path), h5py.File(path) as file:
            return bits_of(file)


class SplitJob:
    """split_fasta.py into a few chunks. Folder: out/ with chunks/."""

    def __init__(self, base: Path):
        self.fasta = write_shortest(base / "input.fasta", 40, one_twice=True)

    def prepare(self, folder: Path) -> None:
        """Nothing: Nextflow gives it an empty folder."""

    def run(self, folder: Path) -> None:
        run_script(split_fasta, self.fasta, outdir=folder / "out", chunk_residues=1024)

    def result(self, folder: Path) -> Dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "out").rglob("[!.]*")) if path.is_file()}


class MergeJob:
    """merge_chunks.py over three embedded chunks. Folder: out/, and checkpoints/ which a successful merge empties."""

    shards = 1

    def __init__(self, base: Path):
        self.base, self.embedded = base, EmbedJob(base)
        fasta = write_shortest(base / "input.fasta", 40, one_twice=True)
        run_script(split_fasta, fasta, outdir=base, chunk_residues=1024)
        self.chunks = sorted((base / "chunks").iterdir())
        self.embedded.prepare(base / "embedded")
        for chunk in self.chunks:
            self.embedded.fasta = chunk
            assert finish(lambda: self.embedded.run(base / "embedded", max_tokens=1000)) == 0

    def prepare(self, folder: Path) -> None:
        """The folder as the merge finds it."""
        shutil.copytree(self.base / "embedded" / CHECKPOINTS, folder / CHECKPOINTS)

    def run(self, folder: Path) -> None:
        paths = dict(records=self.base / "records.tsv", weights=self.embedded.weights / "weights.json", anchor=folder / CHECKPOINTS / NAME)
        run_script(merge_chunks, *(self.base / "embedded" / "out").glob("*.h5"), outdir=folder / "out", shards=self.shards, **paths)

    def result(self, folder: Path) -> Dict[str, bytes]:
        """Whatever is there under a final name: vectors bit for bit, the ledger, the summary; without the time of day."""
        found: Dict[str, bytes] = {}
        for path in (folder / "out").glob("[!.]*"):
            if path.suffix == ".h5":
                check_embeddings(path)
                with h5py.File(path) as file:
                    found |= {f"{path.name} {name}": content for name, content in bits_of(file).items()}
            elif path.suffix == ".json":
                found[path.name] = repr({key: value for key, value in json.loads(path.read_text()).items() if key != "created"}).encode()
            else:
                found[path.name] = path.read_bytes()
        return found


class ShardedMergeJob(MergeJob):
    """The same into two shards and their index."""

    shards = 2


class ApartMergeJob(MergeJob):
    """With the vectors in a process of their own, as where there are many."""

    def run(self, folder: Path) -> None:
        merge_chunks.LEAST_BYTES = 0
        super().run(folder)


def run_script(script, *files, **options) -> None:
    """The script's command line, to its end; SystemExit unless that is a good one."""
    named = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    code = cli.run(script.Options, script.main, [*map(str, files), *named])
    if code:
        raise SystemExit(code)


def write_shortest(path: Path, proteins: int, one_twice: bool = False) -> Path:
    """A FASTA file of the shortest proteins of the demo."""
    records = sorted(read_fasta(DEMO_FASTA), key=lambda record: len(record.sequence))[:proteins]
    records += [records[-1]._replace(id="again")] if one_twice else []
    path.write_text("".join(f">{record.id}\n{record.sequence}\n" for record in records))
    return path


def bits_of(file: h5py.File) -> Dict[str, bytes]:
    """Name -> bytes of every dataset and of its checksum."""
    found: Dict[str, bytes] = {}

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            content = item[:]
            found[name] = b"\0".join(content) if content.dtype.kind == "O" else np.ascontiguousarray(content).tobytes()
            found[name + " checksum"] = str(item.attrs["xxh3_128"]).encode()

    file.visititems(add)
    return found


def durable_batches(folder: Path) -> List[Path]:
    """Batches that a marker vouches for, judged by the documented format alone and not by the code under test."""
    good = []
    for marker in sorted(folder.rglob("batch_*.pt.done")):
        batch = marker.with_name(marker.name[: -len(".done")])
        line = f"{xxh3_128(batch.read_bytes()).hexdigest()}  {batch.name}\n" if batch.exists() else None
        if line and marker.read_text(errors="replace").startswith(line):
            good.append(batch)
    return good


def committed_files(folder: Path) -> Dict[Path, tuple]:
    """Inode and content of every durable batch and its marker: what nobody may ever overwrite."""
    return {path: (os.stat(path).st_ino, path.read_bytes()) for batch in durable_batches(folder) for path in (batch, batch.with_name(batch.name + ".done"))}


def litter(folder: Path) -> Set[str]:
    """Temporary files anywhere below."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*.tmp")}
