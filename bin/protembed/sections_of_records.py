"""What the report shows of the records and their vectors; the numbers are those of report.json, nothing is computed that is not drawn.

Standard library only.
"""

import html
import math
from typing import Any, Dict, Iterator, Sequence

from protembed.custom_content import PALETTE, Section, facts, histogram, plot, table, words
from protembed.layout import vector_names

Numbers = Dict[str, Any]
LENGTH_TICKS = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000]  # residues, of the colour scale


def sections_before(numbers: Numbers) -> Iterator[Section]:
    """The sections above those of the tasks: what became of the records."""
    yield at_a_glance(numbers)
    if numbers["ledger"]["skipped"]:
        yield from skipped(numbers["ledger"])
    if numbers["ledger"]["lengths"]["counts"]:
        yield lengths(numbers["ledger"]["lengths"], numbers["run"])
    if numbers["verify"].get("worst"):
        yield verify(numbers["verify"])
    if numbers["norms"]:
        yield norms(numbers["norms"])
    if numbers["map"].get("points"):
        yield map_of_vectors(numbers["map"])


def sections_after(numbers: Numbers) -> Iterator[Section]:
    """The sections below them: where the vectors come from, and how to say so."""
    yield provenance(numbers["run"])
    yield methods(numbers["methods"], numbers["references"])


def at_a_glance(numbers: Numbers) -> Section:
    run, devices_, chunks, worst = numbers["run"], numbers["devices"], numbers["chunks"], numbers["verify"].get("worst")
    rate = [f"{round(device['tokens_per_second']):,} tokens/s on {device['place']}" for device in devices_ if device["tokens"]]
    pairs = [
        ("Records", f"{run['n_records']:,}"),
        ("Embedded", f"{run['n_embedded']:,}"),
        ("Skipped", f"{run['n_skipped']:,}"),
        ("Duplicates of another sequence", f"{run['flags']['duplicate']:,}"),
        ("Taken from earlier results", f"{run['flags'].get('reused', 0):,}"),
        ("Truncated", f"{run['flags']['truncated']:,}"),
        ("Residues", f"{numbers['ledger']['lengths'].get('residues', 0):,}"),
        ("Model", run["model"] + (" (random weights: the vectors mean nothing)" if run["random_weights"] else "")),
        ("Computed", f"{sum(chunk['computed'] for chunk in chunks):,} sequences, {sum(chunk['reused'] for chunk in chunks):,} from checkpoints"),
        ("Speed of a task", "; ".join(rate[:8]) or "nothing was computed"),
        ("Agreement with fair-esm", "; ".join(f"{kind} within {figure['relative_l2']:.1e}" for kind, figure in worst.items()) if worst else "not checked"),
    ]
    return words("at_a_glance", "At a glance", facts(pairs))


def skipped(ledger: Numbers) -> Iterator[Section]:
    rows = {reason: {"records": count} for reason, count in ledger["reasons"].items()}
    read = "Why records have no vector, and how many; ledger.tsv has a line for each."
    yield table("skipped_reasons", "Skipped: reasons", read, rows, "Reason", {"records": dict(title="Records", format="{:,.0f}", scale="Oranges")})
    shown = {record["id"]: {"residues": record["residues"], "reason": record["reason"]} for record in ledger["skipped"]}
    headers = {"residues": dict(title="Residues", format="{:,.0f}"), "reason": dict(title="Reason")}
    yield table("skipped_records", "Skipped: records", f"The first {len(shown)} records without a vector, in the order of the input.", shown, "Record", headers)


def lengths(found: Numbers, run: Numbers) -> Section:
    limit = run["max_residues"] if run["long_sequences"] in ("truncate", "window") else 0
    line = dict(type="line", x0=limit, x1=limit, yref="paper", y0=0, y1=1, line=dict(color=PALETTE[1], dash="dash", width=2))
    label = dict(x=math.log10(max(1, limit)), yref="paper", y=1, text=f"{limit:,} residues", showarrow=False, xanchor="left", yanchor="top", xshift=4)
    shown = limit and limit < found["most"]
    read = f"How many records have about this length; the scale is logarithmic, the median is {found['median']:,} residues."
    if shown and run["long_sequences"] == "truncate":
        read += f" Of records to the right of the dashed line the first {limit:,} residues are embedded."
    return plot(
        "lengths", "Lengths of the records", read, histogram(found, "residues", "records"), "Length (residues)", "Records", dict(type="log"),
        dict(rangemode="tozero"), shapes=[line] if shown else [], annotations=[label] if shown else [],
    )  # fmt: skip


def verify(found: Numbers) -> Section:
    read = (
        f"{found['sequences']} sequences of this run were embedded again by unmodified fair-esm in float32, one at a time."
        f" The worst figures of each kind of vector: distances must be below, cosines above the bound for {found['dtype']}"
        + ("." if found["binding"] else "; with random weights in half precision the bounds are shown, but not enforced.")
    )
    rows = {
        kind: dict(distance=f"{worst['relative_l2']:.2e}", most=f"{found['bound_relative_l2']:.0e}", cosine=f"{worst['cosine']:.9f}", least=_least(kind, found))
        for kind, worst in found["worst"].items()
    }
    headers = {
        "distance": dict(title="Relative L2 distance"),
        "most": dict(title="Bound"),
        "cosine": dict(title="Cosine"),
        "least": dict(title="Bound of the cosine"),
    }
    return table("verify", "Agreement with fair-esm", read, rows, "Vectors", headers)


def _least(kind: str, found: Numbers) -> str:
    return "none" if kind == "per_tok" else str(found["bound_cosine"])


def norms(found: Numbers) -> Section:
    read = (
        f"Euclidean norms of {found['sampled']:,} vectors at even distances in embeddings.h5; the median is {found['median']:.4g}."
        " One hump is usual; a vector far from it deserves a look."
    )
    return plot("norms", "Norms of the vectors", read, histogram(found, "norm", "vectors"), "Euclidean norm (no unit)", "Vectors")


def map_of_vectors(found: Numbers) -> Section:
    read = (
        f"Each point is one of {len(found['points']):,} vectors, seen along the two directions in which they differ most (principal components)."
        " Near points have similar vectors. Colour is length: when it alone orders the map, the vectors tell little beyond length."
    )
    x, y, residues = zip(*found["points"])
    ticks = [value for value in LENGTH_TICKS if min(residues) <= value <= max(residues)]
    bar = dict(title=dict(text="residues"), tickvals=[math.log10(value) for value in ticks], ticktext=ticks, thickness=12, outlinewidth=0)
    marker = dict(size=6, color=[round(math.log10(value), 3) for value in residues], colorscale="Viridis", colorbar=bar, opacity=0.8)
    texts = [f"{value:,} residues" for value in residues]
    trace = dict(x=x, y=y, mode="markers", marker=marker, text=texts, hovertemplate="%{text}<extra></extra>")
    first, second = (f"{100 * share:.1f} % of the variance" for share in found["explained"])
    return plot("map", "Map of the vectors", read, [trace], f"Component 1 ({first})", f"Component 2 ({second})")


def provenance(run: Numbers) -> Section:
    pairs = [
        ("Model", run["model"]),
        ("SHA-256 of the weights", run["weights_sha256"]),
        ("Vectors", ", ".join(vector_names(run["repr_layers"], run["include"]))),
        ("Computed in, stored in", f"{run['compute_dtype']}, {run['store_dtype']}"),
        ("Long sequences", f"{run['long_sequences']}, {run['max_residues']} residues" if run["max_residues"] else run["long_sequences"]),
        ("PyTorch and its CUDA", run["torch"]),
        ("Devices", run["device"]),
        ("Identity of the recipe", run["identity"]),
        ("Digest of the code", run["code_digest"]),
        ("Made", run["created"]),
        ("Command", run["command"]),
    ]
    return words("provenance", "What made these vectors", facts(pairs))


def methods(text: str, references: Sequence[str]) -> Section:
    cited = "".join(f"<li>{html.escape(reference)}</li>" for reference in references)
    return words("methods", "Methods, to paste into a paper", f"<blockquote><p>{html.escape(text)}</p></blockquote><ol>{cited}</ol>")
