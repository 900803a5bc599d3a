#!/usr/bin/env python3
"""Write README's speed table from benchmarks/results/embed-*.json, between its two marks. `--check` only says whether it is true."""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
MARKS = ("<!-- speed table: benchmarks/table.py writes it -->\n", "<!-- end of speed table -->\n")
NAMES = {"ecoli": "E. coli proteome", "lognormal": "log-normal mix to 1022"}


def machine_in_words(result: dict) -> str:
    machine = result["machine"]
    return f"{machine['gpu'] or str(machine['threads']) + ' cores of ' + machine['cpu']}, torch {machine['torch'].partition('+')[0]}"


def rows(result: dict) -> list:
    """One line per cell: tokens/s of this project, and how often the others' that is."""
    lines = []
    for cell in result["cells"]:
        engines = {engine["engine"]: engine for engine in cell["engines"]}
        ours, fair_esm, other = engines["protembed"], engines["fair-esm"], engines.get("transformers")
        against = f"{ours['tokens_per_second'] / other['tokens_per_second']:.2f} x" if other else "-"
        lengths = NAMES.get(cell["lengths"], f"fragments of {cell['lengths']} residues")
        share = f"{ours['share_of_matmul_limit']:.0%} ({ours['share_with_attention']:.0%})"
        speeds = f"{ours['tokens_per_second']:,.0f} | {ours['ratio_to_fair_esm']:.2f} x | {against} | {share}"
        lines.append(f"| {cell['model']} {ours['dtype']} | {lengths} | {speeds} | {fair_esm['working_bytes'] / ours['working_bytes']:.1f} x less |")
    return lines


def table() -> str:
    lines = []
    for path in sorted((HERE / "results").glob("embed-*.json")):
        result = json.loads(path.read_text())
        lines += [f"{machine_in_words(result)} ({path.name}):", ""]
        lines += [
            "| model | lengths | tokens/s | over fair-esm | over transformers | of the matmul limit | working memory than fair-esm |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [*rows(result), ""]
    return "\n".join(lines) + "\n"


def main(check: bool) -> int:
    before, _, rest = README.read_text().partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    wanted = before + MARKS[0] + table() + MARKS[1] + after
    if check:
        return int(README.read_text() != wanted)
    README.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
