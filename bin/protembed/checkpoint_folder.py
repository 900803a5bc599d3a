"""The checkpoint folder from outside: its names, why sequences failed, what is not needed any more. Knows no checkpoint's content."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Dict, List

from protembed.errors import Transient, fault_of_reading
from protembed.layout import batch_path, failures_path


def read_failures(root: Path, identity: str = "") -> Dict[str, Dict[int, str]]:
    """Chunk -> row -> reason, of the chunks whose task could not embed some sequence.

    identity: whose tasks; when it is not known, of each chunk what was written last.
    """
    dated = []
    for recipe in [identity] if identity else [path.name for path in root.iterdir() if path.is_dir()]:
        for chunk in names_in(root / recipe):
            path = failures_path(root, recipe, chunk)
            with suppress(FileNotFoundError, NotADirectoryError):  # none failed, or another run's merge has removed it
                dated.append((path.stat().st_mtime, chunk, path.read_text(encoding="utf-8").splitlines()))
    found: Dict[str, Dict[int, str]] = {}
    for _, chunk, lines in sorted(dated):
        columns = (line.partition("\t") for line in lines)
        found[chunk] = {int(row): reason for row, _, reason in columns}
    return found


def names_in(folder: Path) -> List[str]:
    """Of the files in a folder that may not be there. Transient when it cannot be listed: glob would take it for an empty one."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:  # not made yet, or the merge of another run has removed it
        return []
    except OSError as error:
        raise fault_of_reading(error, folder) or Transient(f"checkpoint folder {folder} cannot be read: {error}") from error


def remove_checkpoint(root: Path, identity: str, chunk: str) -> None:
    """Remove what a merged chunk does not need any more, and the identity's folder with its last chunk."""
    folder = batch_path(root, identity, chunk, 0).parent
    for _ in range(2):  # an orphaned task may commit a last batch while the first pass is at it
        shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # other chunks are still there
        folder.parent.rmdir()
