#!/usr/bin/env python3
"""Gather the numbers of a finished run: report.json for programs, and the same as custom content for MultiQC.

Reads what the merge wrote and the metrics of the chunks' tasks; of the vectors only a bounded sample. Writes report.json and
multiqc/, a folder with a configuration and one file per section, that `multiqc --config multiqc/multiqc_config.json multiqc` turns
into a page.
"""

import json
import sys
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Dict, List

from protembed.atomic import write_text
from protembed.cli import log, run
from protembed.layout import FORMAT
from protembed.ledger import read_ledger
from protembed.methods_text import WARNING, methods_of, references_of
from protembed.run_numbers import attempt_numbers, chunk_numbers, device_numbers, ledger_numbers, progress_numbers
from protembed.seals import opened
from protembed.sections_of_records import sections_after, sections_before
from protembed.sections_of_tasks import sections_of_tasks
from protembed.vector_map import flat_map, histogram_of_norms, sample_vectors

# MultiQC's own greeting (a link to a video), slogan and large logo tell nothing of a run; a phone has no room for its side bars.
CSS = """
.protembed-facts { max-width: 60em; } .protembed-facts th { width: 16em; } .protembed-facts td { word-break: break-word; }
blockquote, h1, h3 { overflow-wrap: anywhere; }
#page_title img, #mqc_welcome { display: none !important; }
"""


@dataclass(frozen=True)
class Options:
    summary: str = field(metadata=dict(help="summary.json written by merge_chunks.py"))
    ledger: str = field(metadata=dict(help="ledger.tsv written by merge_chunks.py"))
    embeddings: str = field(metadata=dict(help="embeddings.h5 written by merge_chunks.py"))
    versions: str = field(default="", metadata=dict(help="YAML of the software of each step (default: none)"))
    outdir: str = field(default=".", metadata=dict(help="where report.json and multiqc/ go (default: .)"))
    metrics: List[str] = field(default_factory=list, metadata=dict(args=["metrics"], nargs="*", type=str, help="metrics.json of each chunk, in any order"))


def numbers_of(options: Options) -> Dict[str, object]:
    """The content of report.json."""
    summary = json.loads(Path(options.summary).read_text(encoding="utf-8"))
    verify = summary.pop("verify")
    metrics = [json.loads(Path(path).read_text(encoding="utf-8")) for path in sorted(options.metrics)]
    chunks = chunk_numbers(metrics)
    with opened(Path(options.embeddings), FORMAT) as file:
        sample = sample_vectors(file)
    return dict(
        run=summary,
        ledger=ledger_numbers(read_ledger(Path(options.ledger))),
        chunks=chunks,
        devices=device_numbers(chunks),
        progress=progress_numbers(chunks),
        attempts=attempt_numbers(metrics),
        verify=verify,
        norms=histogram_of_norms(sample.vectors) if sample else {},
        map=flat_map(sample) if sample else {},
        sampled_dataset=sample.name if sample else None,
        methods=methods_of(summary, verify),
        references=references_of(),
    )


def multiqc_config(numbers: Dict[str, object], sections: List[dict]) -> Dict[str, object]:
    """What MultiQC is told beside the sections: no look-ups on the network, no section of its own, every plot drawn by the reader's browser."""
    run = numbers["run"]
    warning = f'<div class="alert alert-danger" role="alert"><strong>{WARNING}</strong></div>' if run["random_weights"] else ""
    return dict(
        title="protembed",
        intro_text="What became of each protein, how the work was done, and whether the numbers are fair-esm's.",
        subtitle=f"{run['n_embedded']:,} of {run['n_records']:,} proteins embedded with {run['model']}",
        report_comment=f"{warning}<style>{CSS}</style>The numbers behind this page are in report.json; what became of each record is in ledger.tsv.",
        run_modules=["custom_content"],
        custom_content=dict(order=[section["id"] for section in sections]),
        skip_generalstats=True,
        no_version_check=True,
        no_ai=True,
        plots_force_interactive=True,
        show_analysis_paths=False,
        max_table_rows=100000,
    )


def main(options: Options) -> None:
    numbers = numbers_of(options)
    folder = Path(options.outdir) / "multiqc"
    folder.mkdir(parents=True, exist_ok=True)
    sections = list(chain(sections_before(numbers), sections_of_tasks(numbers), sections_after(numbers)))
    for section in sections:
        write_text(folder / f"{section['id']}_mqc.json", json.dumps(section) + "\n")
    write_text(folder / "multiqc_config.json", json.dumps(multiqc_config(numbers, sections), indent=2) + "\n")
    if options.versions:
        write_text(folder / "protembed_mqc_versions.yml", Path(options.versions).read_text(encoding="utf-8"))
    write_text(Path(options.outdir) / "report.json", json.dumps(numbers, indent=1) + "\n")
    log.info("report.json: %d sections for MultiQC", len(sections))


if __name__ == "__main__":
    sys.exit(run(Options, main))
