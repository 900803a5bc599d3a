"""A bounded sample of the vectors of an embeddings.h5: their norms, and a flat map of them (principal components).

Rows are taken at even distances over the file, so equal files give equal samples and memory does not depend on the file's size.
"""

from typing import Any, Dict, List, NamedTuple, Optional

import h5py
import numpy as np

from protembed.layout import vector_name

MOST_SAMPLED = 2000  # vectors: enough for a shape to show, few enough for a page and for a decomposition in a second or two


class VectorSample(NamedTuple):
    """Some vectors of one dataset."""

    name: str  # of the dataset
    vectors: np.ndarray  # (S, D) float32
    lengths: np.ndarray  # (S,) residues of the records


def sample_vectors(file: h5py.File, most: int = MOST_SAMPLED) -> Optional[VectorSample]:
    """At most `most` vectors of the lowest layer's mean, else bos; None when the file holds no vector per sequence."""
    layer = int(file.attrs["repr_layers"][0])
    names = [name for name in (vector_name(layer, "mean"), vector_name(layer, "bos")) if name in file]
    if not names or not len(file[names[0]]):
        return None
    rows = np.unique(np.linspace(0, len(file[names[0]]) - 1, most).astype(np.int64))
    return VectorSample(names[0], file[names[0]][rows].astype(np.float32), file["lengths"][rows])


def histogram_of_norms(vectors: np.ndarray, bins: int = 40) -> Dict[str, Any]:
    """Euclidean norms of (S, D) vectors: least, median, most; and `counts` between `edges`."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    counts, edges = np.histogram(norms, bins)
    return dict(
        least=float(norms.min()), median=float(np.median(norms)), most=float(norms.max()), counts=counts.tolist(), edges=edges.tolist(), sampled=len(norms)
    )


def flat_map(sample: VectorSample) -> Dict[str, Any]:
    """The sample seen along its two main directions: `points` of (x, y, residues), and the share of the variance that each shows.

    No points when there are fewer than three vectors, or when all are equal. Directions are turned so that their largest weight
    is positive: a map does not flip from run to run.
    """
    if len(sample.vectors) < 3 or sample.vectors.shape[1] < 2 or (sample.vectors == sample.vectors[0]).all():
        return dict(points=[], explained=[])
    centred = (sample.vectors - sample.vectors.mean(0, np.float64)).astype(np.float32)  # a mean in single precision is off by more than some samples differ
    variance = float((centred.astype(np.float64) ** 2).sum())
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(1)])
    places = left[:, :2] * singular[:2] * signs
    points: List[List[float]] = [[float(f"{x:.5g}"), float(f"{y:.5g}"), int(length)] for (x, y), length in zip(places, sample.lengths)]
    return dict(points=points, explained=[float(value**2 / variance) for value in singular[:2]])
