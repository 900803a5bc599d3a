#!/usr/bin/env python3
"""Show how far a run is, from its checkpoint folder alone: while it works, after a crash, from any machine that sees it.

    show_progress.py work/checkpoints            live table on a terminal (Ctrl-C ends it), else one table
    show_progress.py work/checkpoints --json     one JSON object

Chunks that wait or are finished are counted; the others have a line each. Changes nothing. Needs nothing but Python: it is
run on a login node, by a user whose packages are all in containers.
"""

import argparse
import contextlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import List, Optional

from protembed.anchor import NAME
from protembed.cli import CommandLine, exit_code_of
from protembed.errors import BadOption
from protembed.progress import ChunkProgress, read_progress

SHORT_STATES = ("waiting", "working", "silent", "finished")
HOME_AND_CLEAR = "\x1b[H\x1b[J"


def totals(chunks: List[ChunkProgress]) -> dict:
    """Sums over all chunks; seconds_left is None when no chunk works or a rate is not known yet."""
    rate = sum(chunk.tokens_per_second for chunk in chunks if chunk.state == "working")
    left = sum(chunk.tokens - chunk.tokens_done for chunk in chunks)
    return dict(
        chunks={state: sum(chunk.state == state for chunk in chunks) for state in SHORT_STATES},
        **{name: sum(getattr(chunk, name) for chunk in chunks) for name in ("sequences", "done", "reused", "computed", "failed", "tokens", "tokens_done")},
        tokens_per_second=rate,
        seconds_left=left / rate if rate else None,
    )


def as_json(chunks: List[ChunkProgress]) -> str:
    """Totals and chunks."""
    lines = [dict(asdict(chunk), computed=chunk.computed, seconds_left=chunk.seconds_left) for chunk in chunks]
    return json.dumps(dict(totals(chunks), by_chunk=lines), indent=2)


def duration(seconds: Optional[float]) -> str:
    """h:mm:ss, or - when not known."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def table(chunks: List[ChunkProgress], every: bool) -> str:
    """Totals in words, then a line for each chunk that is neither waiting nor finished."""
    total = totals(chunks)
    counts = ", ".join(f"{count:,} {state}" for state, count in total["chunks"].items() if count)
    share = 100 * total["tokens_done"] / total["tokens"] if total["tokens"] else 0
    lines = [
        f"{len(chunks):,} chunks: {counts}",
        f"{total['done']:,} of {total['sequences']:,} sequences ({share:.0f} % of the tokens): "
        f"{total['computed']:,} computed, {total['reused']:,} reused, {total['failed']:,} failed; "
        f"{total['tokens_per_second']:,.0f} tokens/s, {duration(total['seconds_left'])} left",
    ]
    shown = [chunk for chunk in chunks if every or chunk.state in ("working", "silent")]
    if shown:
        lines += [
            "",
            f"{'chunk':22}  {'state':8} {'done':>9} {'of':>9} {'tokens/s':>9} {'left':>8} {'reused':>8} {'failed':>6} {'attempt':>7} {'last news':>9}  device",
        ]
    for chunk in shown:
        news = duration(chunk.age) if chunk.attempts else "-"
        lines.append(
            f"{chunk.chunk:22}  {chunk.state:8} {chunk.done:9,} {chunk.sequences:9,} {chunk.tokens_per_second:9,.0f} {duration(chunk.seconds_left):>8} "
            f"{chunk.reused:8,} {chunk.failed:6,} {chunk.attempts:7,} {news:>9}  {chunk.device}"
        )
    return "\n".join(lines)


def command_line() -> CommandLine:
    parser = CommandLine(prog=Path(__file__).name, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint_dir", type=Path, help="--checkpoint_dir of the run, or its <work-dir>/checkpoints")
    parser.add_argument("--json", action="store_true", help="print one JSON object and end")
    parser.add_argument("--once", action="store_true", help="print one table and end, on a terminal too")
    parser.add_argument("--all", action="store_true", help="a line for waiting and finished chunks, too")
    parser.add_argument("--seconds", type=float, default=2.0, help="between two looks (default: 2)")
    return parser


def main(options: argparse.Namespace) -> None:
    root = options.checkpoint_dir
    if not (root / NAME).exists():
        raise BadOption(f"{root} is no checkpoint folder of protembed (it has no {NAME}); give --checkpoint_dir of the run, or its <work-dir>/checkpoints")
    if options.json:
        print(as_json(read_progress(root, time.time())))
    elif options.once or not sys.stdout.isatty():
        print(seen_now(root, options.all))
    else:
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                print(f"{HOME_AND_CLEAR}{seen_now(root, options.all)}", flush=True)
                time.sleep(options.seconds)


def seen_now(root: Path, every: bool) -> str:
    """The table, or that there is none."""
    chunks = read_progress(root, time.time())
    return table(chunks, every) if chunks else "nothing to do here: no run has begun, or the last one has finished and was cleared away"


if __name__ == "__main__":
    sys.exit(exit_code_of(Path(__file__).name, lambda: main(command_line().parse_args())))
