"""Work in a process of its own, a few steps apart: two processors instead of one. Unix only (fork).

beside    an iterator that runs ahead of who takes its items
apart     a worker that lags behind who tells it what to do
"""

import contextlib
import fcntl
import multiprocessing
import os
import signal
import traceback
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import Empty, Queue
from threading import Thread
from typing import Any, Callable, Iterator, Tuple, TypeVar

from protembed.errors import Killed, ProtembedError, Transient

Item = TypeVar("Item")
LEAST_BYTES = 1 << 24  # of input, or of vectors, from which on a second process repays its start
MOST_ORDERS = 48  # that a worker apart has not begun with: of the merge, some hundred thousand records' places
PIPE_BYTES = 1 << 20  # what every user may have; with the usual 64 KiB the process waits in the middle of an item until it is asked for


def beside_if_large(items: Callable[[], Iterator[Item]], size: int) -> Iterator[Item]:
    """What `items()` yields from `size` bytes of input, beside or here."""
    return beside(items) if size >= LEAST_BYTES else items()


def beside(items: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """What `items()` yields, in order. What it raises is raised here; Killed when its process was.

    The process ends when its items do, when this iterator is closed, and by itself when this process dies: it then writes
    to a pipe that nobody reads. Begin before there are threads: it is forked.
    """
    receiving, sending = _pipe()
    with _forked(_send, items, receiving, sending) as process, contextlib.closing(receiving):
        sending.close()
        while (item := _received(receiving, process))[0]:
            yield item[1]


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


class Here:
    """A worker that does at once what it is told."""

    def __init__(self, worker: object):
        self._worker = worker

    def tell(self, method: str, *arguments: object) -> None:
        """Call a method."""
        self.ask(method, *arguments)

    def ask(self, method: str, *arguments: object) -> object:
        """What a method returns."""
        return getattr(self._worker, method)(*arguments)


class Apart:
    """The same in a process of its own: what it is told is done in order, and not waited for."""

    def __init__(self, process: BaseProcess, orders: Connection, answers: Connection):
        self._process, self._orders, self._answers = process, orders, answers

    def tell(self, method: str, *arguments: object) -> None:
        """Have a method called. Raises what came of what it was told before; Killed when its process was."""
        self._send(method, arguments, False)

    def ask(self, method: str, *arguments: object) -> object:
        """What a method returns, when all before is done. Raises as tell does."""
        self._send(method, arguments, True)
        return _received(self._answers, self._process)[1]

    def _send(self, method: str, arguments: Tuple[object, ...], is_asked: bool) -> None:
        with contextlib.suppress(BrokenPipeError):
            if not self._answers.poll():
                return self._orders.send((method, arguments, is_asked))
        _received(self._answers, self._process)  # unasked: an error


@contextlib.contextmanager
def apart(worker: object) -> Iterator[Apart]:
    """Have a worker work in a process of its own until the block ends; when that ends in an error, the process is killed.

    It ends by itself when this process dies, after what it is just doing. Begin before there are threads: it is forked.
    """
    (inbox, orders), (answers, outbox) = _pipe(), _pipe()
    with contextlib.closing(answers), _forked(_obey, worker, inbox, orders, answers, outbox) as process, contextlib.closing(orders):
        inbox.close()
        outbox.close()
        try:
            yield Apart(process, orders, answers)
        except BaseException:
            process.kill()
            raise


def _obey(worker: object, inbox: Connection, orders: Connection, answers: Connection, outbox: Connection) -> None:
    orders.close()
    answers.close()
    waiting = _Orders(inbox)
    try:
        for method, arguments, is_asked in waiting:
            result = getattr(worker, method)(*arguments)
            if is_asked:
                outbox.send((True, result))
    except Exception as error:
        waiting.forget()  # who waits for room for an order would never read this
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more
            outbox.send((False, (error, traceback.format_exc())))


class _Orders:
    """Orders as they come, until nobody gives any; those of a process that has died are left. A thread takes them in, so that few wait to give one."""

    def __init__(self, inbox: Connection):
        self._waiting: Queue = Queue(MOST_ORDERS)
        self._parent, self._forgotten = os.getppid(), False
        Thread(target=self._receive, args=(inbox,), daemon=True).start()

    def _receive(self, inbox: Connection) -> None:
        try:
            while order := inbox.recv():
                if not self._forgotten:
                    self._waiting.put(order)
        except EOFError:
            pass
        finally:  # also when there is no memory for an order: who waits for an answer then sees the process end
            self._waiting.put(None)

    def __iter__(self) -> Iterator[Tuple[str, Tuple[object, ...], bool]]:
        while os.getppid() == self._parent and (order := self._waiting.get()):
            yield order

    def forget(self) -> None:
        """Those that wait, and all to come."""
        self._forgotten = True
        with contextlib.suppress(Empty):
            while True:
                self._waiting.get_nowait()


def _pipe() -> Tuple[Connection, Connection]:
    """(the end to receive from, the end to send to)."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    with contextlib.suppress(OSError, AttributeError):  # the user's pipes are full already; not Linux
        fcntl.fcntl(sending.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return receiving, sending


@contextlib.contextmanager
def _forked(call: Callable[..., None], *arguments: object) -> Iterator[BaseProcess]:
    """A process that does this, and is waited for at the end."""
    process = multiprocessing.get_context("fork").Process(target=_without_keyboard, args=(call, *arguments), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.join()


def _without_keyboard(call: Callable[..., None], *arguments: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one, and ends it
    call(*arguments)


def _received(receiving: Connection, process: BaseProcess) -> Tuple[bool, Any]:
    """(True, what was sent), or (False, None) at the end. Raises what was raised there; Killed when the process was."""
    try:
        more, content = receiving.recv()
    except EOFError:
        process.join()
        kind = Killed if process.exitcode == -signal.SIGKILL else Transient
        raise kind(f"a process of this task ended (exit code {process.exitcode}); out of memory?") from None
    if not more and content:
        error, trace = content  # a pickled error has lost its own
        raise error from None if isinstance(error, ProtembedError) else RuntimeError(f"in the process beside:\n{trace}")
    return more, content
