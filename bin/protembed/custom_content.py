"""MultiQC's custom content: one dictionary per section, each with a title and a sentence that says how to read it.

Plots are drawn by the Plotly that every page of MultiQC holds, in the reader's browser, not by MultiQC's own plots: those draw each
point of a scatter as a series of its own (at 2,000 points a browser stands still for seconds), and know no steps.
Standard library only.
"""

import html
import json
from typing import Any, Dict, List, Optional, Sequence

Section = Dict[str, Any]
PALETTE = ["#3b528b", "#d1495b", "#21918c", "#edae49", "#7b4f9d", "#5ec962", "#8d6a3f", "#777777"]
GRID = dict(gridcolor="#e8e8e8", zeroline=False, automargin=True)
NAMES = "row_name"  # the column of a table's rows' names
TOOLS = dict(responsive=True, displaylogo=False, modeBarButtons=[["toImage", "zoom2d", "resetScale2d"]])


def words(name: str, title: str, text: str, how_to_read: str = "") -> Section:
    """A section of HTML."""
    return dict(id=name, section_name=title, description=how_to_read, plot_type="html", data=text)


def table(name: str, title: str, how_to_read: str, rows: Dict[str, dict], first: str, headers: Dict[str, dict]) -> Section:
    """A table; `first` heads the column of the rows' names, `headers` are MultiQC's for the others. Texts are escaped.

    MultiQC itself calls the rows 1, 2, ...: names it takes for those of samples, cuts off what looks like a path or a suffix, and keeps
    one of two rows that then have the same.
    """
    looks = dict(id=f"{name}_table", title=f"protembed: {title}", col1_header="", only_defined_headers=True, no_violin=True, sort_rows=False)
    plain = {column: dict(dict(scale=False), **header) for column, header in {NAMES: dict(title=first), **headers}.items()}
    cells = [{NAMES: row, **values} for row, values in rows.items()]
    data = {str(number): {column: _escaped(value) for column, value in row.items()} for number, row in enumerate(cells, 1)}
    return dict(id=name, section_name=title, description=how_to_read, plot_type="table", pconfig=looks, headers=plain, data=data)


def _escaped(value: object) -> object:
    return html.escape(value) if isinstance(value, str) else value


def plot(
    name: str, title: str, how_to_read: str, traces: List[dict], xlab: str, ylab: str, xaxis: Optional[dict] = None, yaxis: Optional[dict] = None, **layout
) -> Section:
    """A plot. traces, xaxis, yaxis, layout: Plotly's; xlab, ylab: what the axes show, with units."""
    looks = dict(
        title=dict(text=title, x=0.5, font=dict(size=18)),
        xaxis=dict(GRID, title=dict(text=xlab), **(xaxis or {})),
        yaxis=dict(GRID, title=dict(text=ylab), **(yaxis or {})),
        legend=dict(orientation="h", y=-0.25, yanchor="top"),
        font=dict(family="'Lucida Grande', 'Open Sans', verdana, arial, sans-serif", size=12),
        margin=dict(l=50, r=20, t=50, b=50),
        plot_bgcolor="#fff",
        height=450,
        hovermode="closest",
    )
    arguments = json.dumps([traces, dict(looks, **layout), TOOLS]).replace("</", "<\\/")
    script = f"window.addEventListener('load', () => Plotly.newPlot('{name}_plot', ...{arguments}));"
    return words(name, title, f'<div id="{name}_plot" class="protembed-plot"></div><script type="text/javascript">{script}</script>', how_to_read)


def histogram(found: Dict[str, Any], unit: str, what: str) -> List[dict]:
    """The traces of `counts` between `edges`: steps over a filled area."""
    counts, edges = list(found["counts"]), list(found["edges"])
    texts = [f"{low:,.6g} to {high:,.6g} {unit}: {count:,} {what}" for low, high, count in zip(edges, edges[1:], counts)]
    steps = dict(shape="hv", color=PALETTE[0])
    return [dict(x=edges, y=[*counts, counts[-1]], text=[*texts, texts[-1]], mode="lines", line=steps, fill="tozeroy", hovertemplate="%{text}<extra></extra>")]


def facts(pairs: Sequence["tuple[str, object]"]) -> str:
    """Names and values as an HTML table; both are escaped."""
    lines = [f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>" for name, value in pairs]
    return f'<table class="table table-condensed protembed-facts"><tbody>{"".join(lines)}</tbody></table>'
