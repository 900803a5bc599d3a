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
_SICK = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EREMOTEIO, errno.ENODEV, errno.ENXIO, errno.ENOLCK)
# What NFS, Lustre and FUSE answer while their server or the way to it is gone.
_CUT_OFF = (errno.ETIMEDOUT, errno.ESHUTDOWN, errno.ECONNABORTED, errno.ECONNRESET, errno.ECONNREFUSED, errno.EHOSTDOWN, errno.EHOSTUNREACH)
REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or have the quota raised",
    errno.EROFS: "make it writable",
    errno.EFBIG: "have the limit on the size of files raised",
    errno.ENOMEM: "give the task more memory",
    errno.EMFILE: "have the limit on open files raised (ulimit -n)",
    errno.ENFILE: "the whole machine has too many files open, use another or wait",
    errno.EAGAIN: "wait, or have the limit on threads raised (ulimit -u)",
    **dict.fromkeys((*_SICK, *_CUT_OFF, errno.ENETDOWN, errno.ENETUNREACH), LOOK_AFTER),
}
_NO_ACCESS = (errno.EACCES, errno.EPERM)
# h5py raises OSError, ValueError or RuntimeError with the first of these, torch RuntimeError with the others.
_ERRNO_IN_WORDS = re.compile(r"errno = (\d+), error message|errno (\d+) on fopen|unable to .*>.*: .* \((\d+)\)|bytes\. Error code (\d+) \(")


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


class Killed(Transient):
    """One process of a task was killed, as the kernel does for want of memory. The code is a shell's for SIGKILL: more memory next time."""

    exit_code = 137


class BadOption(ProtembedError):
    """A command line option with a value that cannot be used."""

    exit_code = 78


def fault_of_the_file_system(error: BaseException, path: Optional[Path] = None) -> Optional[Transient]:
    """What to raise instead of `error` when a full, failing, read-only or vanished file system, or want of memory, files or threads is behind it, else None.

    path: what was being written or read; without it the message names the file that the error names.
    """
    while error is not None and not isinstance(error, ProtembedError):
        number, name = _errno_of(error), path or getattr(error, "filename", None)
        if number in REMEDIES:
            where = os.path.abspath(os.fsdecode(name)) if name else "a file of this task"
            return Transient(f"{where}: {os.strerror(number)}; {REMEDIES[number]}, then run again with -resume")
        error = error.__cause__ or error.__context__
    return None


def fault_of_reading(error: BaseException, path: Path) -> Optional[Transient]:
    """The same for a file that others made for us: that we may not read it says nothing of what it holds."""
    if _errno_of(error) in _NO_ACCESS:
        return Transient(f"{os.path.abspath(path)} cannot be read: {first_line(error)}; let this user read it, then run again with -resume")
    return fault_of_the_file_system(error, path)


def _errno_of(error: BaseException) -> Optional[int]:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if str(error) == "can't start new thread":  # Python's RuntimeError
        return errno.EAGAIN
    found = _ERRNO_IN_WORDS.search(str(error))
    return int(next(filter(None, found.groups()))) if found else None


def first_line(error: BaseException) -> str:
    """What an error of a library says, on one line; its class when it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
