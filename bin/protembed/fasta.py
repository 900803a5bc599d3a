"""The text of FASTA files, plain or compressed: titles and residues, many records at a time. Knows nothing of proteins.

The records are Biopython's (SimpleFastaParser). Lines are not counted while all is well: whoever finds a fault asks
header_lines() for its line, which reads the file again.
"""

import bz2
import contextlib
import gzip
import io
import zlib
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Callable, Collection, Dict, Iterator, List, Tuple

import zstandard
from Bio.SeqIO.FastaIO import SimpleFastaParser

from protembed.errors import BadInput, fault_of_the_file_system

BLOCK_RECORDS = 2048
MOST_UNPACKED = 1 << 20  # bytes at a time, where a decompressor can be told
_GZIP, _BZIP2, _ZSTANDARD = b"\x1f\x8b", b"BZh", b"\x28\xb5\x2f\xfd"


def read_blocks(path: Path) -> Iterator[Tuple[List[str], List[str]]]:
    """Yield (titles, residues) of up to BLOCK_RECORDS records: headers without `>`, residues without line ends.

    BadInput when the file is missing, empty, cut off, not text, or has text before its first `>`.
    """
    path = Path(path)
    try:
        with open_text(path) as handle:
            records = SimpleFastaParser(chain([_first_header(handle, path.name)], handle))
            while block := list(islice(records, BLOCK_RECORDS)):
                yield [title for title, _ in block], [residues for _, residues in block]
    except FileNotFoundError:
        raise BadInput(f"{path.name}: no such file") from None
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        if "too much memory" in str(error):  # zstandard's own limit, and that of the program
            window = f"packed with a window of more than 128 MiB (zstd --long); unpack it first: zstd -d --long=31 {path.name}"
            raise BadInput(f"{path.name}: {window}") from None
        raise BadInput(f"{path.name}: compressed file ends early after line {_readable_lines(path)} ({error}); copy it again") from error
    except OSError as error:  # gzip.BadGzipFile is one
        raise fault_of_the_file_system(error, path) or BadInput(f"{path.name}: cannot be read after line {_readable_lines(path)}: {error}") from error


def header_lines(path: Path, wanted: Collection[int]) -> Dict[int, int]:
    """Record -> line of its header, both counted as in the file: records from 0, lines from 1."""
    found: Dict[int, int] = {}
    record = -1
    with open_text(Path(path)) as handle:
        for number, line in enumerate(handle, 1):
            record += line.startswith(">")
            if record in wanted:
                found.setdefault(record, number)
            if len(found) == len(wanted):
                break
    return found


def open_text(path: Path) -> IO[str]:
    """Open a text file for reading; its first bytes tell what it is compressed with, and any line ending counts as one.

    A byte order mark is skipped. Bytes that are not UTF-8 become surrogates, which no id and no sequence may have. BadInput for a pipe.
    """
    if path.is_fifo():
        raise BadInput(f"{path} is a pipe, which cannot be read twice; write it to a file")
    with open(path, "rb") as handle:
        start = handle.read(4)
    raw: Any
    if start.startswith(_GZIP):
        raw = gzip.open(path)  # noqa: SIM115
    elif start.startswith(_BZIP2):
        raw = io.BufferedReader(_Frames(path, bz2.BZ2Decompressor, MOST_UNPACKED), 1 << 20)
    elif start == _ZSTANDARD:
        raw = io.BufferedReader(_Frames(path, zstandard.ZstdDecompressor().decompressobj), 1 << 20)
    else:
        raw = open(path, "rb", buffering=1 << 20)  # noqa: SIM115
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape")


def _first_header(handle: IO[str], name: str) -> str:
    for number, line in enumerate(handle, 1):
        if line.startswith(">"):
            return line
        if line.strip():
            raise BadInput(f"{name}:{number}: expected a header that starts with '>', found {line.strip()[:40]!r}; is this a protein FASTA file?")
    raise BadInput(f"{name}: no records; the file is empty")


def _readable_lines(path: Path) -> int:
    lines = 0
    with contextlib.suppress(EOFError, zlib.error, zstandard.ZstdError, OSError), open_text(path) as handle:
        for _ in handle:
            lines += 1
    return lines


class _Frames(io.RawIOBase):
    """The content of all frames (bz2: streams) of a file. EOFError where it is cut off, the decompressor's error where what follows a frame is none.

    The libraries' own readers would lose records in silence: zstandard's takes any end for the end, bz2's whatever it does not understand.
    """

    def __init__(self, path: Path, new_frame: Callable[[], Any], *most_unpacked: int):
        self._file = open(path, "rb")  # noqa: SIM115
        self._new_frame, self._most = new_frame, most_unpacked
        self._frame = new_frame()
        self._content = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._content:
            compressed = b""
            if self._frame.eof:
                compressed = self._frame.unused_data or self._file.read(1 << 14)
                if not compressed:
                    return 0
                self._frame = self._new_frame()
            elif not self._most or self._frame.needs_input:
                compressed = self._file.read(1 << 14)
                if not compressed:
                    raise EOFError("the last frame has no end")
            self._content = memoryview(self._frame.decompress(compressed, *self._most))
        count = min(len(buffer), len(self._content))
        buffer[:count], self._content = self._content[:count], self._content[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
