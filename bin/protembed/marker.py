"""The text of a marker: two lines, of which `xxhsum --check` passes over the second. Standard library only.

<XXH3, 128 bits>  batch_00000.pt
# 512 sequences, 161203 residues, 29.8 seconds, attempt 1
"""

import re
from typing import NamedTuple, Optional

_WORK = re.compile(r"^# (\d+) sequences, (\d+) residues, (\d+\.\d) seconds, attempt (\d+)$", re.MULTILINE)


class Work(NamedTuple):
    """What stands behind a marker."""

    sequences: int
    residues: int
    seconds: float  # from the commit before it by the same attempt, or from the attempt's begin of embedding
    attempt: int


def marker_text(digest: str, name: str, sequences: int, residues: int, seconds: float, attempt: int) -> str:
    """The content of the marker of a batch file called `name` with this digest, hexadecimal."""
    return f"{digest}  {name}\n# {sequences} sequences, {residues} residues, {seconds:.1f} seconds, attempt {attempt}\n"


def vouched_digest(text: str) -> str:
    """The digest that the marker stands for."""
    return text.partition(" ")[0]


def work_of(text: str) -> Optional[Work]:
    """What was committed with the marker; None when the comment is not there or damaged: it decides nothing."""
    match = _WORK.search(text)
    return Work(int(match[1]), int(match[2]), float(match[3]), int(match[4])) if match else None
