"""What the merge does in the checkpoint folder: why sequences failed, and what is not needed any more. Knows no checkpoint's content."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Dict

from protembed.layout import batch_path, failures_path


def read_failures(root: Path) -> Dict[str, Dict[int, str]]:
    """Chunk -> row -> reason, of the chunks whose task could not embed some sequence."""
    found: Dict[str, Dict[int, str]] = {}
    for path in root.glob(str(failures_path(Path(), "*", "*"))):
        for line in path.read_text(encoding="utf-8").splitlines():
            row, _, reason = line.partition("\t")
            found.setdefault(path.parent.name, {})[int(row)] = reason
    return found


def remove_checkpoint(root: Path, identity: str, chunk: str) -> None:
    """Remove what a merged chunk does not need any more, and the identity's folder with its last chunk."""
    folder = batch_path(root, identity, chunk, 0).parent
    for _ in range(2):  # an orphaned task may commit a last batch while the first pass is at it
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # other chunks are still there
        folder.parent.rmdir()
