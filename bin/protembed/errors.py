"""Named errors. Each class is one exit code, and the exit codes are the contract with Nextflow's errorStrategy.

An error that is raised as one of these was foreseen: the user reads its message (which record or parameter, what was
found, what to do) on one line. Anything else is a bug of ours and keeps its traceback.

In between stand faults of the file system: any line of ours, of h5py or of torch can meet them, none can foresee them.
fault_of_the_file_system() tells them from bugs, in one place.
"""

import errno
import os
import re
from pathlib import Path
from typing import Optional

LOOK_AFTER = "look after that file system"
REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or have the quota raised",
    errno.EROFS: "make it writable",
    errno.EFBIG: "have the limit on the size of files raised",
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EREMOTEIO, errno.ENODEV, errno.ENXIO), LOOK_AFTER),
}
_ERRNO_OF_HDF5 = re.compile(r"errno = (\d+), error message")  # h5py raises OSError, ValueError or RuntimeError with this


class ProtembedError(Exception):
    """A foreseen failure; `exit_code` is what the script returns to the shell."""

    exit_code = 1


class BadInput(ProtembedError):
    """The FASTA cannot be used as it is; the message lists the offending records."""

    exit_code = 65


class BadWeights(ProtembedError):
    """The model name is unknown, or the weights file is missing, damaged or not an ESM-2 model."""

    exit_code = 66


class ForeignFile(ProtembedError):
    """A checkpoint or chunk that was made with other weights or parameters."""

    exit_code = 67


class CorruptStore(ProtembedError):
    """An HDF5 file that is torn, was changed after it was written, or is not ours."""

    exit_code = 68


class Incomplete(ProtembedError):
    """Some record has no vector although it was not asked to be skipped, or the vectors are not fair-esm's."""

    exit_code = 69


class Transient(ProtembedError):
    """Trying again, perhaps elsewhere, can help: no GPU in sight, disk full or failing, superseded task."""

    exit_code = 75


class BadOption(ProtembedError):
    """A command line option with a value that cannot be used."""

    exit_code = 78


def fault_of_the_file_system(error: BaseException, path: Optional[Path] = None) -> Optional[Transient]:
    """What to raise instead of `error` when a full, failing, read-only or vanished file system is behind it, else None.

    path: what was being written or read; without it the message names the file that the error names.
    """
    while error is not None and not isinstance(error, ProtembedError):
        number, name = _errno_of(error), path or getattr(error, "filename", None) or "a file"
        if number in REMEDIES:
            return Transient(f"{os.path.abspath(os.fsdecode(name))}: {os.strerror(number)}; {REMEDIES[number]}, then run again with -resume")
        error = error.__cause__ or error.__context__
    return None


def _errno_of(error: BaseException) -> Optional[int]:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _ERRNO_OF_HDF5.search(str(error))
    return int(found[1]) if found else None


def first_line(error: BaseException) -> str:
    """What an error of a library says, on one line; its class when it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
