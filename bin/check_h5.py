#!/usr/bin/env python3
"""Judge embeddings.h5 and chunk files: whole and consistent (exit code 0), or what is wrong with the first bad one, on one line.

65: the ledger is none, or torn. 67: recipes that do not agree. 68: torn, changed after it was written, or not a file of ours.
69: rows are missing, or are not those of the ledger. Reads every byte; changes nothing.
"""

import glob
import os
import resource
import signal
import sys
import traceback
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Callable, Iterator, List, Tuple

from protembed.chunk_file import open_chunk_file
from protembed.cli import exit_code_of, log, run
from protembed.errors import CorruptStore, ForeignFile, Incomplete, Transient
from protembed.identity import Identity, differences
from protembed.layout import CHUNK_FORMAT, FORMAT
from protembed.ledger import read_ledger
from protembed.seals import opened
from protembed.store import check_embeddings

# Processor time for one file, beyond which HDF5 is taken to turn in circles on a damage: seconds, and bytes per second.
SECONDS, SLOWEST = 60, 10_000_000
OF_HDF5 = ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL", "SIGXCPU")  # how a damage ends it


@dataclass(frozen=True)
class Options:
    files: List[str] = field(metadata=dict(args=["files"], nargs="+", type=str, help="embeddings.h5, chunk_*.h5 or both, to be of one recipe"))
    ledger: str = field(default="", metadata=dict(help="ledger.tsv whose rows an embeddings.h5 must hold (default: not compared)"))


def check_file(path: Path, ledger: str) -> None:
    """CorruptStore, ForeignFile or Incomplete for a bad file."""
    if not path.is_file():
        raise CorruptStore(f"{path} is not there")
    if is_chunk(path):
        with open_chunk_file(path) as chunk:
            log.info("%s is whole: %d sequences, %d of them failed", path.name, len(chunk), len(chunk.failed))
        return
    facts = check_embeddings(path)
    if ledger:
        compare_with_ledger(path, Path(ledger))
    log.info("%s is whole: %d records, model %s, content_sha256 %s", path.name, facts["n_embedded"], facts["model"], facts["content_sha256"])


def is_chunk(path: Path) -> bool:
    try:
        with opened(path, CHUNK_FORMAT):
            return True
    except CorruptStore:
        return False


def compare_with_ledger(path: Path, ledger: Path) -> None:
    """Incomplete unless the file's rows are those that the ledger counts, by id and digest and in order."""

    def stored() -> Iterator[Tuple[int, str, str]]:
        with opened(path, FORMAT) as file:
            for row, (name, digest) in enumerate(zip(file["sequence_ids"].asstr()[:], file["sha256"][:])):
                yield row, name, digest.tobytes().hex()

    expected = ((int(line["row"]), line["id"], line["sha256"]) for line in read_ledger(ledger) if line["row"] != "-")
    for wanted, found in zip_longest(expected, stored()):
        if wanted != found:
            raise Incomplete(f"{path.name}: {described(found)}, but {ledger.name} says {described(wanted)}")


def described(row) -> str:
    return f"row {row[0]} is {row[1]} of sequence {row[2][:16]}" if row else "no further row"


def in_a_process(path: Path, call: Callable[[], int]) -> int:
    """What `call` returns; CorruptStore when it dies of itself, as HDF5 does on some damages, or turns in circles. Transient when it is killed."""
    seconds, (soft, hard) = processor_seconds(path), resource.getrlimit(resource.RLIMIT_CPU)
    users_own = 0 <= soft <= seconds  # infinity is negative
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if not users_own:
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, hard))
            code = call()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        if name not in OF_HDF5 or (name == "SIGXCPU" and users_own):
            raise Transient(f"the check of {path.name} was ended from outside ({name}): for want of memory or time? Nothing is known of the file")
        raise CorruptStore(f"{path.name} is damaged: HDF5 itself fails on it ({name})")
    return os.WEXITSTATUS(status)


def processor_seconds(path: Path) -> int:
    """What one file may take; an index what its shards take, which stand beside it."""
    folder = path.resolve().parent
    read = [path, *folder.glob(f"{glob.escape(path.resolve().stem)}_*_of_*{path.suffix}")]
    return SECONDS + sum(file.stat().st_size for file in read if file.exists()) // SLOWEST


def recipe_of(path: Path) -> Identity:
    """Of a file that was found good."""
    chunk = is_chunk(path)
    with opened(path, CHUNK_FORMAT if chunk else FORMAT) as file:
        return Identity.from_json(file.attrs["identity" if chunk else "recipe"])


def judge(path: Path, ledger: str) -> int:
    """The exit code for a file; what is wrong with it has been said. CorruptStore when HDF5 fails on it."""
    return in_a_process(path, lambda: exit_code_of(Path(__file__).name, lambda: check_file(path, ledger)))


def main(options: Options) -> None:
    paths = list(map(Path, options.files))
    for path in paths:
        code = judge(path, options.ledger)
        if code:
            sys.exit(code)
    for path in paths[1:]:
        differing = differences(recipe_of(paths[0]), recipe_of(path))
        if differing:
            raise ForeignFile(f"{path} has another recipe than {paths[0]}: {'; '.join(differing)}")


if __name__ == "__main__":
    sys.exit(run(Options, main))
