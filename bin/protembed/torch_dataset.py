"""The records of an embeddings.h5 as torch's DataLoader takes them; the only part of the reading side that needs torch."""

from typing import Optional, Tuple

import numpy as np
import torch
from torch.utils.data import Dataset


class EmbeddingDataset(Dataset):
    """(id, tensor) by row; may be read by several workers at once."""

    def __init__(self, embeddings, kind: str, layer: Optional[int]):
        embeddings.array(kind, layer)  # KeyError now rather than in a worker
        self._embeddings, self._kind, self._layer = embeddings, kind, layer
        self.ids = embeddings.ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> Tuple[str, torch.Tensor]:
        vector: np.ndarray = getattr(self._embeddings, self._kind)(int(row), self._layer)
        return self.ids[row], torch.from_numpy(vector)
