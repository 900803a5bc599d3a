"""Files that are complete under their final name or absent, whatever kills the process or the machine.

Two ways to create one:
  replacing(path)         the last writer wins: results of a task (rename over whatever is there)
  create_exclusive(path)  the first writer wins: checkpoints (a name that is taken stays as it is)
Both write under a unique temporary name in the same folder, fsync the file, give it its name, and fsync the folder. Where a
mounted object store has no hard links, the second writes under the name itself.
What a killed writer leaves under a temporary name is removed by the next one that can prove its death.
This is the only module of the project that renames, links or fsyncs.
"""

import contextlib
import errno
import glob
import hashlib
import os
import re
import secrets
import socket
from pathlib import Path
from typing import IO, Callable, Iterator, Set

from protembed.errors import Transient, fault_of_the_file_system

# File systems without hard links (FAT, most FUSE object stores) answer link(2) with one of these.
NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
NO_SYNC_OF_FOLDERS = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}  # shared folders of virtual machines, old CIFS
_WITHOUT_HARD_LINKS: Set[int] = set()  # devices that have refused one: the first file of a task, a small one, tells
BLOCK = 1 << 20
UNKNOWN = "unknown"
_WRITER = re.compile(r"\.(\d{1,9})\.[0-9a-f]{8}\.tmp$")


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other writer uses: `.<name>.<host>.<boot>-<pid namespace>.<pid>.<random>.tmp`."""
    return path.with_name(f".{path.name}.{_where_pids_count()}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _where_pids_count() -> str:
    """Names the one place where a pid means the same process as here: host, boot of its kernel, pid namespace (container)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # not Linux, or no /proc
        boot, namespace = UNKNOWN, 0
    return f"{socket.gethostname()}.{boot}-{namespace}"


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove temporary files in `folder` (of the final name `name`, or all) whose writers are provably dead.

    Proof: written on this host, under this boot and pid namespace, by a pid that no process has. Another process that
    got the pid meanwhile makes the file stay, and so does whatever cannot be known: it is litter, never a danger.
    """
    here = _where_pids_count()
    for path in Path(folder).glob(f".{glob.escape(name) or '*'}.*.tmp"):
        writer = _WRITER.search(path.name)
        if writer and f".{here}.{writer[1]}." in path.name and f".{UNKNOWN}-" not in path.name and not _is_alive(int(writer[1])):
            with contextlib.suppress(OSError):  # another writer was faster, or it is not ours to remove
                os.unlink(path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:  # or it is somebody else's process
        return not isinstance(error, ProcessLookupError)
    return True


def fsync_path(path: Path) -> None:
    """Force a file's bytes to the disk, or a folder's list of names where its file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC_OF_FOLDERS or not os.path.isdir(path):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well, `path` durably holds what was written to it.

    When the block raises, the temporary file is removed and `path` is untouched. Transient when the file system is at fault.
    """
    path = Path(path)
    temporary = temporary_name(path)
    with _faults_named(path):
        remove_leftovers(path.parent, path.name)
        try:
            yield temporary
            fsync_path(temporary)
            os.replace(temporary, path)
            fsync_path(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):  # it has its name by now, or a sick file system keeps it: the next writer removes it
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        fault = fault_of_the_file_system(error, path)
        if isinstance(error, FileNotFoundError) and not os.path.isdir(path.parent):
            fault = Transient(f"{path.parent.absolute()} has vanished; look after its file system, then run again with -resume")
        if fault is None:
            raise
        raise fault from error


@contextlib.contextmanager
def writing_table(path: Path) -> Iterator[IO[str]]:
    """Yield a text file; `path` appears, durable and whole, when the block ends well. /dev/null takes what nobody asks for."""
    made = contextlib.nullcontext(path) if path == Path(os.devnull) else replacing(path)
    with made as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as table:
        yield table


def write_text(path: Path, text: str) -> None:
    """Durably replace `path` by `text` (utf-8)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def create_exclusive(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Durably create `path` with what `write(handle)` puts there; it may be called a second time, with another handle.

    FileExistsError when the name is taken, Transient when the file system is at fault. Without hard links the file is written
    under its own name, as one upload where an object store is mounted. That is not atomic: a kill leaves a torn file, so readers
    must not trust a file without its marker.
    """
    path = Path(path)
    with _faults_named(path):
        if os.stat(path.parent).st_dev in _WITHOUT_HARD_LINKS or not _create_by_link(path, write):
            _create_in_place(path, write)
        fsync_path(path.parent)


def _create_by_link(path: Path, write: Callable[[IO[bytes]], object]) -> bool:
    """Whether the file system has hard links."""
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb") as handle:
            write(handle)
        fsync_path(temporary)
        return _linked(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # never there, or the next writer removes it
            os.unlink(temporary)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno == errno.EEXIST and os.path.samefile(source, target):  # NFS lost its answer and asked again
            return True
        if error.errno not in NO_HARD_LINKS:
            raise
        _WITHOUT_HARD_LINKS.add(os.stat(target.parent).st_dev)
        return False
    return True


def _create_in_place(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    with open(path, "xb") as handle:
        try:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise


def set_aside(path: Path) -> None:
    """Move a file that cannot be trusted to set_aside/ beside it, for a person to look at; another may have done so."""
    folder = path.parent / "set_aside"
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, folder / f"{path.name}.{secrets.token_hex(4)}")


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with _faults_named(path), open(path, "rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
