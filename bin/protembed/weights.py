"""ESM-2 weights: where they come from, whether they are what they claim, and how they become fair-esm's model.

A weights folder is what FETCH_WEIGHTS hands to every other step:
  model.pt         a file in fair-esm's format (cfg + state dict)
  regression.pt    its contact regression, when there is one
  weights.json     Description below
Nothing here unpickles arbitrary objects: the one class beside tensors that such a file may hold is argparse.Namespace.
"""

import argparse
import difflib
import json
import pickle
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

import torch
from esm.model.esm2 import ESM2
from esm.pretrained import _load_model_and_alphabet_core_v2
from torch import nn
from torch.overrides import TorchFunctionMode

from protembed.atomic import sha256_of_file, write_text
from protembed.errors import BadWeights, fault_of_reading, fault_of_the_file_system, first_line
from protembed.shapes import RANDOM, SHAPES, Shape

CONTACTS = {"contact_head.regression.weight", "contact_head.regression.bias"}  # in a file of their own


@dataclass(frozen=True)
class Description:
    """The content of weights.json."""

    model: str  # fair-esm's name, random:NAME, or the name of a local file
    source: str  # URL, path or seed
    sha256: str  # of model.pt
    layers: int
    width: int
    heads: int
    fp16_exact: bool  # every weight is a half precision number: fp16 loses nothing on the weights
    random: bool  # the vectors mean nothing
    regression_sha256: str = ""  # of regression.pt, if there is one

    def write(self, folder: Path) -> None:
        """weights.json in `folder`."""
        write_text(folder / "weights.json", json.dumps(asdict(self), indent=2) + "\n")

    def needed_regression(self) -> str:
        """Its SHA-256; BadWeights when there is none."""
        if not self.regression_sha256:
            raise BadWeights(f"contacts need the regression of {self.model}: put NAME-contact-regression.pt beside NAME.pt, as fair-esm does")
        return self.regression_sha256

    @classmethod
    def read(cls, folder: Path) -> "Description":
        """BadWeights when `folder` is no weights folder."""
        path = folder / "weights.json"
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            words = f"{folder} is not a weights folder of this version: {error}; make one with fetch_weights.py"
            raise fault_of_reading(error, path) or BadWeights(words) from error


def shape_of(name: str) -> Shape:
    """The shape behind a model name; BadWeights with the nearest right name when there is none."""
    if name in SHAPES:
        return SHAPES[name]
    near = difflib.get_close_matches(name, SHAPES, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(SHAPES)}"
    raise BadWeights(f"model {name!r} is not an ESM-2 model of fair-esm, nor a path that ends in .pt; {hint}")


def load_esm2(path: Path, regression: Optional[Path] = None, name: str = "") -> ESM2:
    """fair-esm's ESM2 module on the CPU, in eval mode, in the dtype of the file, from a file in fair-esm's format.

    Its tensors are the file's own pages (memory-mapped): nothing is drawn at random to be thrown away, nothing is held twice.
    Give it `.float()` before its own forward pass. BadWeights when the file is missing, damaged, unsafe to unpickle, or not ESM-2,
    or the regression is not this model's; `name` is what it calls a file that does not have its final name yet.
    """
    called = name or path.name
    content = _load_tensors(path, called)
    called += f" with {regression.name}" if regression else ""
    try:
        if regression:
            content["model"].update(_load_tensors(regression, regression.name)["model"])
        with _Undrawn():  # the model without numbers; fair-esm's own names of parameters
            model, _, state = _load_model_and_alphabet_core_v2(content)
        missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        words = f"{called} is not an ESM-2 model in fair-esm's format ({type(error).__name__}: {first_line(error)})"
        raise fault_of_the_file_system(error, path) or BadWeights(words) from error
    faults = [f"{key} is missing" for key in missing if regression or key not in CONTACTS] + [f"{key} is not known" for key in unexpected]
    if faults:
        raise BadWeights(f"{called} is not an ESM-2 model in fair-esm's format ({faults[0]}, and {len(faults) - 1} more)")
    if missing:  # as in fair-esm: without a regression file contacts mean nothing
        model.contact_head.regression.reset_parameters()
    return _ready(model)


def _ready(model: ESM2) -> ESM2:
    """In eval mode, and safe to run at once.

    MKL chooses the kernel of a vector function at its first call. When that comes from several threads, one of them may get
    another kernel, whose results were seen to be some 4e-5 off (pytorch issue 188792): the first call is made here, alone.
    """
    for function in (torch.cos, torch.sin, torch.erf):  # those in fair-esm's forward pass
        function(torch.zeros(1))
    return model.eval().requires_grad_(False)


class _Undrawn(TorchFunctionMode):
    """Leaves tensors as they are where modules would fill them at the start: memory that is never touched costs nothing.

    The meta device would say the same in one word, but its `arange` and `normal_` import sympy: a second, and 300 MB.
    """

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if getattr(function, "__module__", "") == nn.init.__name__ or function in (torch.Tensor.fill_, torch.Tensor.zero_):
            return arguments[0] if arguments else keywords["tensor"]
        return function(*arguments, **(keywords or {}))


def _load_tensors(path: Path, called: str) -> dict:
    try:
        if not path.is_file():
            raise BadWeights(f"{path}: no such file; give a .pt file or one of {', '.join(SHAPES)}")
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise fault_of_reading(error, path) or BadWeights(f"{called} is damaged or is no PyTorch weights file ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise BadWeights(f"{called} is not an ESM-2 model in fair-esm's format (it holds a {type(content).__name__})")
    return content


def random_esm2(shape: Shape, seed: int = 0, sharpness: float = 3.0) -> ESM2:
    """A model whose numbers are drawn, not learned, made so that mistakes show (an untrained one has flat attention).

    q and k weights are `sharpness` times those of fair-esm's initialisation, norms and biases are random, every value is
    a half precision number as in the published files (rotary frequencies too). Equal seeds give equal models.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ESM2(num_layers=shape.layers, embed_dim=shape.width, attention_heads=shape.heads, token_dropout=True)
    for name, value in model.state_dict().items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            value *= sharpness
        elif "layer_norm" in name:
            value += 0.2 * torch.randn(value.shape, generator=generator)
        elif name.endswith("bias"):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        value.copy_(value.half().float())
    return _ready(model)


def save_esm2(model: ESM2, path: Path, half: bool = True) -> None:
    """Write `model` in fair-esm's file format, without regression; `half` stores fp16 as the published files do."""
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("contact_head.")}
    stored = {
        ("encoder." if name.startswith("lm_head") else "encoder.sentence_encoder.") + name: value.half() if half else value for name, value in state.items()
    }
    config = argparse.Namespace(
        encoder_layers=model.num_layers,
        encoder_embed_dim=model.embed_dim,
        encoder_attention_heads=model.attention_heads,
        token_dropout=model.token_dropout,
    )
    with open(path, "wb") as handle:  # a handle, not a path: the archive must not contain the file's name, or its digest would depend on it
        torch.save({"cfg": {"model": config}, "model": stored}, handle)


def save_regression(model: ESM2, path: Path) -> None:
    """Write the contact regression of `model` in fair-esm's file format."""
    with open(path, "wb") as handle:
        torch.save({"model": {name: value.clone() for name, value in model.state_dict().items() if name in CONTACTS}}, handle)


def describe(path: Path, model: str, source: str) -> Description:
    """Load the file once, as every task will, and say what it is."""
    esm2 = load_esm2(path)
    stored = {name: value for name, value in esm2.state_dict().items() if not name.startswith("contact_head.")}
    exact = all(torch.equal(value, value.half().to(value.dtype)) for value in stored.values())
    return Description(model, source, sha256_of_file(path), esm2.num_layers, esm2.embed_dim, esm2.attention_heads, exact, model.startswith(RANDOM))
