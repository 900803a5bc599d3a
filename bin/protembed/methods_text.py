"""The run told for a paper: one paragraph that holds what decides the numbers, and the works to cite. Standard library only."""

from typing import Any, Dict, List

REFERENCES = {
    "esm2": "Lin Z, Akin H, Rao R, et al. Evolutionary-scale prediction of atomic-level protein structure with a language model. "
    "Science 379, 1123-1130 (2023). doi:10.1126/science.ade2574",
    "nextflow": "Di Tommaso P, Chatzou M, Floden EW, et al. Nextflow enables reproducible computational workflows. "
    "Nature Biotechnology 35, 316-319 (2017). doi:10.1038/nbt.3820",
    "pytorch": "Ansel J, Yang E, He H, et al. PyTorch 2: faster machine learning through dynamic Python bytecode transformation and graph compilation. "
    "ASPLOS 2024. doi:10.1145/3620665.3640366",
    "multiqc": "Ewels P, Magnusson M, Lundin S, Kaller M. MultiQC: summarize analysis results for multiple tools and samples in a single report. "
    "Bioinformatics 32, 3047-3048 (2016). doi:10.1093/bioinformatics/btw354",
}
KINDS = {"mean": "the mean over residues", "bos": "the vector of the start token", "per_tok": "one vector per residue"}
LONG = {
    "error": "No sequence was longer than {limit} residues.",
    "truncate": "Of sequences longer than {limit} residues the first {limit} were embedded ({truncated} records).",
    "window": "Sequences longer than {limit} residues were embedded in overlapping windows ({windowed} records).",
    "full": "Sequences of any length were embedded whole.",
}
WARNING = "RANDOM WEIGHTS: these vectors mean nothing. The model has ESM-2's architecture, but its weights were drawn at random to try the machinery."


def methods_of(run: Dict[str, Any], verify: Dict[str, Any]) -> str:
    """The paragraph. run: the content of summary.json. verify: that of verify.json, empty when nothing was verified."""
    layers = ", ".join(map(str, run["repr_layers"]))
    kinds = " and ".join(KINDS[kind] for kind in run["include"] if kind in KINDS)
    layer_s = "layers" if len(run["repr_layers"]) > 1 else "layer"
    sentences = [WARNING] if run["random_weights"] else []
    sentences += [
        f"{run['n_embedded']} of {run['n_records']} protein records were embedded with ESM-2 (Lin et al. 2023), model {run['model']}"
        f" (SHA-256 of the weights {run['weights_sha256']}), by protembed {run['pipeline_version']}, a Nextflow pipeline (Di Tommaso et al. 2017),"
        f" with PyTorch {run['torch']} (Ansel et al. 2024), in {run['compute_dtype']}, on {run['device']}.",
        f"The vectors are {kinds} of {layer_s} {layers}, stored in {run['store_dtype']}." if kinds else "",
        "Contacts of residues were predicted by the model's own regression on its attention maps." if "contacts" in run["include"] else "",
        LONG.get(run["long_sequences"], "").format(limit=run["max_residues"], **run["flags"]),
    ]
    if run["flags"].get("substituted"):
        sentences.append(f"Letters outside the model's alphabet were replaced by X in {run['flags']['substituted']} records.")
    if run["n_skipped"]:
        sentences.append(f"{run['n_skipped']} records were left out; ledger.tsv tells why.")
    return " ".join(filter(None, [*sentences, _verified(verify)]))


def _verified(verify: Dict[str, Any]) -> str:
    if not verify.get("worst"):
        return ""
    worst = max(figure["relative_l2"] for figure in verify["worst"].values())
    cosine = min(figure["cosine"] for figure in verify["worst"].values())
    return (
        f"A sample of {verify['sequences']} sequences was embedded again by unmodified fair-esm in float32, one at a time:"
        f" the largest relative L2 distance was {worst:.1e}, the least cosine {cosine:.7f}."
    )


def references_of() -> List[str]:
    """What the paragraph cites, and the report itself."""
    return list(REFERENCES.values())
