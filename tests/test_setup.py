import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

TOOLS = ["bash", "sh", "sed", "head", "sort", "dirname", "readlink", "printf", "mkdir", "mktemp", "rm", "mv", "make", "git"]


@pytest.fixture
def bare(tmp_path):
    """A fresh checkout without .venv, and a PATH with nothing but the shell's tools."""
    names = subprocess.run(["git", "ls-files", "Makefile", "tools", "containers/requirements"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in names.stdout.split():
        target = tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    (tmp_path / "path").mkdir()
    for tool in TOOLS:
        (tmp_path / "path" / tool).symlink_to(shutil.which(tool))

    def make(*arguments):
        command = [shutil.which("make"), "--no-print-directory", "-C", str(tmp_path / "checkout"), *arguments]
        return subprocess.run(command, env={"PATH": str(tmp_path / "path"), "HOME": str(tmp_path)}, capture_output=True, text=True)

    make.path = tmp_path / "path"
    return make


def add(bare, name, script):
    path = bare.path / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
    path.chmod(0o755)


def test_missing_java_is_one_line_with_what_to_install(bare):
    done = bare("demo")
    assert done.returncode != 0
    assert "Java is missing (17 or newer). Install it: apt-get install openjdk-17-jre-headless" in done.stderr


def test_old_java_is_named(bare):
    add(bare, "java", """echo 'openjdk version "11.0.2" 2019-01-15' >&2""")
    done = bare("demo")
    assert done.returncode != 0 and "Java 11 is too old, 17 or newer is needed" in done.stderr


def test_without_nextflow_and_maven_the_ways_to_get_it_are_named(bare):
    (bare.path / "java").symlink_to(os.path.realpath(shutil.which("java")))
    done = bare("demo")
    assert done.returncode != 0 and "Nextflow >= 25.04 is missing. Install it: conda install -c bioconda nextflow" in done.stderr


def test_missing_and_old_python_are_one_line_with_what_to_do(bare):
    (bare.path / "java").symlink_to(os.path.realpath(shutil.which("java")))
    add(bare, "nextflow", "echo 'nextflow version 25.10.0.10289'")
    done = bare("demo")
    assert done.returncode != 0 and "Python is missing (3.10 or newer). Install it: apt-get install python3 python3-venv" in done.stdout
    add(bare, "python3", "[ $1 = -V ] && echo 'Python 3.8.1'; exit 1")
    done = bare("demo")
    assert done.returncode != 0 and "Python 3.8.1 is too old, 3.10 or newer is needed" in done.stdout


def test_an_environment_behind_a_link_is_never_emptied(bare, tmp_path):
    """`venv --clear` goes through a link: it emptied an environment that others worked in."""
    (bare.path / "java").symlink_to(os.path.realpath(shutil.which("java")))
    add(bare, "nextflow", "echo 'nextflow version 25.10.0.10289'")
    (bare.path / "python3").symlink_to(os.path.realpath(sys.executable))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "package").touch()
    (tmp_path / "checkout" / ".venv").symlink_to(tmp_path / "theirs")
    done = bare("setup")
    assert done.returncode != 0 and f".venv is a link to {tmp_path / 'theirs'}" in done.stdout
    assert (tmp_path / "theirs" / "package").exists()


def test_a_nextflow_on_the_path_that_is_new_enough_is_used(bare):
    (bare.path / "java").symlink_to(os.path.realpath(shutil.which("java")))
    add(bare, "nextflow", "[ $1 = -v ] && echo 'nextflow version 25.10.0.10289' || echo \"called with $*\"")
    done = subprocess.run([bare.path.parent / "checkout" / "tools" / "nextflow", "run", "x"], env={"PATH": str(bare.path)}, capture_output=True, text=True)
    assert done.stdout == "called with run x\n"


def test_a_nextflow_on_the_path_that_is_this_script_in_a_wrapper_does_not_call_itself_for_ever(bare):
    (bare.path / "java").symlink_to(os.path.realpath(shutil.which("java")))
    script = bare.path.parent / "checkout" / "tools" / "nextflow"
    add(bare, "nextflow", f'exec {script} "$@"')
    done = subprocess.run([script, "-v"], env={"PATH": str(bare.path)}, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "Nextflow >= 25.04 is missing" in done.stderr  # no jars in this checkout, and no Maven


@pytest.mark.parametrize(
    "given", ["-profile awsbatch,gpu", "-profile gpu,google_batch", "-profile azurebatch", "-profile k8s,gpu", "--input s3://b/a.fasta", "-work-dir gs://b/w"]
)
def test_clouds_and_buckets_need_a_nextflow_with_plugins_which_one_line_says(bare, given):
    (bare.path / "java").symlink_to(os.path.realpath(shutil.which("java")))
    script = bare.path.parent / "checkout" / "tools" / "nextflow"
    said, unsaid = (
        subprocess.run([script, "run", "main.nf", *words.split()], env={"PATH": str(bare.path)}, capture_output=True, text=True).stderr
        for words in (given, "-profile docker,gpu --input awsbatch.fasta")
    )
    assert "clouds, their buckets and Kubernetes need: put a nextflow of its own on PATH" in said.splitlines()[0]
    assert "plugins" not in unsaid
    add(bare, "nextflow", "[ $1 = -v ] && echo 'nextflow version 25.10.0.10289' || echo called")
    own = subprocess.run([script, "run", *given.split()], env={"PATH": str(bare.path)}, capture_output=True, text=True)
    assert own.stdout == "called\n" and not own.stderr


@pytest.mark.skipif(not (ROOT / "tools" / ".nextflow").exists(), reason="the Nextflow of this machine is not Maven's")
def test_the_jars_are_resolved_with_one_line_and_no_codes_for_a_terminal(tmp_path):
    for name in ("nextflow", "nextflow.pom.xml"):
        shutil.copy(ROOT / "tools" / name, tmp_path)
    done = subprocess.run([tmp_path / "nextflow", "-version"], capture_output=True, text=True)
    assert done.returncode == 0 and "version 25.04.4" in done.stdout
    assert done.stderr == "resolving Nextflow 25.04.4 with Maven, once\n"
