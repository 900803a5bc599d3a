"""An iterator that runs in a process of its own, a few steps ahead: two processors instead of one. Unix only (fork)."""

import contextlib
import fcntl
import multiprocessing
import traceback
from multiprocessing.connection import Connection
from typing import Callable, Iterator, TypeVar

from protembed.errors import ProtembedError, Transient

Item = TypeVar("Item")
LEAST_BYTES = 1 << 24  # of input from which on a second process repays its start
PIPE_BYTES = 1 << 20  # what every user may have; with the usual 64 KiB the process waits in the middle of an item until it is asked for


def beside_if_large(items: Callable[[], Iterator[Item]], size: int) -> Iterator[Item]:
    """What `items()` yields from `size` bytes of input, beside or here."""
    return beside(items) if size >= LEAST_BYTES else items()


def beside(items: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """What `items()` yields, in order. What it raises is raised here; Transient when its process was killed.

    The process ends when its items do, when this iterator is closed, and by itself when this process dies: it then writes
    to a pipe that nobody reads. Begin before there are threads: it is forked.
    """
    receiving, sending = multiprocessing.Pipe(duplex=False)
    with contextlib.suppress(OSError, AttributeError):  # the user's pipes are full already; not Linux
        fcntl.fcntl(sending.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    process = multiprocessing.get_context("fork").Process(target=_send, args=(items, receiving, sending), daemon=True)
    process.start()
    sending.close()
    try:
        while True:
            more, content = receiving.recv()
            if not more:
                break
            yield content
    except EOFError:
        process.join()
        raise Transient(f"the process that reads the input ended (exit code {process.exitcode}); out of memory?") from None
    finally:
        receiving.close()
        process.join()
    if content:
        error, trace = content  # a pickled error has lost its own
        raise error from None if isinstance(error, ProtembedError) else RuntimeError(f"in the process beside:\n{trace}")


def _send(items: Callable[[], Iterator[Item]], receiving: Connection, sending: Connection) -> None:
    receiving.close()  # or this process would keep its own pipe alive
    try:
        for item in items():
            sending.send((True, item))
        sending.send((False, None))
    except BrokenPipeError:  # nobody reads any more
        pass
    except Exception as error:
        sending.send((False, (error, traceback.format_exc())))
