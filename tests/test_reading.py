"""open_embeddings on a real result, and the examples of the README."""

import pickle
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from protembed import open_embeddings
from protembed.errors import CorruptStore
from tests.conftest import BIN, ROOT


@pytest.fixture
def stored(result):
    with h5py.File(result) as file:
        yield file


def test_means_come_by_id_row_slice_and_list_as_h5py_has_them(embeddings, stored):
    means = stored["embeddings"][:]
    assert np.array_equal(embeddings["protein5"], means[5]) and embeddings["protein5"].shape == (128,)
    assert np.array_equal(embeddings[-1], means[-1]) and np.array_equal(embeddings[3:9:2], means[3:9:2])
    assert np.array_equal(embeddings[["protein7", "protein2"]], means[[7, 2]])
    assert np.array_equal(embeddings[np.array([4, 4])], means[[4, 4]]) and embeddings[[]].shape == (0, 128)
    assert np.array_equal(embeddings[torch.tensor([3, 1])], means[[3, 1]])
    assert np.array_equal(embeddings.mean(layer=3), stored["representations/3/mean"][:])
    assert len(embeddings) == 16 and embeddings.ids[3] == "protein3" and "protein3" in embeddings and "nobody" not in embeddings


def test_a_mask_selects_the_rows_that_are_true_and_one_of_another_length_is_refused(embeddings):
    mask = embeddings.lengths[:] > 40
    assert 1 < mask.sum() < 15 and np.array_equal(embeddings[mask], embeddings[:][mask]) and np.array_equal(embeddings[mask.tolist()], embeddings[:][mask])
    assert np.array_equal(embeddings[torch.from_numpy(mask)], embeddings[:][mask])
    assert [len(part) for part in embeddings.per_tok(mask)] == [len(part) for part in embeddings.per_tok(np.flatnonzero(mask))]
    for wrong in (mask[:-1], mask[:0], [True]):
        with pytest.raises(IndexError, match=f"a mask of {len(wrong)} for 16 records"):
            embeddings[wrong]


NO_ROWS = [1.5, np.float32(2), True, np.True_, b"protein3", [0.0, 1.0], np.array([1.0]), [True, 3], [b"protein3"], np.array([b"a"], object)]


@pytest.mark.parametrize("no_row", NO_ROWS, ids=repr)
def test_what_is_no_row_is_a_type_error_and_not_another_records_vector(embeddings, no_row):
    with pytest.raises(TypeError, match=r"a row is a whole number or an id \(str\), not"):
        embeddings[no_row]
    with pytest.raises(TypeError, match="decode it" if "b'" in repr(no_row) else "a row is"):
        embeddings.per_tok(no_row)


def test_residues_come_by_id_and_as_a_list_for_several(embeddings, stored):
    offsets, residues = stored["offsets"][:], stored["representations/3/per_tok"][:]
    assert np.array_equal(embeddings.per_tok("protein0", layer=3), residues[: offsets[1]]) and offsets[1] == 60
    several = embeddings.per_tok(slice(2, 4), layer=3)
    assert [part.shape for part in several] == [(length, 128) for length in stored["lengths"][2:4]]
    assert np.array_equal(np.concatenate(several), residues[offsets[2] : offsets[4]])
    assert np.array_equal(embeddings.per_tok(-1), embeddings.per_tok("protein15"))
    with pytest.raises(IndexError):
        embeddings.per_tok(16)


def test_what_is_not_there_is_a_key_error_that_says_what_is(embeddings):
    with pytest.raises(KeyError, match="no record 'nobody'"):
        embeddings["nobody"]
    with pytest.raises(KeyError, match="no representations/1/bos; it has representations/1/mean, representations/1/per_tok"):
        embeddings.bos("protein1")
    with pytest.raises(KeyError, match="no representations/2/mean"):
        embeddings.mean("protein1", layer=2)


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_torchs_loader_gets_every_record_once_from_several_workers(embeddings, stored, way):
    loader = torch.utils.data.DataLoader(embeddings.as_torch(), batch_size=5, num_workers=2, multiprocessing_context=way)
    batches = list(loader)
    assert sum((list(ids) for ids, _ in batches), []) == embeddings.ids
    assert np.array_equal(torch.cat([vectors for _, vectors in batches]).numpy(), stored["embeddings"][:])
    name, residues = embeddings.as_torch("per_tok", layer=3)[2]
    assert name == "protein2" and np.array_equal(residues.numpy(), embeddings.per_tok("protein2", layer=3))


def test_a_pickled_reader_reads_the_same_and_arrays_outlive_it(embeddings, result):
    with pickle.loads(pickle.dumps(embeddings)) as other:
        vectors = other[:]
    assert np.array_equal(vectors, embeddings[:])


def test_torn_unfinished_and_foreign_files_are_refused_when_opened_and_changed_ones_when_verified(result, tmp_path):
    bad = tmp_path / "embeddings.h5"
    bad.write_bytes(result.read_bytes()[:-100])
    with pytest.raises(CorruptStore, match="torn"):
        open_embeddings(bad)
    shutil.copy(result, bad)
    with h5py.File(bad, "r+") as file:
        file["embeddings"][0, 0] += 1
    open_embeddings(bad).close()
    with pytest.raises(CorruptStore, match="damaged"):
        open_embeddings(bad, verify=True)
    open_embeddings(result, verify=True).close()
    with h5py.File(bad, "r+") as file:
        file.attrs["complete"] = 0
    with pytest.raises(CorruptStore, match="not finished"):
        open_embeddings(bad)


def test_what_pip_installs_is_the_package_of_bin_and_reads_without_torch(tmp_path, result):
    source = tmp_path / "checkout"
    shutil.copytree(BIN, source / "bin", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", tmp_path / "site", source]
    subprocess.run(pip, check=True, capture_output=True)
    reading = "import sys; sys.modules['torch'] = None; import protembed; print(protembed.__file__, protembed.open_embeddings(sys.argv[1])['protein1'][:2])"
    done = subprocess.run([sys.executable, "-c", reading, result], env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path / "site" / "protembed"))
    installed = {path.name for path in (tmp_path / "site" / "protembed").glob("*.py")}
    assert installed == {path.name for path in (BIN / "protembed").glob("*.py")}
