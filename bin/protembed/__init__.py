"""protembed: every protein of a FASTA becomes its ESM-2 vectors in one self-describing HDF5."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """`from protembed import open_embeddings`, without h5py for those who only show progress."""
    if name == "open_embeddings":
        from protembed.reading import open_embeddings

        return open_embeddings
    raise AttributeError(f"module 'protembed' has no attribute {name!r}")
