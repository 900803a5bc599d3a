#!/usr/bin/env python3
"""Put the vectors of all chunks into one embeddings.h5 in the order of the input, and account for every record.

Every chunk file is verified before it is used: finished, undamaged, of one identity, holding the sequences of its name.
Writes embeddings.h5, ledger.tsv, failed.tsv when a record has no vector, and summary.json; then removes the checkpoints of the chunks that went in.
"""

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import groupby, zip_longest
from operator import attrgetter
from pathlib import Path
from typing import IO, Dict, Iterable, Iterator, List, Sequence, Union

import numpy as np

from protembed import __version__
from protembed.anchor import folder_of
from protembed.atomic import write_text, writing_table
from protembed.checkpoint_folder import read_failures, remove_checkpoint
from protembed.chunk_file import ChunkFile, open_chunk_file
from protembed.cli import log, run
from protembed.errors import ForeignFile, Incomplete
from protembed.hdf5 import allow_open_files
from protembed.identity import differences
from protembed.layout import CONTACTS, CONTACTS_MAX_RESIDUES, OF_VECTORS, is_ragged, vector_names
from protembed.ledger import FAILED_HEADER, HEADER, WITH_VECTOR, Outcome, Totals, count, in_blocks, missing_contacts, status_of
from protembed.reading import Embeddings, open_embeddings
from protembed.records import EARLIER, NOTHING, RecordRow, read_records
from protembed.store import EmbeddingsWriter, Form, RecordBlock, Sizes, creating_embeddings
from protembed.windows import cut_in_words

RECORDS_PER_BLOCK = 4096
OTHER_FILES = 32  # open at once, besides the chunks'
RESIDUES_PER_BLOCK = 1 << 16  # with a vector per residue: 336 MB of width 1280; a longer record is a block by itself


@dataclass(frozen=True)
class Options:
    records: str = field(metadata=dict(help="records.tsv written by split_fasta.py"))
    weights: str = field(metadata=dict(help="weights.json written by fetch_weights.py"))
    outdir: str = field(default=".", metadata=dict(help="where embeddings.h5, ledger.tsv and summary.json go (default: .)"))
    anchor: str = field(default="", metadata=dict(help="anchor file in the checkpoint folder; none: checkpoints are left alone"))
    store_dtype: str = field(default="float32", metadata=dict(choices=["float32", "float16"], help="of the vectors in the file (default: float32)"))
    compression: str = field(default="none", metadata=dict(choices=["none", "gzip", "lzf"], help="of the vectors in the file (default: none)"))
    on_failure: str = field(default="error", metadata=dict(choices=["error", "skip"], help="records without vectors: exit 69, or go on (default: error)"))
    keep_checkpoints: bool = field(default=False, metadata=dict(help="do not remove the checkpoints of merged chunks"))
    code_digest: str = field(default="", metadata=dict(help="digest of the pipeline's code, stored as an attribute"))
    chunks: List[str] = field(default_factory=list, metadata=dict(args=["chunks"], nargs="*", type=str, help="chunk files, in any order"))
    earlier: str = field(default="", metadata=dict(help="comma separated: the files of reuse_embeddings.py, in its order (default: none)"))
    verify: str = field(default="", metadata=dict(help="verify.json of verify_embeddings.py, for the file's attributes"))
    run_command: str = field(default="", metadata=dict(help="the user's command, stored as an attribute"))


class MergedChunks:
    """The verified chunk files of one run, by name."""

    def __init__(self, files: Iterable[ChunkFile], earlier: Sequence[Embeddings], anchor: str):
        self.by_name: Dict[str, Union[ChunkFile, Embeddings]] = {file.chunk: file for file in files}
        self.by_name |= {f"{EARLIER}{number}": file for number, file in enumerate(earlier, 1)}
        self.failures = read_failures(folder_of(Path(anchor))) if anchor else {}
        if not self.by_name and not self.failures:
            raise Incomplete("no chunk was embedded; see the messages of the EMBED_CHUNK tasks above")
        if not self.by_name:
            return  # count() will say what failed
        self.identity = next(iter(self.by_name.values())).identity
        for name, file in self.by_name.items():
            if file.identity != self.identity:
                raise ForeignFile(f"{name} was made by another recipe: {'; '.join(differences(self.identity, file.identity))}")
        self.names = vector_names(self.identity.repr_layers, self.identity.include)
        # A number out of a memoryview comes several times faster than out of an array.
        self._views = {name: [memoryview(column.reshape(-1)) for column in (file.digests, file.flags, file.offsets)] for name, file in self.by_name.items()}

    def outcome(self, record: RecordRow) -> Outcome:
        """Look one record up in its chunk."""
        if record.chunk == NOTHING:
            return Outcome(record, "skipped", record.flags, record.note)
        file = self.by_name.get(record.chunk)
        if file is None and record.chunk in self.failures:
            reason = self.failures[record.chunk].get(record.row)
            return Outcome(record, "failed" if reason else "kept", record.flags, reason or "")
        if file is None:
            return Outcome(record, "lost", record.flags, f"{record.chunk} is missing")
        row, (digests, flags_of, offsets) = record.row, self._views[record.chunk]
        if digests[32 * row : 32 * row + 32].hex() != record.sha256:
            return Outcome(record, "lost", record.flags, f"row {row} of {record.chunk} holds another sequence")
        if row in file.failed:
            return Outcome(record, "failed", record.flags, file.failed[row])
        flags, residues = record.flags | flags_of[row] & OF_VECTORS, offsets[row + 1] - offsets[row]
        cut = cut_in_words(flags, residues, self.identity.max_residues)
        if self.names[-1] == CONTACTS:
            cut = "; ".join(filter(None, [cut, missing_contacts(residues)]))
        return Outcome(record, status_of(flags), flags, f"{record.note}; {cut}" if record.note and cut else record.note or cut, residues)

    def block(self, outcomes: List[Outcome]) -> RecordBlock:
        """Gather the vectors of some consecutive records that have them."""
        records = [outcome.record for outcome in outcomes]
        runs = [(name, np.array([record.row for record in run])) for name, run in groupby(records, key=attrgetter("chunk"))]
        return RecordBlock(
            ids=[record.id for record in records],
            samples=[record.sample for record in records],
            lengths=np.array([record.residues for record in records], np.int32),
            flags=np.array([outcome.flags for outcome in outcomes], np.uint8),
            digests=np.concatenate([self.by_name[name].digests[rows] for name, rows in runs]),
            residues=np.array([outcome.residues for outcome in outcomes], np.int64),
            vectors={name: np.concatenate([self.by_name[chunk].vectors(name, rows) for chunk, rows in runs]) for name in self.names},
        )


def write_all(writer: EmbeddingsWriter, outcomes: Iterable[Outcome], chunks: MergedChunks, ledger: IO[str], failed: IO[str]) -> None:
    """Stream vectors and lines, a block of records at a time."""
    ledger.write(HEADER)
    failed.write(FAILED_HEADER)
    row, residues = 0, RESIDUES_PER_BLOCK if any(map(is_ragged, chunks.names)) else sys.maxsize
    for some in in_blocks(outcomes, RECORDS_PER_BLOCK, residues):
        for outcome in some:
            ledger.write(outcome.as_line(row))
            row += outcome.has_vector
            if not outcome.has_vector:
                failed.write(outcome.as_failed_line())
        embedded = [outcome for outcome in some if outcome.has_vector]
        if embedded:
            writer.append(chunks.block(embedded))


def check_coverage(writer: EmbeddingsWriter, outcomes: Iterable[Outcome]) -> None:
    """Compare ids and digests of the file, read back, with the records, one by one and in order."""
    expected = ((outcome.record.id, bytes.fromhex(outcome.record.sha256)) for outcome in outcomes if outcome.has_vector)
    for row, (wanted, found) in enumerate(zip_longest(expected, writer.written())):
        if wanted != found:
            raise Incomplete(f"row {row} of embeddings.h5 is {found and found[0]}, but {wanted and wanted[0]} belongs there")


def run_attributes(chunks: MergedChunks, totals: Totals, options: Options) -> Dict[str, object]:
    """What embeddings.h5 says of its origin."""
    weights = json.loads(Path(options.weights).read_text(encoding="utf-8"))
    identity, counts = chunks.identity, totals.counts
    provenances = [file.provenance for file in chunks.by_name.values()]
    together = {key: ", ".join(sorted({provenance[key] for provenance in provenances})) for key in ("torch", "device")}
    n_embedded = sum(counts[status] for status in WITH_VECTOR)
    return dict(
        model=weights["model"],
        random_weights=int(weights["random"]),
        **identity.as_attributes(),
        contacts_max_residues=CONTACTS_MAX_RESIDUES,
        store_dtype=options.store_dtype,
        compression=options.compression,
        pipeline_version=__version__,
        code_digest=options.code_digest,
        torch=together["torch"],
        device=together["device"],
        command=options.run_command,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        reused_from=json.dumps([file.origin() for file in chunks.by_name.values() if isinstance(file, Embeddings)]),
        n_records=counts["records"],
        n_embedded=n_embedded,
        n_skipped=counts["records"] - n_embedded,
    )


def main(options: Options) -> None:
    outdir = Path(options.outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    allow_open_files(len(options.chunks) + OTHER_FILES)
    with ExitStack() as stack:
        files = [stack.enter_context(open_chunk_file(Path(path))) for path in sorted(options.chunks)]
        earlier = [stack.enter_context(open_embeddings(path, verify=True)) for path in filter(None, options.earlier.split(","))]
        chunks = MergedChunks(files, earlier, options.anchor)

        def outcomes() -> Iterator[Outcome]:
            return map(chunks.outcome, read_records(Path(options.records)))

        totals = count(outcomes(), options.on_failure)
        attributes = run_attributes(chunks, totals, options)
        verdict = json.loads(Path(options.verify).read_text(encoding="utf-8")) if options.verify else {}
        form = Form(options.store_dtype, options.compression)
        widths = {name: next(iter(chunks.by_name.values())).width(name) for name in chunks.names}
        tables = [outdir / "ledger.tsv", outdir / "failed.tsv" if attributes["n_skipped"] else Path(os.devnull)]
        ledger, failed = (stack.enter_context(writing_table(path)) for path in tables)
        sizes = Sizes(attributes["n_embedded"], totals.embedded_residues, totals.pairs, widths, totals.has_samples)
        with creating_embeddings(outdir / "embeddings.h5", sizes, form) as writer:
            write_all(writer, outcomes(), chunks, ledger, failed)
            check_coverage(writer, outcomes())
            writer.finish(dict(attributes, verify=json.dumps(verdict)))
    write_text(outdir / "summary.json", json.dumps(dict(attributes, flags=totals.flags, verify=verdict), indent=2) + "\n")
    if options.anchor and not options.keep_checkpoints:
        for name in chunks.by_name:
            remove_checkpoint(folder_of(Path(options.anchor)), chunks.identity.digest, name)
    log.info("embeddings.h5: %(n_embedded)d of %(n_records)d records, model %(model)s", attributes)


if __name__ == "__main__":
    sys.exit(run(Options, main))
