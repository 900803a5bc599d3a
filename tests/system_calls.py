"""System calls of a stopped thread: which one it is about to make, on which file, and how to let it fail.

Linux on x86_64 and aarch64 (there, letting calls fail is written down from the manual and has not been run).
"""

import ctypes
import errno
import os
import platform
import signal
import struct
from typing import List, NamedTuple, Optional, Sequence

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
TRACEME, GETREGS, SETREGS, GETREGSET, SETREGSET, GET_SYSCALL_INFO = 0, 12, 13, 0x4204, 0x4205, 0x420E
PRSTATUS, ARM_SYSTEM_CALL = 1, 0x404  # register sets of aarch64
ALLOW, TRACE, REFUSE = 0x7FFF0000, 0x7FF00000, 0x00050000 | errno.EPERM
AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)
supported = platform.system() == "Linux" and _MACHINE >= 0


class Operation(NamedTuple):
    """One call that can change a file under the folder that is watched."""

    call: str
    path: str
    source: str = ""  # of a link or rename


def ptrace(request: int, thread: int, value, address=0, gone_is_fine: bool = False) -> None:
    if _libc.ptrace(request, thread, ctypes.c_void_p(address), ctypes.c_void_p(value) if isinstance(value, int) else value) < 0:
        if gone_is_fine and ctypes.get_errno() == 3:
            return
        raise OSError(ctypes.get_errno(), f"ptrace request {request:#x}: {os.strerror(ctypes.get_errno())}")


def ask_to_be_traced(refused: Sequence[str]) -> None:
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


def operation_of(thread: int, folder: str) -> Optional[Operation]:
    """What the stopped thread is about to do, if that is to a file under `folder`."""
    info = ctypes.create_string_buffer(88)
    ptrace(GET_SYSCALL_INFO, thread, info, address=len(info))
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


def fail(thread: int, number: int) -> None:
    """The thread's call is not made, and seems to have failed with this errno."""
    if _MACHINE == 0:
        registers = ctypes.create_string_buffer(27 * 8)  # struct user_regs_struct; rax is its 11th, orig_rax its 16th
        ptrace(GETREGS, thread, registers)
        struct.pack_into("q", registers, 10 * 8, -number)
        struct.pack_into("q", registers, 15 * 8, -1)
        ptrace(SETREGS, thread, registers)
        return
    registers, call = ctypes.create_string_buffer(34 * 8), ctypes.create_string_buffer(struct.pack("i", -1), 4)
    ptrace(GETREGSET, thread, _vector(registers), PRSTATUS)
    struct.pack_into("q", registers, 0, -number)  # x0
    ptrace(SETREGSET, thread, _vector(registers), PRSTATUS)
    ptrace(SETREGSET, thread, _vector(call), ARM_SYSTEM_CALL)


def _vector(buffer) -> ctypes.Array:
    return ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(buffer), len(buffer)))  # struct iovec
