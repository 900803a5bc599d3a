#!/usr/bin/env python3
"""Make the weights folder: from a local .pt file, by downloading a model of fair-esm once, or with random numbers.

Writes weights/model.pt, weights/regression.pt (when there is one) and weights/weights.json.
"""

import contextlib
import os
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from protembed.anchor import folder_of
from protembed.atomic import replacing, sha256_of_file
from protembed.cli import log, run
from protembed.downloading import download
from protembed.errors import BadWeights, Transient
from protembed.shapes import RANDOM, regression_beside
from protembed.weights import Description, describe, load_esm2, random_esm2, save_esm2, save_regression, shape_of

URL = "https://dl.fbaipublicfiles.com/fair-esm"  # where esm/pretrained.py downloads from


@dataclass(frozen=True)
class Options:
    model: str = field(metadata=dict(args=["model"], help="a name of fair-esm's (esm2_t33_650M_UR50D), random:NAME, or a path that ends in .pt"))
    outdir: str = field(default="weights", metadata=dict(help="the weights folder (default: weights)"))
    anchor: str = field(default="", metadata=dict(help="anchor file in the folder that keeps downloads; none: beside the weights folder"))
    url: str = field(default=URL, metadata=dict(help=f"where models/ and regression/ lie (default: {URL})"))
    file: str = field(default="", metadata=dict(help="the local .pt file under another name, when it was staged (default: MODEL itself)"))


def main(options: Options) -> None:
    outdir = Path(options.outdir)
    outdir.mkdir(parents=True, exist_ok=True)
    regression = outdir / "regression.pt"
    for old in (outdir / "weights.json", regression):  # a description never stands beside a model that is not the one it describes
        old.unlink(missing_ok=True)
    if options.model.endswith(".pt"):
        description = use_local_file(options, outdir)
    elif options.model.startswith(RANDOM):
        description = make_random(options.model, outdir)
    else:
        description = use_download(options, outdir)
    if regression.is_file():
        description = replace(description, regression_sha256=sha256_of_file(regression))
    description.write(outdir)
    log.info("%s: %d layers, width %d, sha256 %s", description.model, description.layers, description.width, description.sha256)


def use_local_file(options: Options, outdir: Path) -> Description:
    """Take the file, and its regression if fair-esm's name for it stands beside it, or beside the file that it links to."""
    source = Path(options.file or options.model)
    load_esm2(source)  # maps it and reads no tensor: what is no model is refused under its own name, and not copied
    copy(source, outdir / "model.pt")
    beside = map(regression_beside, (source, Path(os.path.realpath(source))))
    regression = next(filter(Path.is_file, beside), None)
    if regression:
        copy(regression, outdir / "regression.pt")
    return describe(outdir / "model.pt", Path(options.model).name, options.model)


def make_random(model: str, outdir: Path) -> Description:
    """Real architecture, drawn weights."""
    esm2 = random_esm2(shape_of(model[len(RANDOM) :]))
    with replacing(outdir / "model.pt") as temporary:
        save_esm2(esm2, temporary)
    with replacing(outdir / "regression.pt") as temporary:
        save_regression(esm2, temporary)
    return describe(outdir / "model.pt", model, "random numbers, seed 0")


def use_download(options: Options, outdir: Path) -> Description:
    """Download model and regression unless they are kept from an earlier time.

    They are loaded before they are kept. That maps the model and reads no tensor: only describe() reads it all, from the cache of files.
    """
    shape = shape_of(options.model)
    keep = folder_of(Path(options.anchor)) if options.anchor else outdir.parent
    url = f"{options.url}/models/{options.model}.pt"

    def check_model(path: Path, called: str) -> None:
        found = load_esm2(path, name=called)
        if (found.num_layers, found.embed_dim, found.attention_heads) != shape:
            raise BadWeights(f"{called} has {found.num_layers} layers of width {found.embed_dim}; {options.model} has {shape.layers} of {shape.width}")

    def check_regression(path: Path, called: str) -> None:
        try:
            load_esm2(outdir / "model.pt", path)
        except BadWeights as error:
            raise BadWeights(f"{called} is damaged or is not the contact regression of {options.model}") from error

    link(download(url, keep, check_model), outdir / "model.pt")
    link(download(f"{options.url}/regression/{options.model}-contact-regression.pt", keep, check_regression), outdir / "regression.pt")
    return describe(outdir / "model.pt", options.model, url)


def copy(source: Path, target: Path) -> None:
    """The bytes of a user's own file, which may be written to in place later: what has a digest must stay what it was.

    Transient when it is written to meanwhile: half of one model and half of another would load.
    """
    before = state_of(source)
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        if state_of(source) != before:
            raise Transient(f"{source} was written to while it was copied; run again with -resume when it is whole")


def state_of(path: Path) -> tuple:
    """What changes when a file is written to or replaced."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def link(source: Path, target: Path) -> None:
    """A kept download under another name, without a second copy where the file system can; a symbolic link would not be
    mounted in a container. Nobody writes to a kept download in place, unless it is itself a link, to a file of the user's."""
    target.unlink(missing_ok=True)
    if not source.is_symlink():
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    copy(source, target)


if __name__ == "__main__":
    sys.exit(run(Options, main))
