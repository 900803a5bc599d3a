"""Our kernels through NVIDIA's bindings on a GPU that is pretended (pretended_gpu.cpp), in a process of its own: see test_pointwise.py.

Arguments: dtype, heads, head width. Prints one JSON object.
"""

import json
import sys
from types import SimpleNamespace

import torch

from protembed import esm2, pointwise
from protembed.layout import vector_name
from protembed.shapes import Shape
from protembed.weights import random_esm2
from tests.conftest import make_proteins, reference_layers, relative_l2

CPU = torch.device("cpu")
LENGTHS = [1, 30, 30, 77]


def vectors_of(model, sequences, dtype, way):
    esm2.chosen_pointwise = lambda *arguments: way
    return esm2.PackedESM2(model, range(model.num_layers + 1), ("mean", "bos", "per_tok", "contacts"), dtype, CPU).embed(sequences)


def main(dtype, heads, head_dim):
    torch.cuda.get_device_capability = lambda device: (9, 0)
    torch.cuda.current_stream = lambda device: SimpleNamespace(cuda_stream=0)
    fused = pointwise.Fused(dtype, CPU, heads, head_dim)
    model, sequences = random_esm2(Shape(3, heads * head_dim, heads), seed=1, sharpness=1.5), make_proteins(LENGTHS)
    ours, portable = (vectors_of(model, sequences, dtype, way) for way in (fused, pointwise.Portable()))
    of_fair_esm = [reference_layers(model, sequence, range(4)) for sequence in sequences]
    residues = {vector_name(layer, "per_tok"): torch.cat([reference[layer][1:-1] for reference in of_fair_esm]) for layer in range(4)}
    return {
        "trial": pointwise.distance_in_a_trial(fused, dtype, CPU, heads, head_dim),
        "to portable": {name: relative_l2(rows, portable[name]) for name, rows in ours.items()},
        "to fair-esm": max(relative_l2(ours[name], rows) for name, rows in residues.items()),
    }


if __name__ == "__main__":
    print(json.dumps(main(getattr(torch, sys.argv[1]), *map(int, sys.argv[2:]))))
