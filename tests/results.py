"""A small real result: proteins through split, embed and merge, with repeats, a long one, and a vector per residue."""

from tests.conftest import draw_lengths, make_proteins, run_inside, write_fasta


def embed_all(folder, weights, fasta, *arguments):
    """Split `fasta` and embed its chunks below `folder`; returns the chunk files."""
    run_inside("split_fasta.py", fasta, "--outdir", folder, "--chunk-residues", 500)
    for chunk in sorted((folder / "chunks").iterdir()):
        run_inside("embed_chunk.py", chunk, "--weights", weights, "--outdir", folder / "vectors", *arguments)
    return sorted((folder / "vectors").glob("*.h5"))


def merge_all(folder, weights, chunks, *arguments):
    """Merge them into folder/results; returns embeddings.h5."""
    paths = ["--records", folder / "records.tsv", "--weights", weights / "weights.json", "--outdir", folder / "results"]
    run_inside("merge_chunks.py", *chunks, *paths, *arguments)
    return folder / "results" / "embeddings.h5"


def small_result(folder, weights, *arguments, seed=8):
    """embeddings.h5 of 16 records: one longer than 60 residues and cut there, two that repeat another's sequence."""
    given = make_proteins([70, *draw_lengths(13, 20, 50, seed)], seed)
    fasta = write_fasta(folder / "in.fasta", [*given, given[3], given[0]])
    recipe = ["--include", "mean,per_tok", "--repr-layers", "1,3", "--max-residues", 60, *arguments]
    return merge_all(folder, weights, embed_all(folder, weights, fasta, *recipe))
