"""How far a task is, on stderr: a bar on a terminal, a line every ten seconds in a log."""

import logging
import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10
log = logging.getLogger("protembed")


class Meter:
    """Counts what is done of `total` sequences (of a chunk called `name`)."""

    def __init__(self, name: str, total: int):
        self._name, self._total, self._done = name, total, 0
        self._started, self._told = time.monotonic(), 0.0
        self._bar = tqdm(total=total, desc=name, unit=" sequences", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def advance(self, sequences: int, tokens: int) -> None:
        """`sequences` more are done; `tokens` were computed since the beginning."""
        self._done += sequences
        now = time.monotonic()
        rate = tokens / max(now - self._started, 1e-9)
        self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
        self._bar.update(sequences)
        if self._bar.disable and (now - self._told >= SECONDS_BETWEEN_LINES or self._done == self._total):
            self._told = now
            log.info("%s: %d of %d sequences, %.0f tokens/s", self._name, self._done, self._total, rate)

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()
