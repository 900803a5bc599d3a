"""conf/take_gpu.sh by itself: which devices there are, by which names. nvidia-smi is pretended, the locks are real."""

import os
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.conftest import ROOT

TAKE = f"set -euo pipefail; source {ROOT}/conf/take_gpu.sh; protembed_take_gpu '%s'; echo \"${{CUDA_VISIBLE_DEVICES-none}}\""


def taken(folder, smi, most="", **given):
    """What CUDA_VISIBLE_DEVICES is afterwards; `smi`: the script that stands for nvidia-smi."""
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/bash\n{smi}\n")
    command.chmod(0o755)
    here = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    here.update(given, PATH=f"{folder}:{os.environ['PATH']}")
    done = subprocess.run(["bash", "-c", TAKE % most], env=here, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def lists(*devices, slices=()):
    """An nvidia-smi that knows these, the first of them by --id, and in slices if that is what it is."""
    lines = [f"GPU {number}: Some Card (UUID: {name})" for number, name in enumerate(devices)]
    lines[1:1] = [f"  MIG 1g.10gb     Device  {number}: (UUID: {name})" for number, name in enumerate(slices)]
    listed = "; ".join(f"echo '{line}'" for line in lines)
    return f'case "$*" in *--id=3*) echo {devices[0]};; *--id=*) echo No devices were found; exit 6;; -L) {listed};; esac'


@pytest.fixture
def devices():
    return [f"GPU-{uuid.uuid4()}" for _ in range(2)]


def test_a_device_is_taken_by_its_uuid_which_means_the_same_to_every_program(tmp_path, devices):
    assert taken(tmp_path, lists(*devices)) == devices[0]


def test_an_index_is_nvidia_smis_and_becomes_the_uuid(tmp_path, devices):
    """CUDA puts the fastest card first: its 3 may be another."""
    assert taken(tmp_path, lists(*devices), CUDA_VISIBLE_DEVICES="3,5") == devices[0]


def test_an_index_that_nvidia_smi_does_not_know_is_taken_as_it_was_written(tmp_path, devices):
    assert taken(tmp_path, lists(*devices), CUDA_VISIBLE_DEVICES="5") == "5"


def test_of_many_devices_the_first_is_taken_where_one_is_asked_for(tmp_path, devices):
    """What lists them writes on when one has been read: under pipefail a broken pipe would end the task."""
    assert taken(tmp_path, "exit 9", "1", CUDA_VISIBLE_DEVICES=",".join([devices[0], *map(str, range(200))])) == devices[0]


def test_no_device_at_all_is_a_choice_too(tmp_path, devices):
    assert taken(tmp_path, lists(*devices), CUDA_VISIBLE_DEVICES="") == ""


def test_of_a_gpu_in_slices_each_slice_is_a_device(tmp_path, devices):
    slices = [f"MIG-{uuid.uuid4()}" for _ in range(2)]
    assert taken(tmp_path, lists(*devices, slices=slices)) == slices[0]
    script = f"source {ROOT}/conf/take_gpu.sh; unset CUDA_VISIBLE_DEVICES; protembed_devices"
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(["bash", "-c", script], env=path, capture_output=True, text=True).stdout.split() == [*slices, devices[1]]


def test_an_old_name_of_a_slice_has_slashes(tmp_path, devices):
    name = f"MIG-{devices[0]}/7/0"
    assert taken(tmp_path, "exit 6", CUDA_VISIBLE_DEVICES=name) == name


def test_what_a_failing_nvidia_smi_prints_is_no_device_and_no_name(tmp_path, devices):
    failing = "echo NVIDIA-SMI has failed because it could not communicate with the driver; exit 9"
    assert "failed" not in taken(tmp_path, failing)
    assert taken(tmp_path, failing, CUDA_VISIBLE_DEVICES=devices[1]) == devices[1]
    assert Path(f"/tmp/protembed-gpus/{devices[1]}.lock").exists()
