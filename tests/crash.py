"""Disturbs a real process at its n-th file operation, as SQLite's writecrash and ioerr tests do, at the system call.

A forked child is traced: a seccomp filter stops it at every call that can change a file, whoever makes it (Python,
torch's C++ writer, HDF5, any thread), and the parent lets it go on, or ends it with SIGKILL before or after it, or holds
it while others run, or lets the call fail. Nothing in the child is patched.
"""

import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Callable, Iterable, List, NamedTuple, Optional, Sequence

import pytest
import torch

from tests.system_calls import Operation, ask_to_be_traced, fail, operation_of, ptrace, supported

CONT, SYSCALL, SETOPTIONS = 7, 24, 0x4200
OPTIONS = 0x1 | 0x2 | 0x8 | 0x80 | 0x100000  # SYSGOOD, TRACEFORK, TRACECLONE, TRACESECCOMP, EXITKILL
EVENT_SECCOMP, ALL_THREADS = 7, 0x40000000
BEFORE, AFTER, KILLED = "before", "after", -signal.SIGKILL
PROCESSES = 2
FULL = bool(os.environ.get("PROTEMBED_CRASH_FULL"))  # the long variants of the tests that use this
needs_ptrace = pytest.mark.skipif(not supported, reason="crash points are found with Linux's ptrace on x86_64 or aarch64")


class Fault(NamedTuple):
    """What operations answer instead of being done."""

    number: int  # errno
    for_ever: bool = False  # this one and all after it, or once
    spared: Sequence[str] = ()  # calls that succeed all the same: a full disk lets files be removed


class Run(NamedTuple):
    """What a traced process did until it ended; exit_code is -9 when it was killed."""

    operations: List[Operation]
    exit_code: int


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; its exit code is 0, what it exits with, that of a protembed error, or 1 with a traceback."""
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)  # the parent's pool of threads does not exist here; to wait for it would be for ever
        work()
        code = 0
    except SystemExit as exit:
        code = exit.code
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
    fault: Optional[Fault] = None,
) -> Run:
    """Run `work` in a forked process; kill it before or after its `at`-th operation under `folder`, counted from 1.

    Operations of processes that it forks count, too; those outlive it until they end by themselves.
    With `meanwhile` it is not killed there (at every operation, if `at` is None) but held, and goes on when `meanwhile`
    has returned. With `fault` the operation fails. The kernel answers calls that are `refused` with EPERM.
    """
    child = fork(lambda: (ask_to_be_traced(refused), work()))
    os.waitpid(child, 0)
    ptrace(SETOPTIONS, child, OPTIONS)
    ptrace(CONT, child, 0)
    operations: List[Operation] = []
    killed, code = False, 0
    while True:
        try:
            thread, status = os.waitpid(-child, ALL_THREADS)
        except ChildProcessError:
            return Run(operations, code)
        if not os.WIFSTOPPED(status):
            code = os.waitstatus_to_exitcode(status) if thread == child else code
            continue
        request, stopped_by, event = CONT, os.WSTOPSIG(status), status >> 16
        kill = stopped_by == signal.SIGTRAP | 0x80  # the call has returned: after
        if event == EVENT_SECCOMP and not killed:
            operation = operation_of(thread, str(folder))
            if operation:
                operations.append(operation)
                here = at is None or len(operations) == at
                if fault and (here or fault.for_ever and len(operations) > at):
                    if operation.call not in fault.spared:
                        fail(thread, fault.number)
                elif meanwhile and here:
                    meanwhile()
                elif here and at and moment == AFTER:
                    request = SYSCALL
                elif here and at:
                    kill = True
        if kill:
            killed = True
            os.kill(child, signal.SIGKILL)
        passed_on = stopped_by if event == 0 and stopped_by not in (signal.SIGSTOP, signal.SIGTRAP, signal.SIGTRAP | 0x80) else 0
        ptrace(request, thread, passed_on, gone_is_fine=True)
