"""protembed: every protein of a FASTA becomes its ESM-2 vectors in one self-describing HDF5."""

__version__ = "0.1.0"
