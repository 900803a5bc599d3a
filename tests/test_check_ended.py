"""check_h5.py when something else than the file ends it."""

import faulthandler
import os
import resource
import shlex
import signal
import subprocess
import sys

import pytest

import check_h5
from protembed.errors import CorruptStore, Transient
from tests.conftest import BIN


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGXCPU])
def test_a_check_that_is_ended_from_outside_says_nothing_of_the_file(result, number):
    with pytest.raises(CorruptStore if number in (signal.SIGSEGV, signal.SIGXCPU) else Transient, match=number.name):
        check_h5.in_a_process(result, lambda: [faulthandler.disable(), os.kill(os.getpid(), number)])


def test_a_users_own_limit_of_processor_time_is_kept_and_its_end_is_none_of_the_file(result, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (50, 50))
    with pytest.raises(Transient, match="SIGXCPU"):
        check_h5.in_a_process(result, lambda: os.kill(os.getpid(), signal.SIGXCPU))
    monkeypatch.undo()
    command = f"ulimit -t 50; exec {shlex.quote(sys.executable)} {shlex.quote(str(BIN / 'check_h5.py'))} {shlex.quote(str(result))}"
    assert subprocess.run(["bash", "-c", command]).returncode == 0
