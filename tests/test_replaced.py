# ruff: noqa: F811 (fixtures shared by import, as pytest has it)
"""A result is read as what it was when it was opened: its own vectors, whatever stands under its names elsewhere or later."""

import shutil

import h5py
import numpy as np
import pytest

from protembed import open_embeddings, reading
from protembed.errors import CorruptStore, Transient
from protembed.hdf5 import mapped
from protembed.seals import seal
from tests.test_merge_chunks import run  # noqa: F401
from tests.test_shards import NAMES, one_and_three, three  # noqa: F401


@pytest.fixture
def others(three, tmp_path):
    """Sealed shards under the same names, with other numbers."""
    shutil.copytree(three, tmp_path / "others")
    for name in NAMES:
        with h5py.File(tmp_path / "others" / name, "r+") as file:
            for vectors in ("representations/3/mean", "representations/1/per_tok"):
                file[vectors][...] = file[vectors][:] + 1
            seal(file, {})
    return tmp_path / "others"


@pytest.mark.parametrize("beside", [[], NAMES[:1]], ids=["", "and one of them beside the link"])
def test_shards_of_the_same_names_in_the_working_folder_are_not_taken_for_those_of_a_link(one_and_three, others, tmp_path, monkeypatch, beside):
    (tmp_path / "links").mkdir()
    for name in beside:
        shutil.copy(others / name, tmp_path / "links")
    (tmp_path / "links" / "linked.h5").symlink_to(one_and_three[1] / "embeddings.h5")
    monkeypatch.chdir(others)
    with open_embeddings(one_and_three[0] / "embeddings.h5") as plain, open_embeddings(tmp_path / "links" / "linked.h5", verify=True) as linked:
        assert np.array_equal(linked.mean(layer=3), plain.mean(layer=3)) and np.array_equal(linked.per_tok(30, 1), plain.per_tok(30, 1))


def test_an_open_index_keeps_its_vectors_when_another_run_puts_shards_in_place_of_its_own(one_and_three, three, others):
    with open_embeddings(one_and_three[0] / "embeddings.h5") as plain, open_embeddings(three / "embeddings.h5") as index:
        for name in NAMES:
            (others / name).replace(three / name)
        assert np.array_equal(index.mean(layer=3), plain.mean(layer=3)) and np.array_equal(index.per_tok(30, 1), plain.per_tok(30, 1))


def test_shards_that_are_replaced_while_the_index_is_opened_are_refused(three, others, monkeypatch):
    def replaced_then(dataset, path):
        for name in NAMES:
            if (others / name).exists():
                (others / name).replace(three / name)
        return mapped(dataset, path)

    monkeypatch.setattr(reading, "mapped", replaced_then)
    with pytest.raises(CorruptStore, match="is not the file that embeddings.h5 was made with"):
        open_embeddings(three / "embeddings.h5")


def test_a_file_that_is_replaced_while_it_is_opened_never_gives_the_vectors_of_another(one_and_three, others, tmp_path, monkeypatch):
    shutil.copy(one_and_three[0] / "embeddings.h5", tmp_path / "here.h5")

    def replaced_then(dataset, path):
        shutil.copy(others / NAMES[0], tmp_path / "there.h5")
        (tmp_path / "there.h5").replace(tmp_path / "here.h5")
        return mapped(dataset, path)

    monkeypatch.setattr(reading, "mapped", replaced_then)
    with pytest.raises(Transient, match="here.h5 was replaced while it was opened"):
        open_embeddings(tmp_path / "here.h5")
