"""Kills a real process before or after its n-th file operation, as SQLite's writecrash test does, at the system call.

A forked child is traced: a seccomp filter stops it at every call that can change a file, whoever makes it (Python,
torch's C++ writer, HDF5, any thread), and the parent lets it go on, or ends it with SIGKILL, or holds it while others
run. Nothing in the child is patched. Linux on x86_64 and aarch64.
"""

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
import traceback
from pathlib import Path
from typing import Callable, Iterable, List, NamedTuple, Optional, Sequence

import pytest
import torch

# Per call: (number on x86_64, on aarch64, how to find the file). fd: argument 0 is a descriptor. path, at: the name is argument
# 0, or 1 behind a folder's descriptor. to, to_at: the new name is argument 1, or 3 behind a descriptor. No number: -1.
CALLS = {
    "write": (1, 64, "fd"), "pwrite": (18, 68, "fd"), "writev": (20, 66, "fd"), "pwritev": (296, 70, "fd"), "truncate": (77, 46, "fd"),
    "fallocate": (285, 47, "fd"), "fsync": (74, 82, "fd"), "fdatasync": (75, 83, "fd"), "copy_file_range": (326, 285, "copy"), "sendfile": (40, 71, "fd"),
    "open": (2, -1, "open"), "openat": (257, 56, "open_at"), "link": (86, -1, "to"), "linkat": (265, 37, "to_at"), "rename": (82, -1, "to"),
    "renameat": (264, 38, "to_at"), "renameat2": (316, 276, "to_at"), "unlink": (87, -1, "path"), "unlinkat": (263, 35, "at"),
    "mkdir": (83, -1, "path"), "mkdirat": (258, 34, "at"), "rmdir": (84, -1, "path"),
}  # fmt: skip
_MACHINE = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), -1)
BY_NUMBER = {CALLS[name][_MACHINE]: (name, CALLS[name][2]) for name in CALLS if CALLS[name][_MACHINE] >= 0}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
TRACEME, CONT, SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 0, 7, 24, 0x4200, 0x420E
OPTIONS = 0x1 | 0x8 | 0x80 | 0x100000  # SYSGOOD, TRACECLONE, TRACESECCOMP, EXITKILL
EVENT_SECCOMP, ALL_THREADS, AT_FDCWD = 7, 0x40000000, -100
ALLOW, TRACE, REFUSE = 0x7FFF0000, 0x7FF00000, 0x00050000 | errno.EPERM
BEFORE, AFTER, KILLED = "before", "after", -signal.SIGKILL
PROCESSES = 2
FULL = bool(os.environ.get("PROTEMBED_CRASH_FULL"))  # the long variants of the tests that use this
_libc = ctypes.CDLL(None, use_errno=True)
needs_ptrace = pytest.mark.skipif(sys.platform != "linux" or _MACHINE < 0, reason="crash points are found with Linux's ptrace on x86_64 or aarch64")


class Operation(NamedTuple):
    """One call that can change a file under the folder that is watched."""

    call: str
    path: str
    source: str = ""  # of a link or rename


class Run(NamedTuple):
    """What a traced process did until it ended; exit_code is -9 when it was killed."""

    operations: List[Operation]
    exit_code: int


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; its exit code is 0, that of a protembed error, or 1 with a traceback."""
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)  # the parent's pool of threads does not exist here; to wait for it would be for ever
        work()
        code = 0
    except BaseException as error:
        code = getattr(error, "exit_code", 1)
        if code == 1:
            traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def finish(work: Callable[[], object]) -> int:
    """The exit code of `work` in a forked process that nobody disturbs."""
    return os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1])


def in_processes(check: Callable[[object], object], items: Iterable) -> None:
    """check(item) for all items, divided among a few processes; AssertionError when one of them fails."""
    items = list(items)
    children = [fork(lambda part=part: [check(item) for item in items[part::PROCESSES]]) for part in range(PROCESSES)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * PROCESSES, f"exit codes {codes}; see stderr"


def run_traced(
    work: Callable[[], object],
    folder: Path,
    at: Optional[int] = None,
    moment: str = BEFORE,
    meanwhile: Optional[Callable[[], object]] = None,
    refused: Sequence[str] = (),
) -> Run:
    """Run `work` in a forked process; kill it before or after its `at`-th operation under `folder`, counted from 1.

    With `meanwhile` it is not killed there (at every operation, if `at` is None) but held, and goes on when `meanwhile`
    has returned. The kernel answers calls that are `refused` with EPERM.
    """
    child = fork(lambda: (_ask_to_be_traced(refused), work()))
    os.waitpid(child, 0)
    _ptrace(SETOPTIONS, child, OPTIONS)
    _ptrace(CONT, child, 0)
    operations: List[Operation] = []
    killed = False
    while True:
        thread, status = os.waitpid(-child, ALL_THREADS)
        if not os.WIFSTOPPED(status):
            if thread == child:
                return Run(operations, os.waitstatus_to_exitcode(status))
            continue
        request, stopped_by, event = CONT, os.WSTOPSIG(status), status >> 16
        kill = stopped_by == signal.SIGTRAP | 0x80  # the call has returned: after
        if event == EVENT_SECCOMP and not killed:
            operation = _operation_of(thread, str(folder))
            if operation:
                operations.append(operation)
                if at is None and meanwhile or len(operations) == at:
                    if meanwhile:
                        meanwhile()
                    elif moment == AFTER:
                        request = SYSCALL
                    else:
                        kill = True
        if kill:
            killed = True
            os.kill(child, signal.SIGKILL)
        passed_on = stopped_by if event == 0 and stopped_by not in (signal.SIGSTOP, signal.SIGTRAP, signal.SIGTRAP | 0x80) else 0
        _ptrace(request, thread, passed_on, gone_is_fine=True)


def _ptrace(request: int, thread: int, value, address=0, gone_is_fine: bool = False) -> None:
    if _libc.ptrace(request, thread, ctypes.c_void_p(address), ctypes.c_void_p(value) if isinstance(value, int) else value) < 0:
        if gone_is_fine and ctypes.get_errno() == 3:
            return
        raise OSError(ctypes.get_errno(), f"ptrace request {request:#x}: {os.strerror(ctypes.get_errno())}")


def _ask_to_be_traced(refused: Sequence[str]) -> None:
    """In the child: from here on stop at every call of BY_NUMBER. A BPF program: load the number; compare, return; ...; allow."""
    os.setpgid(0, 0)
    program = [(0x20, 0, 0, 0)]
    for number, (call, _) in BY_NUMBER.items():
        program += [(0x15, 0, 1, number), (0x06, 0, 0, REFUSE if call in refused else TRACE)]
    program += [(0x06, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
    if _libc.ptrace(TRACEME, 0, None, None) < 0:
        raise OSError(ctypes.get_errno(), "ptrace is not permitted here")
    os.kill(os.getpid(), signal.SIGSTOP)
    assert _libc.prctl(38, 1, 0, 0, 0) == 0 and _libc.prctl(22, 2, header, 0, 0) == 0, "no seccomp filter"


def _operation_of(thread: int, folder: str) -> Optional[Operation]:
    """What the stopped thread is about to do, if that is to a file under `folder`."""
    info = ctypes.create_string_buffer(88)
    _ptrace(GET_SYSCALL_INFO, thread, info, address=len(info))
    number, *arguments = struct.unpack_from("QQQQQQQ", info, 24)
    call, kind = BY_NUMBER[number]
    flags = {"open": 1, "open_at": 2}.get(kind)
    if flags is not None and not arguments[flags] & WRITING:
        return None
    path = _path_of(thread, kind, arguments)
    if not f"{path}/".startswith(f"{folder}/"):
        return None
    return Operation(call, path, _path_of(thread, {"to": "path", "to_at": "from_at"}[kind], arguments) if kind in ("to", "to_at") else "")


def _path_of(thread: int, kind: str, arguments: List[int]) -> str:
    if kind in ("fd", "copy"):
        return os.readlink(f"/proc/{thread}/fd/{arguments[0 if kind == 'fd' else 2]}")
    place = {"path": 0, "open": 0, "at": 1, "open_at": 1, "from_at": 1, "to": 1, "to_at": 3}[kind]
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(arguments[place])
        name = os.fsdecode(memory.read(4096).split(b"\0")[0])
    if name.startswith("/"):
        return name
    descriptor = ctypes.c_int(arguments[place - 1]).value if kind.endswith("at") else AT_FDCWD
    return os.path.join(os.readlink(f"/proc/{thread}/cwd" if descriptor == AT_FDCWD else f"/proc/{thread}/fd/{descriptor}"), name)
