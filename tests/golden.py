"""Make tests/data/golden.*: `python -m tests.golden`. Only when NUMERICS is raised, with the reason in the commit."""

from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent / "data"
LAYERS = (0, 1, 2)

if __name__ == "__main__":
    from protembed.identity import NUMERICS
    from protembed.shapes import Shape
    from protembed.weights import random_esm2, save_esm2
    from tests.conftest import make_proteins, reference_layers

    DATA.mkdir(exist_ok=True)
    model = random_esm2(Shape(2, 64, 1), seed=1)
    save_esm2(model, DATA / "golden.pt")
    sequences = make_proteins([300, 120, 60, 60, 9, 1], seed=1)
    reference = {f"layer{layer}": np.concatenate([reference_layers(model, sequence, [layer])[layer][1:-1] for sequence in sequences]) for layer in LAYERS}
    np.savez_compressed(DATA / "golden.npz", sequences=sequences, numerics=NUMERICS, **reference)
