"""Named errors. Each class is one exit code, and the exit codes are the contract with Nextflow's errorStrategy.

An error that is raised as one of these was foreseen: the user reads its message (which record or parameter, what was
found, what to do) on one line. Anything else is a bug of ours and keeps its traceback.
"""


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
    """Some record has no vector although it was not asked to be skipped."""

    exit_code = 69


class Transient(ProtembedError):
    """Trying again, perhaps elsewhere, can help: no GPU in sight, disk full, superseded task."""

    exit_code = 75


class BadOption(ProtembedError):
    """A command line option with a value that cannot be used."""

    exit_code = 78


def first_line(error: BaseException) -> str:
    """What an error of a library says, on one line; its class when it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
