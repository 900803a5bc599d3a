"""VERIFY passes what is right and fails each way in which packed engines have been wrong, at their usual size."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from esm.model.esm2 import ESM2

from protembed import esm2, pointwise
from protembed.esm2 import PackedESM2
from protembed.shapes import Shape
from protembed.weights import describe, random_esm2, save_esm2
from tests.conftest import BIN, draw_lengths, make_proteins, run_inside, write_fasta
from verify_embeddings import Worst

COUNT = 6


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Sixty proteins in chunks, and a sample."""
    folder = tmp_path_factory.mktemp("split")
    write_fasta(folder / "in.fasta", make_proteins([*draw_lengths(40, 20, 300), 1200], seed=3))
    run_inside("split_fasta.py", folder / "in.fasta", "--outdir", folder, "--chunk-residues", 3000, "--sample", COUNT)
    return folder


def embed_and_verify(split, weights, outdir, *options, check=True):
    for chunk in (split / "chunks").iterdir():
        run_inside("embed_chunk.py", chunk, "--weights", weights, "--outdir", outdir, "--repr-layers", "1,3", "--include", "mean,bos,per_tok", *options)
    return verify(split, weights, outdir, check)


def verify(split, weights, outdir, check=True):
    holding = [outdir / f"{name}.h5" for name in json.loads((split / "split.json").read_text())["sampled_chunks"]]
    return run_inside("verify_embeddings.py", *holding, "--sample", split / "sample.fasta", "--weights", weights, "--outdir", outdir, check=check)


def test_right_vectors_pass_and_the_figures_are_written(split, weights, tmp_path):
    embed_and_verify(split, weights, tmp_path)
    verdict = json.loads((tmp_path / "verify.json").read_text())
    assert verdict["sequences"] == COUNT and verdict["binding"]
    assert (verdict["bound_relative_l2"], verdict["bound_cosine"]) == (2e-5, 0.99999)
    assert set(verdict["worst"]) == {"mean", "bos", "per_tok"}
    assert all(0 < figure["relative_l2"] < 1e-5 and figure["cosine"] > 0.9999999 for figure in verdict["worst"].values())


def scale_forgotten(monkeypatch):
    monkeypatch.setattr(esm2, "TOKEN_DROPOUT_SCALE", 1.0)


def frequencies_recomputed(monkeypatch):
    """In fp32, where the published file has them rounded to half."""
    build = PackedESM2.__init__

    def rebuilt(self, model, *rest):
        build(self, model, *rest)
        head_dim = 2 * len(self.inv_freq)
        self.inv_freq = 1.0 / 10000 ** (torch.arange(0, head_dim, 2).float() / head_dim)

    monkeypatch.setattr(PackedESM2, "__init__", rebuilt)


def mean_with_bos_and_eos(monkeypatch):
    take = PackedESM2._take

    def all_tokens(self, vectors, layer, stream, pack):
        take(self, vectors, layer, stream, pack)
        name = f"representations/{layer}/mean"
        if name in vectors:
            vectors[name] = torch.stack([part.mean(0) for part in stream.split(pack.lengths)])

    monkeypatch.setattr(PackedESM2, "_take", all_tokens)


def neighbours_attended(monkeypatch):
    """What a padded batch without mask does: tokens that are not the sequence's own get attention."""

    def everyone(qkv, pack):
        views = [part.transpose(0, 1)[None] for part in qkv.unbind(1)]
        return F.scaled_dot_product_attention(*views, scale=1.0)[0].transpose(0, 1)

    monkeypatch.setattr(esm2, "chosen_attention", lambda *where: everyone)


def layers_off_by_one(monkeypatch):
    take = PackedESM2._take
    monkeypatch.setattr(PackedESM2, "_take", lambda self, vectors, layer, stream, pack: take(self, vectors, layer + 1, stream, pack))


def positions_forgotten(monkeypatch):
    monkeypatch.setattr(pointwise, "rotate", lambda qkv, turns: None)


BROKEN = [scale_forgotten, frequencies_recomputed, mean_with_bos_and_eos, neighbours_attended, layers_off_by_one, positions_forgotten]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_an_engine_with_a_peers_mistake_fails(split, weights, tmp_path, monkeypatch, broken):
    broken(monkeypatch)
    done = embed_and_verify(split, weights, tmp_path, check=False)
    assert done.returncode == 69
    assert "vectors of this run are not fair-esm's" in done.stderr


@pytest.fixture(scope="module")
def moderate(tmp_path_factory):
    """Weights whose attention is not sharper than that of learned ones, which the bounds of half precision are about."""
    folder = tmp_path_factory.mktemp("moderate")
    save_esm2(random_esm2(Shape(layers=3, width=128, heads=2), seed=7, sharpness=1.5), folder / "moderate.pt")
    run_inside("fetch_weights.py", folder / "moderate.pt", "--outdir", folder / "weights")
    return folder / "weights"


@pytest.mark.parametrize("dtype, most, least", [("float16", 2e-3, 0.99999), ("bfloat16", 1.6e-2, 0.99936)])
def test_each_half_precision_has_its_bounds_which_moderate_attention_keeps(split, moderate, tmp_path, dtype, most, least):
    embed_and_verify(split, moderate, tmp_path, "--dtype", dtype)
    verdict = json.loads((tmp_path / "verify.json").read_text())
    assert (verdict["dtype"], verdict["bound_relative_l2"], verdict["bound_cosine"], verdict["binding"]) == (dtype, most, least, True)
    assert most / 1000 < verdict["worst"]["mean"]["relative_l2"] < verdict["worst"]["per_tok"]["relative_l2"] < most, "another precision was used"


@pytest.mark.parametrize("dtype, most", [("float16", 2e-3), ("bfloat16", 1.6e-2)])
def test_half_precision_beyond_its_bounds_fails_unless_weights_are_drawn_whose_vectors_mean_nothing(split, weights, tmp_path, dtype, most):
    done = embed_and_verify(split, weights, tmp_path, "--dtype", dtype, check=False)
    worst = json.loads((tmp_path / "verify.json").read_text())["worst"]["per_tok"]["relative_l2"]
    assert done.returncode == 69 and worst > most and f"allowed with {dtype}: {most:.0e}" in done.stderr
    shutil.copytree(weights, tmp_path / "drawn")
    describe(weights / "model.pt", "random:hostile", "seed 7").write(tmp_path / "drawn")
    verify(split, tmp_path / "drawn", tmp_path)
    verdict = json.loads((tmp_path / "verify.json").read_text())
    assert not verdict["binding"] and verdict["worst"]["per_tok"]["relative_l2"] == worst


@pytest.mark.parametrize("spoilt", ["ours", "reference"])
def test_a_figure_that_is_no_number_is_beyond_any_bound_and_stays_so(spoilt):
    good, bad, worst = np.ones((2, 4)), np.ones((2, 4)), Worst()
    bad[1] = np.nan
    worst.take(good, torch.tensor(good))
    assert not worst.is_beyond(2e-5, 0.99999)
    worst.take(*((bad, torch.tensor(good)) if spoilt == "ours" else (good, torch.tensor(bad))))
    worst.take(good, torch.tensor(good))
    assert worst.is_beyond(2e-5, 0.99999) and worst.is_beyond(1e9, 0.0)
    assert np.isnan([worst.relative_l2, worst.cosine]).all()


def test_want_of_memory_for_fair_esm_is_a_sentence(split, weights, tmp_path, monkeypatch):
    def crowded(*_, **__):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")

    embed_and_verify(split, weights, tmp_path)
    monkeypatch.setattr(ESM2, "forward", crowded)
    done = embed_and_verify(split, weights, tmp_path, check=False)
    assert done.returncode == 75 and "no memory for fair-esm in fp32: CUDA error: CUBLAS_STATUS_ALLOC_FAILED" in done.stderr and "--verify 0" in done.stderr


# torch leaves these to MKL's vector library (ATen/cpu/vml.h).
OF_MKL = "acos asin atan cos erf erfc erfinv exp log log10 log2 sin sqrt tan tanh trunc"
WATCHED = f"""
import json, os, runpy, sys
from torch.utils._python_dispatch import TorchDispatchMode
first = {{}}
class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__.rstrip("_")
        if name in "{OF_MKL}".split():
            first.setdefault(name, arguments[0].numel())
        return function(*arguments, **(keywords or {{}}))
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
try:
    with Watch():
        runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(json.dumps(first))
"""


def first_calls(script, *arguments):
    """Function of MKL's vector library -> how many numbers its first call in a new process was for."""
    done = subprocess.run([sys.executable, "-c", WATCHED, str(BIN / script), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_vector_function_is_computed_before_one_thread_alone_has_called_it(split, weights, tmp_path):
    """Else two threads race for its kernel, and one may take another that is 4e-5 off (pytorch issue 188792)."""
    name = json.loads((split / "split.json").read_text())["sampled_chunks"][0]
    place = ["--weights", weights, "--outdir", tmp_path]
    ours = first_calls("embed_chunk.py", split / "chunks" / f"{name}.fasta", *place)
    fair_esms = first_calls("verify_embeddings.py", tmp_path / f"{name}.h5", "--sample", split / "sample.fasta", *place)
    assert {"cos", "sin", "erf"} <= set(fair_esms)
    assert set(ours.values()) == set(fair_esms.values()) == {1}, (ours, fair_esms)
