"""The anchor file: how a container gets to see the checkpoint folder.

Nextflow mounts the folder of every staged input read-write. So one constant file lives in the folder, is staged as an
input, and its real path tells the folder. A copy of the anchor (a stage-in mode that copies, an object store) leads
nowhere: checkpoints written beside it would vanish with the task, so that is an error, not a fallback.
"""

import os
from pathlib import Path

from protembed.atomic import remove_leftovers, temporary_name
from protembed.errors import BadOption, Transient

NAME = ".protembed-anchor"
CONTENT = "protembed keeps files beside this one; leave it here.\n"


def folder_of(anchor: Path) -> Path:
    """The folder that the anchor was staged from.

    BadOption when it is a copy or no anchor, Transient when the folder cannot be written.
    """
    real = Path(os.path.realpath(anchor))
    if not real.is_file() or real.read_text(encoding="utf-8", errors="replace") != CONTENT:
        raise BadOption(f"{anchor} does not lead to an anchor file of protembed ({real}); is its folder mounted?")
    if real.name != NAME:  # inputs are staged under another name: this is no link to the folder
        raise BadOption(f"{anchor} was copied, not linked: files kept beside it would be lost with the task; set stageInMode to 'symlink'")
    remove_leftovers(real.parent, real.name)  # probes of dead processes
    probe = temporary_name(real)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise Transient(f"folder {real.parent} cannot be written: {error.strerror}") from error
    return real.parent
