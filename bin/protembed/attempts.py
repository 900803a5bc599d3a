"""Who works on a chunk: one small file per task, numbered in the order of their coming.

    <root>/<identity>/<chunk>/attempt_00001.json   session, host, pid, device, when, how much there is to do

Tells an orphan from a legitimate second run. Within one Nextflow session (the id stays the same with -resume, and a lock
sees to it that one head lives) a newer attempt means that the older one was given up: nobody will read its result, so it
leaves. Another session's attempt is another run on the same checkpoints: both go on, and either's batches are good.
"""

import json
import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List

from protembed.atomic import create_exclusive
from protembed.errors import Transient
from protembed.layout import MARKER, attempt_path
from protembed.marker import work_of

LATELY = 3600  # seconds: many times what lies between two checkpoints
_NUMBER = re.compile(r"attempt_(\d+)\.json$")


class Attempt:
    """The task that this process is."""

    def __init__(self, root: Path, identity: str, chunk: str, facts: Dict[str, Any], session: str = "", leave_with_parent: bool = False):
        """Take the next number. Transient when the folder cannot be written."""
        self._place, self._session = (root, identity, chunk), session
        self._parent = os.getppid() if leave_with_parent else None
        text = json.dumps(dict(facts, session=session, host=socket.gethostname(), pid=os.getpid(), began=time.time()))
        folder = attempt_path(*self._place, 0).parent
        self._newest_seen = 0
        try:
            self.number = _newest(folder)
            while not self._newest_seen:
                self.number += 1
                with suppress(FileExistsError):
                    create_exclusive(attempt_path(*self._place, self.number), lambda handle: handle.write(text.encode()))
                    self._newest_seen = self.number
        except OSError as error:  # the folder may be gone, too: another run has merged the chunk
            raise Transient(f"checkpoint folder {folder} cannot be written: {error}") from error

    def history(self) -> List[Dict[str, Any]]:
        """The records of all tasks that have taken up the chunk until now, this one the last; what a torn file held is missing."""
        numbers = range(1, self.number + 1)
        return [dict(read_attempt(_read(attempt_path(*self._place, number))), attempt=number) for number in numbers]

    def given_up(self) -> str:
        """Why nobody will read what this task gives, or nothing."""
        if self._parent and os.getppid() != self._parent:
            return "the process that started this task is gone"
        return "a newer task of the same run has this chunk" if self._is_superseded() else ""

    def _is_superseded(self) -> bool:
        while self._session and (text := _read(attempt_path(*self._place, self._newest_seen + 1))):
            if read_attempt(text).get("session") == self._session:
                return True
            self._newest_seen += 1
        return False


def is_anothers(root: Path, identity: str, chunk: str, session: str) -> bool:
    """Whether another run may be at work on a chunk: it took it up last, or has committed since we did; and something came there lately."""
    folder = attempt_path(root, identity, chunk, 0).parent
    try:
        lately = time.time() - folder.stat().st_mtime < LATELY
        newest = _newest(folder)
        begun = attempt_path(root, identity, chunk, newest).stat().st_mtime
        since = [entry.path for entry in os.scandir(folder) if entry.name.endswith(MARKER) and entry.stat().st_mtime > begun]
    except OSError:  # no folder, no attempt
        return False
    committed = {work.attempt for path in since if (work := work_of(_read(Path(path))))}
    records = (read_attempt(_read(attempt_path(root, identity, chunk, number))) for number in {newest} | committed)
    return lately and any(record.get("session", session) != session for record in records)


def _newest(folder: Path) -> int:
    return max((int(match[1]) for match in map(_NUMBER.search, os.listdir(folder)) if match), default=0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_attempt(text: str) -> Dict[str, Any]:
    """The record of an attempt; empty when the file is torn or not ours."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
