"""What the report shows of the tasks: packing, speed, which device did what, what was computed again. Standard library only."""

from typing import Any, Dict, Iterator, List

from protembed.custom_content import PALETTE, Section, plot, table

MOST_LISTED = 500  # rows of a table
MOST_DRAWN = 2000  # points of a plot


def sections_of_tasks(numbers: Dict[str, Any]) -> Iterator[Section]:
    """All of them; what a run has no numbers for is left out."""
    chunks = numbers["chunks"]
    if any(chunk["tokens"] for chunk in chunks):
        yield speed(chunks)
        yield devices(numbers["devices"])
    if chunks:
        yield packing(chunks)
        yield progress(numbers["progress"])
    if numbers["attempts"]:
        yield attempts(numbers["attempts"])
    if chunks:
        yield chunk_table(chunks)


def _unit_of_time(most: float) -> "tuple[str, float]":
    """Its name, and how many seconds it has, for an axis that ends at `most` seconds."""
    return ("hours", 3600.0) if most > 10800 else ("minutes", 60.0) if most > 300 else ("seconds", 1.0)


def _by_place(chunks: List[dict], x: str, y: str, scale: float, unit: str) -> List[dict]:
    shown = chunks[:: len(chunks) // MOST_DRAWN + 1]
    traces = []
    for number, place in enumerate(sorted({chunk["place"] for chunk in shown})):
        own = [chunk for chunk in shown if chunk["place"] == place]
        names = [f"{chunk['chunk']}: {chunk[y] * scale:,.1f} {unit}" for chunk in own]
        values = dict(x=[chunk[x] for chunk in own], y=[chunk[y] * scale for chunk in own])
        traces.append(
            dict(
                values,
                name=place,
                text=names,
                mode="markers",
                hovertemplate="%{text}<extra></extra>",
                marker=dict(size=8, color=PALETTE[number % len(PALETTE)]),
            )
        )
    return [dict(trace, showlegend=True) for trace in traces]


def packing(chunks: List[dict]) -> Section:
    read = (
        "Each point is a chunk: how much of the token budget of its forward passes is real tokens."
        " Near 100 % hardly anything is wasted; only chunks of one or two passes may be lower."
    )
    traces = _by_place(chunks, "packs", "packing_efficiency", 100.0, "%")
    return plot(
        "packing", "Packing efficiency", read, traces, "Forward passes of the chunk", "Real tokens (% of the budget)", yaxis=dict(range=_from_low(chunks))
    )


def _from_low(chunks: List[dict]) -> List[float]:
    low = 100 * min(chunk["packing_efficiency"] for chunk in chunks)
    return [max(0.0, low - 0.1 * (100 - low) - 1), 100.5]


def speed(chunks: List[dict]) -> Section:
    read = (
        "Each point is a task, placed when it began and coloured by its device."
        " Points of one colour at one height: the device worked evenly; tasks of seconds, and those that share a machine, scatter."
    )
    unit, seconds = _unit_of_time(max(chunk["ended"] for chunk in chunks))
    computed = [dict(chunk, time=chunk["began"] / seconds) for chunk in chunks if chunk["tokens"]]
    traces = _by_place(computed, "time", "tokens_per_second", 1.0, "tokens/s")
    return plot("speed", "Speed of the tasks", read, traces, f"Begin of the task ({unit})", "Speed (tokens/s)", yaxis=dict(rangemode="tozero"))


def devices(found: List[dict]) -> Section:
    read = "Which device computed how much: equal devices should have equal shares. The table of chunks below tells which device did which chunk."
    rows = {
        device["place"]: dict(
            chunks=device["chunks"], tokens=device["tokens"], share=100 * device["share"], rate=device["tokens_per_second"], minutes=device["seconds"] / 60
        )
        for device in found
    }
    headers: Dict[str, dict] = {
        "chunks": dict(title="Chunks", format="{:,.0f}"),
        "tokens": dict(title="Tokens computed", format="{:,.0f}"),
        "share": dict(title="Share", suffix=" %", format="{:,.1f}", min=0, max=100, scale="Blues"),
        "rate": dict(title="Speed", suffix=" tokens/s", format="{:,.0f}"),
        "minutes": dict(title="Busy", suffix=" min", format="{:,.1f}"),
    }
    return table("devices", "Work by device", read, rows, "Device", headers)


def progress(found: List[dict]) -> Section:
    read = (
        "Both lines rise when a task ends. Computed: sequences that went through the model;"
        " reused: those that the task found in checkpoints of an earlier attempt."
    )
    unit, seconds = _unit_of_time(found[-1]["seconds"])
    times = [0.0, *(point["seconds"] / seconds for point in found)]
    traces = []
    for kind, color in (("computed", PALETTE[0]), ("reused", PALETTE[3])):
        steps = dict(x=times, y=[0, *(point[kind] for point in found)], line=dict(color=color, shape="hv"))
        traces.append(dict(steps, name=kind, hovertemplate="%{y:,} sequences<extra></extra>"))
    axes = f"Time since the first task began ({unit})", "Sequences, summed up"
    return plot("progress", "Computed and reused over time", read, traces, *axes, yaxis=dict(rangemode="tozero"))


def attempts(found: List[dict]) -> Section:
    read = "Tasks that took up a chunk after an earlier one had ended or was given up, by time: what they found in the checkpoints they did not compute again."
    rows = {
        f"{attempt['chunk']} #{attempt['attempt']}": dict(
            minutes=attempt["began"] / 60, place=attempt["place"], reused=attempt["reused"], sequences=attempt["sequences"]
        )
        for attempt in found[:MOST_LISTED]
    }
    headers = {
        "minutes": dict(title="Began", suffix=" min", format="{:,.2f}"),
        "place": dict(title="Device"),
        "reused": dict(title="Found done", format="{:,.0f}", scale="Greens"),
        "sequences": dict(title="Sequences", format="{:,.0f}"),
    }
    return table("attempts", "Second and later attempts", read, rows, "Chunk and attempt", headers)


def chunk_table(chunks: List[dict]) -> Section:
    rest = f" The first {MOST_LISTED:,} of {len(chunks):,}; report.json has all." if len(chunks) > MOST_LISTED else ""
    shown = ("place", "computed", "tokens", "reused", "attempts", "embed_seconds", "tokens_per_second")
    rows = {chunk["chunk"]: {name: chunk[name] for name in shown} for chunk in chunks[:MOST_LISTED]}
    plain: Dict[str, Any] = dict(format="{:,.0f}")
    headers = {
        "place": dict(title="Device"),
        "computed": dict(plain, title="Computed"),
        "tokens": dict(plain, title="Tokens"),
        "reused": dict(plain, title="Reused"),
        "attempts": dict(plain, title="Attempts"),
        "embed_seconds": dict(title="Time", suffix=" s", format="{:,.1f}"),
        "tokens_per_second": dict(plain, title="Speed", suffix=" tokens/s"),
    }
    return table(
        "chunks",
        "Chunks",
        f"One line per chunk, in the order in which they began: who did it, how many sequences were computed and how many came from checkpoints.{rest}",
        rows,
        "Chunk",
        headers,
    )
