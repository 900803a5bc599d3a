import gc
import subprocess
import sys
import weakref

import h5py
import numpy as np
import pytest
import torch

from protembed.chunk_file import open_chunk_file
from protembed.esm2 import PackedESM2
from protembed.layout import Flag
from protembed.proteins import digest_of
from tests.conftest import BIN, FP32_BOUND, killed_after, make_proteins, metrics_of, reference_layers, relative_l2, run_inside, write_chunk
from tests.nextflow import is_alive, wait_for

LENGTHS = [1100, 700, 401, 333, 333, 200, 150, 90, 50, 50, 49, 20, 7, 3, 1]


@pytest.fixture(scope="module")
def sequences():
    return make_proteins(LENGTHS, seed=11)


@pytest.fixture
def chunk(tmp_path, sequences):
    return write_chunk(tmp_path / "chunk.fasta", sequences)


def embed(chunk, weights, outdir, *arguments, **keywords):
    return run_inside("embed_chunk.py", chunk, "--weights", weights, "--outdir", outdir, *arguments, **keywords)


def only_h5(outdir):
    (path,) = outdir.glob("chunk_*.h5")
    return path


def same_bits(left, right):
    """Every dataset and its checksum."""
    with h5py.File(left) as one, h5py.File(right) as other:
        names = []
        one.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        return all(np.array_equal(one[name][:], other[name][:]) and one[name].attrs["xxh3_128"] == other[name].attrs["xxh3_128"] for name in names)


def test_the_model_leaves_the_device_with_the_last_use_and_not_when_python_tidies_up(tmp_path, chunk, weights, monkeypatch):
    """embed_fasta.py verifies in the same process, on a device that may hold one model and not two."""
    made, engines = PackedESM2.__init__, []

    def kept_in_mind(self, *arguments):
        engines.append(weakref.ref(self))
        made(self, *arguments)

    monkeypatch.setattr(PackedESM2, "__init__", kept_in_mind)
    gc.disable()
    try:
        embed(chunk, weights, tmp_path / "out")
        assert [engine() for engine in engines] == [None]
    finally:
        gc.enable()


def test_rows_are_fair_esms_vectors_in_row_order_on_every_layer(tmp_path, chunk, weights, hostile_esm2, sequences):
    embed(chunk, weights, tmp_path / "out", "--repr-layers", "0,1,-1", "--include", "mean,per_tok,bos", "--max-tokens", 500)
    with open_chunk_file(only_h5(tmp_path / "out")) as stored:
        assert stored.identity.repr_layers == (0, 1, 3)
        assert stored.flags.tolist() == [int(Flag.TRUNCATED)] + [0] * (len(sequences) - 1)
        for row, sequence in enumerate(sequences):
            assert stored.digests[row].tobytes() == digest_of(sequence)
            reference = reference_layers(hostile_esm2, sequence[:1022], (0, 1, 3))
            for layer in (0, 1, 3):
                residues = reference[layer][1:-1]
                name = f"representations/{layer}"
                assert relative_l2(stored.vectors(f"{name}/per_tok", [row]), residues) <= FP32_BOUND
                assert relative_l2(stored.vectors(f"{name}/mean", np.array([row])), residues.double().mean(0)[None]) <= FP32_BOUND
                assert relative_l2(stored.vectors(f"{name}/bos", np.array([row])), reference[layer][:1]) <= FP32_BOUND


@pytest.mark.parametrize("policy, residues, flag", [("truncate", 100, Flag.TRUNCATED), ("full", 1100, Flag(0))])
def test_long_sequences_are_cut_or_embedded_whole_as_asked(tmp_path, chunk, weights, hostile_esm2, sequences, policy, residues, flag):
    embed(chunk, weights, tmp_path / "out", "--long-sequences", policy, "--max-residues", 100)
    reference = reference_layers(hostile_esm2, sequences[0][:residues], [3])[3][1:-1]
    with open_chunk_file(only_h5(tmp_path / "out")) as stored:
        assert stored.flags[0] == flag
        assert relative_l2(stored.vectors("representations/3/mean", np.array([0])), reference.double().mean(0)[None]) <= FP32_BOUND


@pytest.mark.parametrize("include", ["mean", "mean,per_tok"])
def test_a_killed_worker_goes_on_from_its_checkpoints_to_the_same_bits(tmp_path, sequences, weights, include):
    chunk = write_chunk(tmp_path / "chunk.fasta", make_proteins([300] * 120, seed=5))
    options = ["--max-tokens", "1000", "--checkpoint-seconds", "0", "--include", include, "--threads", "1"]
    embed(chunk, weights, tmp_path / "whole", *options)
    (whole,) = metrics_of(tmp_path / "whole")

    committed = killed_after(5, tmp_path / "killed", "embed_chunk.py", chunk, "--weights", weights, "--outdir", tmp_path / "killed", *options)
    assert not list((tmp_path / "killed").glob("*.h5"))

    embed(chunk, weights, tmp_path / "killed", *options)
    (resumed,) = metrics_of(tmp_path / "killed")
    rows_per_pack = 120 / whole["packs"]
    assert resumed["reused"] >= committed * rows_per_pack > 0
    assert resumed["computed"] == 120 - resumed["reused"] > 0
    assert resumed["forward_passes"] == whole["forward_passes"] - resumed["reused"] / rows_per_pack
    assert same_bits(only_h5(tmp_path / "whole"), only_h5(tmp_path / "killed"))


def test_a_finished_chunk_is_not_computed_again(tmp_path, chunk, weights):
    embed(chunk, weights, tmp_path / "out")
    embed(chunk, weights, tmp_path / "out")
    (metrics,) = metrics_of(tmp_path / "out")
    assert (metrics["forward_passes"], metrics["computed"], metrics["reused"]) == (0, 0, len(LENGTHS))


@pytest.mark.parametrize(
    "change", [["--repr-layers", "0"], ["--include", "bos"], ["--max-residues", "1000"], ["--long-sequences", "full"], ["--dtype", "bfloat16"]]
)
def test_checkpoints_of_another_recipe_are_not_used(tmp_path, chunk, weights, change):
    embed(chunk, weights, tmp_path / "out")
    embed(chunk, weights, tmp_path / "out", *change)
    (metrics,) = metrics_of(tmp_path / "out")
    assert metrics["reused"] == 0


def test_checkpoints_survive_a_change_of_the_pack_budget(tmp_path, chunk, weights):
    embed(chunk, weights, tmp_path / "out", "--max-tokens", 1500)
    embed(chunk, weights, tmp_path / "out", "--max-tokens", 1100, "--checkpoint-seconds", 5)
    (metrics,) = metrics_of(tmp_path / "out")
    assert (metrics["forward_passes"], metrics["reused"]) == (0, len(LENGTHS))


def test_an_orphan_leaves_at_the_next_pack_and_keeps_what_it_has(tmp_path, weights):
    chunk = write_chunk(tmp_path / "chunk.fasta", make_proteins([500] * 150, seed=6))
    command = (
        f"'{sys.executable}' '{BIN / 'embed_chunk.py'}' '{chunk}' --weights '{weights}' --outdir '{tmp_path / 'out'}' --max-tokens 502 --leave-when-orphaned"
    )
    parent = subprocess.Popen(["bash", "-c", f"{command} & echo $!; wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    assert any("of 150 sequences" in line for line in parent.stderr), "the worker ended before it had embedded anything"
    parent.kill()
    wait_for(lambda: not is_alive(worker))
    assert not list((tmp_path / "out").glob("*.h5"))
    embed(chunk, weights, tmp_path / "out", "--max-tokens", 502)
    (metrics,) = metrics_of(tmp_path / "out")
    assert metrics["reused"] > 0


def test_an_anchor_that_was_copied_is_refused(tmp_path, chunk, weights):
    from protembed.anchor import CONTENT

    (tmp_path / "checkpoints.anchor").write_text(CONTENT)
    done = embed(chunk, weights, tmp_path / "out", "--anchor", tmp_path / "checkpoints.anchor", check=False)
    assert (done.returncode, "was copied, not linked" in done.stderr) == (78, True)


def test_an_anchor_leads_to_the_folder_of_the_checkpoints(tmp_path, chunk, weights):
    from protembed.anchor import CONTENT, NAME

    (tmp_path / "root").mkdir()
    (tmp_path / "root" / NAME).write_text(CONTENT)
    (tmp_path / "checkpoints.anchor").symlink_to(tmp_path / "root" / NAME)
    embed(chunk, weights, tmp_path / "out", "--anchor", tmp_path / "checkpoints.anchor")
    assert [path.name for path in (tmp_path / "root").rglob("*.done")] == ["batch_00000.pt.done"]
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_exit_75_not_a_run_on_the_cpu(tmp_path, chunk, weights):
    done = embed(chunk, weights, tmp_path / "out", "--device", "cuda", check=False)
    assert (done.returncode, "no CUDA GPU is in sight" in done.stderr) == (75, True)


@pytest.mark.parametrize(
    "option, says",
    [
        (["--include", "mean,median"], "median"),
        (["--max-residues", "0"], "at least 1"),
        (["--checkpoint-seconds", "nan"], "not negative"),
        (["--threads", "-1"], "not negative"),
        (["--repr-layers", "9"], "layers 0 to 3"),
        (["--dtype", "int8"], "invalid choice"),
    ],
)
def test_a_bad_option_is_exit_78(tmp_path, chunk, weights, option, says):
    done = embed(chunk, weights, tmp_path / "out", *option, check=False)
    assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (78, True, False)
