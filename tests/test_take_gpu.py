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


def lists(*devices):
    """An nvidia-smi that knows these, and by --id the first of them."""
    return f'case "$*" in *--id=*) echo {devices[0]};; *) printf "%s\\n" {" ".join(devices)};; esac'


@pytest.fixture
def devices():
    return [f"GPU-{uuid.uuid4()}" for _ in range(2)]


def test_a_device_is_taken_by_its_uuid_which_means_the_same_to_every_program(tmp_path, devices):
    assert taken(tmp_path, lists(*devices)) == devices[0]


def test_what_the_user_chose_is_taken_as_it_was_written(tmp_path, devices):
    assert taken(tmp_path, lists(*devices), CUDA_VISIBLE_DEVICES="3,5") == "3"


def test_an_old_name_of_a_slice_has_slashes(tmp_path, devices):
    name = f"MIG-{devices[0]}/7/0"
    assert taken(tmp_path, "exit 6", CUDA_VISIBLE_DEVICES=name) == name


def test_what_a_failing_nvidia_smi_prints_is_no_device_and_no_name(tmp_path, devices):
    failing = "echo NVIDIA-SMI has failed because it could not communicate with the driver; exit 9"
    assert "failed" not in taken(tmp_path, failing)
    assert taken(tmp_path, failing, CUDA_VISIBLE_DEVICES=devices[1]) == devices[1]
    assert Path(f"/tmp/protembed-gpus/{devices[1]}.lock").exists()
