#!/usr/bin/env python3
"""Put the vectors of all chunks into one embeddings.h5 in the order of the input, and account for every record.

Every chunk file is verified before it is used: finished, undamaged, of one identity, holding the sequences of its name.
Writes embeddings.h5, ledger.tsv, failed.tsv when a record has no vector, and summary.json; then removes the checkpoints of the chunks that went in.
"""

import json
import math
import os
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Callable, Dict, Iterable, Iterator, List, Tuple, Union

import numpy as np

from protembed import __version__
from protembed.anchor import folder_of
from protembed.atomic import write_text, writing_table
from protembed.attempts import is_anothers
from protembed.beside import LEAST_BYTES, Here, apart
from protembed.checkpoint_folder import read_failures, remove_checkpoint
from protembed.chunk_file import FILES_OF_A_CHUNK, ChunkFile, open_chunk_file
from protembed.cli import log, run
from protembed.errors import BadOption, Incomplete
from protembed.filling import Filler
from protembed.hdf5 import allow_open_files
from protembed.layout import CONTACTS, CONTACTS_MAX_RESIDUES, is_ragged, rows_of, shard_names
from protembed.ledger import FAILED_HEADER, HEADER, Outcomes, Tally, Totals, count
from protembed.merging import VectorFiles
from protembed.reading import Embeddings, open_embeddings
from protembed.records import EARLIER, RecordBlock, count_records, read_columns
from protembed.store import Sizes, Worker, creating_embeddings, creating_shards
from protembed.vector_datasets import Form

MOST_SHARDS = 10_000


@dataclass(frozen=True)
class Options:
    records: str = field(metadata=dict(help="records.tsv written by split_fasta.py"))
    weights: str = field(metadata=dict(help="weights.json written by fetch_weights.py"))
    outdir: str = field(default=".", metadata=dict(help="where embeddings.h5, ledger.tsv and summary.json go (default: .)"))
    anchor: str = field(default="", metadata=dict(help="anchor file in the checkpoint folder; none: checkpoints are left alone"))
    store_dtype: str = field(default="float32", metadata=dict(choices=["float32", "float16"], help="of the vectors in the file (default: float32)"))
    compression: str = field(default="none", metadata=dict(choices=["none", "gzip", "lzf"], help="of the vectors in the file (default: none)"))
    shards: int = field(default=1, metadata=dict(help="files that share the vectors, with embeddings.h5 as their index (default: 1, no index)"))
    on_failure: str = field(default="error", metadata=dict(choices=["error", "skip"], help="records without vectors: exit 69, or go on (default: error)"))
    keep_checkpoints: bool = field(default=False, metadata=dict(help="do not remove the checkpoints of merged chunks"))
    code_digest: str = field(default="", metadata=dict(help="digest of the pipeline's code, stored as an attribute"))
    chunks: List[str] = field(default_factory=list, metadata=dict(args=["chunks"], nargs="*", type=str, help="chunk files, in any order"))
    earlier: str = field(default="", metadata=dict(help="comma separated: the files of reuse_embeddings.py, in its order (default: none)"))
    verify: str = field(default="", metadata=dict(help="verify.json of verify_embeddings.py, for the file's attributes"))
    session: str = field(default="", metadata=dict(help="the Nextflow session: checkpoints that another one is at are left to it"))
    run_command: str = field(default="", metadata=dict(help="the user's command, stored as an attribute"))

    def __post_init__(self):
        if not 1 <= self.shards <= MOST_SHARDS:
            raise BadOption(f"--shards must be from 1 to {MOST_SHARDS}, found {self.shards}")


def accounted(outcomes: Iterable[Outcomes], tally: Tally, ledger: IO[str], failed: IO[str]) -> Iterator[RecordBlock]:
    """Write the lines of all records, and yield those that have vectors, until `tally` finds one that has none and should."""
    ledger.write(HEADER)
    failed.write(FAILED_HEADER)
    row = 0
    for some in outcomes:
        tally.add(some)
        if tally.offending:
            continue
        ledger.write(some.lines(row))
        failed.write(some.failed_lines())
        block = some.with_vectors()
        row += len(block.ids)
        yield block


def sizes_of(files: VectorFiles, options: Options, outcomes: Callable[[], Iterable[Outcomes]]) -> Tuple[Sizes, int]:
    """What the file will hold, and how many records it leaves out. Incomplete where that shows that one has no vector that should have one."""
    if options.shards == 1 and files.are_good and not any(map(is_ragged, files.names)):
        counts = count_records(Path(options.records))  # all others have their rows, or it shows before a file gets its name
        return Sizes(counts.records - counts.left_out, 0, 0, files.widths, counts.has_samples), counts.left_out
    totals = count(outcomes(), options.on_failure)
    return Sizes(totals.embedded, totals.embedded_residues, totals.pairs, files.widths, totals.has_samples), totals.left_out


def sizes_of_shards(outcomes: Iterable[Outcomes], whole: Sizes, shard_rows: int) -> List[Sizes]:
    """What each of the files will hold that get `shard_rows` records, the last one the rest."""
    residues, pairs = (np.zeros(-(-whole.records // shard_rows), np.int64) for _ in range(2))
    row = 0
    for some in outcomes:
        embedded = some.residues[some.has_vector]
        numbers = np.arange(row, row + len(embedded)) // shard_rows
        np.add.at(residues, numbers, embedded)
        np.add.at(pairs, numbers, rows_of(CONTACTS, embedded))
        row += len(embedded)
    counts = [min(shard_rows, whole.records - start) for start in range(0, whole.records, shard_rows)]
    return [whole._replace(records=count, residues=int(some), pairs=int(of)) for count, some, of in zip(counts, residues, pairs)]


def run_attributes(files: VectorFiles, options: Options) -> Dict[str, object]:
    """What embeddings.h5 says of its origin."""
    weights = json.loads(Path(options.weights).read_text(encoding="utf-8"))
    provenances = [file.provenance for file in files.by_name.values()]
    together = {key: ", ".join(sorted({provenance[key] for provenance in provenances})) for key in ("torch", "device")}
    return dict(
        model=weights["model"],
        random_weights=int(weights["random"]),
        **files.identity.as_attributes(),
        contacts_max_residues=CONTACTS_MAX_RESIDUES,
        store_dtype=options.store_dtype,
        compression=options.compression,
        pipeline_version=__version__,
        code_digest=options.code_digest,
        torch=together["torch"],
        device=together["device"],
        command=options.run_command,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        reused_from=json.dumps([file.origin() for file in files.by_name.values() if isinstance(file, Embeddings)]),
        verify=json.dumps(json.loads(Path(options.verify).read_text(encoding="utf-8")) if options.verify else {}),
    )


def open_all(options: Options, stack: ExitStack) -> Dict[str, Union[ChunkFile, Embeddings]]:
    """Every file with vectors by the name that records.tsv has for it, until `stack` ends."""
    files: Dict[str, Union[ChunkFile, Embeddings]] = {}
    for path in sorted(options.chunks):
        chunk = stack.enter_context(open_chunk_file(Path(path), vectors_later=True))
        files[chunk.chunk] = chunk
    for number, path in enumerate(filter(None, options.earlier.split(",")), 1):
        files[f"{EARLIER}{number}"] = stack.enter_context(open_embeddings(path, verify=True))
    return files


def filling(files: VectorFiles, form: Form, sizes: Sizes, in_shards: bool, stack: ExitStack) -> Worker:
    """Who fills the vector datasets until `stack` ends: a process of its own where they are large, and not compressed (HDF5 does that, here)."""
    shapes = {name: sizes.shape(name) for name in sizes.widths}
    filler = stack.enter_context(closing(Filler(files, form.dtype, shapes if in_shards else {})))
    large = sum(math.prod(shape) for shape in shapes.values()) * np.dtype(form.dtype).itemsize >= LEAST_BYTES
    return stack.enter_context(apart(filler)) if large and form.compression == "none" else Here(filler)


def main(options: Options) -> None:
    outdir = Path(options.outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    allow_open_files(FILES_OF_A_CHUNK * len(options.chunks))
    with ExitStack() as stack:
        by_name = open_all(options, stack)
        identity = next((file.identity.digest for file in by_name.values()), "")
        files = VectorFiles(by_name, read_failures(folder_of(Path(options.anchor)), identity) if options.anchor else {})
        files.refuse_nothing(read_columns(Path(options.records)))
        totals, attributes = merged(files, options, outdir)
    write_text(outdir / "summary.json", json.dumps(dict(attributes, flags=totals.flags, verify=json.loads(str(attributes["verify"]))), indent=2) + "\n")
    if options.anchor and not options.keep_checkpoints:
        for name in files.by_name:
            place = folder_of(Path(options.anchor)), files.identity.digest, name
            if not is_anothers(*place, options.session):
                remove_checkpoint(*place)
    log.info("embeddings.h5: %(n_embedded)d of %(n_records)d records, model %(model)s", attributes)


def merged(files: VectorFiles, options: Options, outdir: Path) -> Tuple[Totals, Dict[str, object]]:
    """Write embeddings.h5, its shards, and the tables of all records."""

    def outcomes() -> Iterator[Outcomes]:
        return map(files.outcomes, read_columns(Path(options.records)))

    sizes, left_out = sizes_of(files, options, outcomes)
    shards = sizes_of_shards(outcomes(), sizes, -(-sizes.records // options.shards)) if options.shards > 1 and sizes.records else []
    form, attributes, path = Form(options.store_dtype, options.compression), run_attributes(files, options), outdir / "embeddings.h5"
    with ExitStack() as stack:
        tables = [outdir / "ledger.tsv", outdir / "failed.tsv" if left_out else Path(os.devnull)]
        lines = [stack.enter_context(writing_table(table)) for table in tables]
        filler = filling(files, form, sizes, len(shards) > 1, stack)  # ends before the tables: on a full disk they get the room of its file
        if len(shards) > 1:
            writer = stack.enter_context(creating_shards(path, sizes, form, filler, dict(zip(shard_names(path, len(shards)), shards)), attributes))
        else:
            writer = stack.enter_context(creating_embeddings(path, sizes, form, filler))
        tally = Tally(options.on_failure)
        for block in accounted(outcomes(), tally, *lines):
            writer.append(block)
        totals = tally.totals()
        counts = dict(n_records=totals.counts["records"], n_embedded=totals.embedded, n_skipped=totals.left_out)
        if writer.finish(attributes | counts) != tally.coverage():
            raise Incomplete("the ids or sequences of embeddings.h5 are not those of the input; please report it")
        filler.ask("check_all")
    return totals, attributes | counts


if __name__ == "__main__":
    sys.exit(run(Options, main))
