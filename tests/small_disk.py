"""A real file system of a few hundred kilobytes that the tests fill, make larger, write-protect, take away and bring back.

A tmpfs in a mount namespace of its own: the machine's mount table never has it, and it is gone with the process that holds
it. Root may do this; anybody else where the kernel gives user namespaces.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import BIN

ROOT_USER = os.geteuid() == 0
HOLD = ["unshare", "--mount"] if ROOT_USER else ["unshare", "--user", "--map-root-user", "--mount"]
ENTER = ["--mount"] if ROOT_USER else ["--user", "--preserve-credentials", "--mount"]


class SmallDisk:
    """A disk at `place`, an empty folder; `seen` is what is on it, for processes outside of the namespace."""

    def __init__(self, place: Path, kilobytes: int):
        self.place, self.source = place, place.with_name(place.name + ".source")
        place.mkdir(), self.source.mkdir()
        mount = 'mount -t tmpfs -o "size=$1k" none "$2" && mount --bind "$2" "$3" && echo mounted && exec cat'
        command = [*HOLD, "bash", "-c", mount, "bash", str(kilobytes), str(self.source), str(place)]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self._holder.stdout.readline() != "mounted\n":
            assert not ROOT_USER, self._holder.communicate()[1]
            pytest.skip(f"nobody but root may mount here: {self._holder.communicate()[1]}")
        self.seen = Path(f"/proc/{self._holder.pid}/root{place}")

    def close(self) -> None:
        """End the namespace, and with it the disk."""
        self._holder.communicate()

    def command(self, *words) -> list:
        """The command line that runs these words where the disk is."""
        return ["nsenter", f"--target={self._holder.pid}", *ENTER, "--", *map(str, words)]

    def _mount(self, *words) -> bool:
        return subprocess.run(self.command(*words), stderr=subprocess.DEVNULL).returncode == 0

    def grow(self) -> None:
        """Room enough from now on."""
        assert self._mount("mount", "-o", "remount,size=1g", self.source)

    def protect(self) -> bool:
        """Make it read-only; False while somebody has a file open for writing."""
        return self._mount("mount", "-o", "remount,ro", self.source)

    def unprotect(self) -> None:
        assert self._mount("mount", "-o", "remount,rw", self.source)

    def take_away(self) -> bool:
        """As when a server is gone: the path is there and leads to an empty folder."""
        return self._mount("umount", "--lazy", self.place)

    def bring_back(self) -> None:
        assert self._mount("mount", "--bind", self.source, self.place)

    def script(self, name, *arguments) -> list:
        """The command line of bin/<name> where the disk is."""
        return self.command(sys.executable, BIN / name, *arguments)

    def run(self, name, *arguments) -> subprocess.CompletedProcess:
        return subprocess.run(self.script(name, *arguments), capture_output=True, text=True, timeout=300)
