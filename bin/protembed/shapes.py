"""The members of the family, and what computing with them costs: enough to size chunks before any weights are there.

Rates and times are of a fast device of its kind. On a slower one a chunk takes longer than planned, and loading weighs even
less. Nothing here is measured at run time: equal input must give equal chunks on any machine. Standard library only.
"""

from pathlib import Path
from typing import Dict, NamedTuple, Tuple

RANDOM = "random:"


class Shape(NamedTuple):
    """What distinguishes the members of the family (Lin et al. 2023, table S1)."""

    layers: int
    width: int
    heads: int

    @property
    def flops_per_token(self) -> float:
        """Of the matrix products: 2 for each of the 12 D^2 weights of a layer."""
        return 24.0 * self.layers * self.width**2

    def work(self, length: int) -> int:
        """What a sequence costs, in residues of a short one: attention adds 4 L D per token and layer to the 24 D^2 of the products."""
        return length + length * length // (6 * self.width)


SHAPES: Dict[str, Shape] = {
    "esm2_t6_8M_UR50D": Shape(6, 320, 20),
    "esm2_t12_35M_UR50D": Shape(12, 480, 20),
    "esm2_t30_150M_UR50D": Shape(30, 640, 20),
    "esm2_t33_650M_UR50D": Shape(33, 1280, 20),
    "esm2_t36_3B_UR50D": Shape(36, 2560, 40),
    "esm2_t48_15B_UR50D": Shape(48, 5120, 40),
}


class Device(NamedTuple):
    """A fast one of its kind."""

    flops: float  # per second, in the model's products
    start_seconds: float  # of a task, before it loads weights: Python, torch, the device


DEVICES = {"cpu": Device(1.5e11, 4.0), "cuda": Device(4e14, 6.0)}
READING = 1e9  # bytes of weights per second
LOADS_PER_CHUNK = 50  # a chunk takes so many times its start: that is 2 % of it
LONGEST_CHUNK = 4 * 3600  # seconds: a task must end within the time limits of common queues on a device that is several times slower
LEAST_RESIDUES, MOST_RESIDUES = 1 << 14, 1 << 27
MOST_BYTES = 1 << 35  # of the vectors of one chunk


def guessed_shape(model: str, file_bytes: int) -> Shape:
    """The shape behind a name; behind a local file the nearest by its size (published ones have 2 or 4 bytes per weight)."""
    name = model[len(RANDOM) :] if model.startswith(RANDOM) else model
    return SHAPES.get(name) or min(SHAPES.values(), key=lambda shape: abs(1.5 * shape.flops_per_token - file_bytes))


def bounds_of_chunks(shape: Shape, device: str, residue_vectors: int, longest: float = LONGEST_CHUNK) -> Tuple[int, int]:
    """The least and the most residues that a chunk should have: to repay its start, and to end and fit somewhere.

    residue_vectors: how many vectors of each residue are kept (layers, when per_tok is included). longest: seconds.
    """
    start = DEVICES[device].start_seconds + shape.flops_per_token / READING  # 12 L D^2 weights of 2 bytes
    rate = DEVICES[device].flops / shape.flops_per_token
    most = min(MOST_RESIDUES, longest * rate, MOST_BYTES / (4 * shape.width * residue_vectors or 1))
    return int(max(LEAST_RESIDUES, min(LOADS_PER_CHUNK * start * rate, most))), int(max(LEAST_RESIDUES, most))


def regression_beside(model: Path) -> Path:
    """fair-esm's name for the contact regression of a model file, in its folder."""
    return model.with_name(f"{model.stem}-contact-regression.pt")
