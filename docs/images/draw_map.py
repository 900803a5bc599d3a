#!/usr/bin/env python3
"""Draw pipeline.svg from pipeline.json: steps as stops, what passes between them as lines, like the map of an underground.

docs/images/draw_map.py           after a change of pipeline.json
docs/images/draw_map.py --check   exit code 1 when pipeline.svg is not what would be drawn
"""

import json
import sys
from html import escape
from pathlib import Path
from typing import Dict, List

HERE = Path(__file__).resolve().parent
FONT = "font-family=\"'DejaVu Sans', Verdana, sans-serif\""
HALO = 'stroke="#fff" stroke-width="4" paint-order="stroke"'  # of texts, where a line passes behind


def route(line: dict, stops: Dict[str, dict]) -> str:
    """The line's path: level from stop to stop, with one slope of 45 degrees half-way where their heights differ."""
    points: List[str] = []
    places = [stops[name] for name in line["stops"]]
    for here, there in zip(places, places[1:]):
        low, high = here["y"] + line["offset"], there["y"] + line["offset"]
        middle, half = (here["x"] + there["x"]) / 2, abs(high - low) / 2
        points += [f"{here['x']},{low}", f"{middle - half:g},{low}", f"{middle + half:g},{high}", f"{there['x']},{high}"]
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{line["color"]}" stroke-width="7" stroke-linejoin="round" stroke-linecap="round"/>'


def station(stop: dict, lines: List[dict]) -> List[str]:
    """A stop that all its lines go through, its name above and what it does below."""
    offsets = [line["offset"] for line in lines if stop["name"] in line["stops"]]
    top, bottom = stop["y"] + min(offsets) - 8, stop["y"] + max(offsets) + 8
    is_step = stop["name"].isupper()
    shape = f'<rect x="{stop["x"] - 8}" y="{top}" width="16" height="{bottom - top}" rx="8" fill="#fff" stroke="#222" stroke-width="3"/>'
    if not is_step:
        shape = f'<rect x="{stop["x"] - 9}" y="{top - 2}" width="18" height="{bottom - top + 4}" rx="2" fill="#222"/>'
    weight = "bold" if is_step else "normal"
    texts = [f'<text x="{stop["x"]}" y="{top - 9}" text-anchor="middle" font-size="13" font-weight="{weight}" {HALO}>{escape(stop["name"])}</text>']
    if "below" in stop:
        texts.append(f'<text x="{stop["x"]}" y="{bottom + 17}" text-anchor="middle" font-size="11" fill="#555" {HALO}>{escape(stop["below"])}</text>')
    return [shape, *texts]


def legend(source: dict) -> List[str]:
    """The names of the lines, at the foot."""
    drawn, x, y = [], 40, source["height"] - 18
    for line in source["lines"]:
        drawn.append(f'<line x1="{x}" y1="{y}" x2="{x + 30}" y2="{y}" stroke="{line["color"]}" stroke-width="7" stroke-linecap="round"/>')
        drawn.append(f'<text x="{x + 42}" y="{y + 4}" font-size="12">{escape(line["name"])}</text>')
        x += 90 + 8 * len(line["name"])
    return drawn


def draw(source: dict) -> str:
    """The picture."""
    stops = {stop["name"]: stop for stop in source["stops"]}
    size = f'width="{source["width"]}" height="{source["height"]}" viewBox="0 0 {source["width"]} {source["height"]}"'
    drawn = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {FONT} fill="#222">', '<rect width="100%" height="100%" fill="#fff"/>']
    drawn += [route(line, stops) for line in source["lines"]]
    for stop in source["stops"]:
        drawn += station(stop, source["lines"])
    return "\n".join([*drawn, *legend(source), "</svg>", ""])


if __name__ == "__main__":
    picture, drawn = HERE / "pipeline.svg", draw(json.loads((HERE / "pipeline.json").read_text()))
    if sys.argv[1:] == ["--check"]:
        sys.exit(picture.read_text() != drawn and "pipeline.svg is not that of pipeline.json; run docs/images/draw_map.py")
    picture.write_text(drawn)
