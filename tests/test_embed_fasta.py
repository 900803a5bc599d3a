import os
import re
import sys

import h5py
import numpy as np
import pytest

from protembed.store import check_embeddings
from tests.conftest import BIN, killed_after, make_proteins, reference_layers, relative_l2, run_inside, run_script, write_fasta
from tests.terminal import on_a_terminal


def test_a_plain_fasta_becomes_the_pipelines_file_with_its_ids_and_fair_esms_values(tmp_path, hostile_esm2, hostile_pt):
    given = make_proteins([30, 90, 60], seed=3)
    fasta = write_fasta(tmp_path / "in.fasta", [*given, given[0]])
    said = run_inside("embed_fasta.py", fasta, "--model", hostile_pt, "--output", tmp_path / "x.h5").stderr
    assert check_embeddings(tmp_path / "x.h5")["n_embedded"] == 4
    with h5py.File(tmp_path / "x.h5") as file:
        assert list(file["sequence_ids"].asstr()) == [f"protein{number}" for number in range(4)]
        for row, sequence in enumerate([*given, given[0]]):
            expected = reference_layers(hostile_esm2, sequence, [3])[3][1:-1].double().mean(0)
            assert relative_l2(file["embeddings"][row][None], expected[None]) < 2e-5
        assert '"sequences": 3' in file.attrs["verify"]
    assert "duplicate" in (tmp_path / "x.h5.ledger.tsv").read_text().splitlines()[4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.fasta", "x.h5", "x.h5.ledger.tsv"], said


def test_a_place_that_cannot_be_made_is_a_bad_option(tmp_path, hostile_pt):
    fasta = write_fasta(tmp_path / "in.fasta", ["MKV"])
    done = run_inside("embed_fasta.py", fasta, "--model", hostile_pt, "--output", fasta / "x.h5", check=False)
    assert done.returncode == 78 and "in.fasta/x.h5.work" in done.stderr and "cannot be made (Not a directory)" in done.stderr


def test_esm_extracts_options_mean_here_what_they_mean_there(tmp_path, hostile_pt):
    fasta = write_fasta(tmp_path / "in.fasta", make_proteins([30, 90], seed=3))
    theirs = ["--repr_layers", "0", "2", "-1", "--include", "mean", "per_tok", "bos", "--toks_per_batch", "64", "--truncation_seq_length", "50"]
    ours = ["--repr-layers=0,2,-1", "--include", "mean,per_tok,bos", "--max-tokens", "64", "--max_residues", "50"]
    for name, words in (("theirs", theirs), ("ours", ours)):
        run_inside("embed_fasta.py", fasta, "--model", hostile_pt, "--output", tmp_path / f"{name}.h5", "--weights_dir", tmp_path, "--verify", 0, *words)
    attributes = check_embeddings(tmp_path / "theirs.h5")
    assert attributes["content_sha256"] == check_embeddings(tmp_path / "ours.h5")["content_sha256"]
    assert list(attributes["repr_layers"]) == [0, 2, 3] and attributes["max_residues"] == 50
    with h5py.File(tmp_path / "theirs.h5") as file:
        assert np.diff(file["offsets"][:]).tolist() == [30, 50] and set(file["representations/2"]) == {"mean", "per_tok", "bos"}


def test_killed_it_goes_on_from_its_checkpoints_to_the_same_file(tmp_path, hostile_pt):
    fasta = write_fasta(tmp_path / "in.fasta", make_proteins([400] * 60, seed=4))
    words = ["--model", hostile_pt, "--weights_dir", tmp_path, "--checkpoint_seconds", "0", "--toks_per_batch", "900", "--threads", "1", "--verify", "0"]
    run_script("embed_fasta.py", fasta, "--output", tmp_path / "whole.h5", *words)
    killed_after(1, tmp_path / "x.h5.work", "embed_fasta.py", fasta, "--output", tmp_path / "x.h5", *words)
    assert not (tmp_path / "x.h5").exists()
    again = run_script("embed_fasta.py", fasta, "--output", tmp_path / "x.h5", *words)
    assert re.search(r"[1-9]\d* of 60 sequences are in the checkpoint", again.stderr)
    assert check_embeddings(tmp_path / "x.h5")["content_sha256"] == check_embeddings(tmp_path / "whole.h5")["content_sha256"]


def test_what_a_killed_split_left_is_no_chunk(tmp_path, hostile_pt):
    """Half a chunk, by another process of another boot: nothing proves its writer dead, so it stays."""
    fasta = write_fasta(tmp_path / "in.fasta", make_proteins([30, 40]))
    (tmp_path / "x.h5.work" / "chunks").mkdir(parents=True)
    (tmp_path / "x.h5.work" / "chunks" / ".chunk_0.fasta.host.boot-1.7.abc.tmp").write_text(">0\nMK")
    run_inside("embed_fasta.py", fasta, "--model", hostile_pt, "--output", tmp_path / "x.h5", "--verify", 0)
    assert check_embeddings(tmp_path / "x.h5")["n_embedded"] == 2


@pytest.mark.parametrize("there", ["x.h5", "x.h5.ledger.tsv"])
def test_an_output_that_is_a_folder_is_told_before_anything_is_computed(tmp_path, hostile_pt, there):
    fasta = write_fasta(tmp_path / "in.fasta", ["MKV"])
    (tmp_path / there).mkdir()
    done = run_inside("embed_fasta.py", fasta, "--model", hostile_pt, "--output", tmp_path / "x.h5", check=False)
    assert done.returncode == 78 and f"{there} is a folder; name another --output" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.fasta", there]


def test_a_local_model_wants_no_folder_for_downloads(tmp_path, hostile_pt):
    fasta = write_fasta(tmp_path / "in.fasta", ["MKV"])
    run_inside("embed_fasta.py", fasta, "--model", hostile_pt, "--output", tmp_path / "x.h5", "--weights_dir", fasta / "nowhere", "--verify", 0)
    assert (tmp_path / "x.h5").exists()


def test_no_more_threads_than_this_process_has_cores(tmp_path, hostile_pt):
    """A share of a node, from a batch system."""
    fasta = write_fasta(tmp_path / "in.fasta", ["MKV"])
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(mine)])
    try:
        run_script("embed_fasta.py", fasta, "--model", hostile_pt, "--output", tmp_path / "x.h5", "--verify", 0)
    finally:
        os.sched_setaffinity(0, mine)
    assert check_embeddings(tmp_path / "x.h5")["device"] == "CPU, 1 threads"


def test_a_pipe_is_refused_for_it_would_be_read_twice(tmp_path, hostile_pt):
    """Bytes that the first reading took are not there for the second: records would be lost in silence."""
    os.mkfifo(tmp_path / "pipe")
    done = run_inside("embed_fasta.py", tmp_path / "pipe", "--model", hostile_pt, "--output", tmp_path / "x.h5", check=False)
    assert done.returncode == 65 and "pipe is a pipe, which cannot be read twice; write it to a file" in done.stderr


def test_bad_input_and_bad_options_are_one_line_and_a_code(tmp_path, hostile_pt):
    fasta = write_fasta(tmp_path / "in.fasta", ["MKJ"])
    shared = ["--output", tmp_path / "x.h5", "--weights_dir", tmp_path]
    wrong = run_inside("embed_fasta.py", fasta, "--model", hostile_pt, *shared, check=False)
    assert wrong.returncode == 65 and "in.fasta:1 protein0 has letters outside the alphabet: J" in wrong.stderr
    assert run_inside("embed_fasta.py", fasta, *shared, check=False).returncode == 78
    for option in (["--checkpoint_seconds", "nan"], ["--threads", "-1"]):  # before the input is found bad
        done = run_inside("embed_fasta.py", fasta, "--model", hostile_pt, *shared, *option, check=False)
        assert done.returncode == 78 and option[0].replace("_", "-") in done.stderr
    write_fasta(fasta, ["MKV"])
    unknown = run_inside("embed_fasta.py", fasta, "--model", "esm2_t6_8M", *shared, check=False)
    assert unknown.returncode == 66 and "did you mean esm2_t6_8M_UR50D?" in unknown.stderr


WRITTEN_OVER = [("in.fasta", "in.fasta"), ("x.h5.ledger.tsv", "x.h5"), ("model.pt", "../here/model.pt")]


@pytest.mark.parametrize("name, output", [*WRITTEN_OVER, ("model-contact-regression.pt", "model-contact-regression.pt")])
def test_a_file_that_is_read_is_never_overwritten(tmp_path, name, output):
    (tmp_path / "here").mkdir()
    given = write_fasta(tmp_path / "here" / name, ["MKV"])
    other, model = write_fasta(tmp_path / "other.fasta", ["MKV"]), tmp_path / "here" / "model.pt"
    arguments = [other, "--model", model] if name.startswith("model") else [given, "--model", "random:esm2_t6_8M_UR50D"]
    done = run_inside("embed_fasta.py", *arguments, "--output", tmp_path / "here" / output, "--weights_dir", tmp_path, check=False)
    assert done.returncode == 78 and f"{name} is read; name another --output" in done.stderr
    assert [path.name for path in (tmp_path / "here").iterdir()] == [name] and "MKV" in given.read_text()


def test_a_terminal_sees_a_bar_and_a_log_plain_lines(tmp_path, hostile_pt):
    fasta = write_fasta(tmp_path / "in.fasta", make_proteins([30] * 5, seed=3))
    words = [fasta, "--model", hostile_pt, "--output", tmp_path / "x.h5", "--weights_dir", tmp_path, "--verify", 0]
    code, said = on_a_terminal([sys.executable, BIN / "embed_fasta.py", *words])
    assert code == 0 and re.search(r"chunk_\w+: 100%\|\S+\| 5/5 \[.*tokens/s\]", said) and "5 of 5 sequences," not in said
    log = run_script("embed_fasta.py", *words).stderr
    assert re.search(r"chunk_\w+: 5 of 5 sequences, \d+ tokens/s", log) and "\r" not in log
