"""Real containers under real Nextflow: checkpoints outlive containers, and no death of one changes a vector."""

import os
import re
import shutil
import signal
import subprocess

import pytest
import torch

from protembed.shapes import Shape
from protembed.weights import random_esm2, save_esm2
from tests.conftest import ROOT, make_proteins, metrics_of, write_fasta
from tests.nextflow import content, run_pipeline, start_pipeline, wait_for

IMAGES = re.findall(r"container *= *'([^']+)'", (ROOT / "conf" / "images.config").read_text())
PROTEINS = 16
pytestmark = pytest.mark.nextflow


class Engine:
    """A container engine by the name of its command and of its profile; both engines know the same words."""

    def __init__(self, name):
        self.name = name
        settings = (ROOT / "conf" / f"{name}.config").read_text()
        (self.run_options,) = re.findall(r"runOptions *= '(.*)'", settings)

    def __call__(self, *arguments, check=True):
        """What `docker ...` prints."""
        return subprocess.run([self.name, *arguments], capture_output=True, text=True, check=check).stdout

    def why_not(self):
        """The reason why these tests cannot run here, or nothing."""
        if not shutil.which(self.name) or subprocess.run([self.name, "info"], capture_output=True).returncode:
            return f"no {self.name} answers"
        missing = [image for image in IMAGES if not self("image", "ls", "--quiet", image).strip()]
        return f"{self.name} has no image {', '.join(missing)}; containers/README.md says how to build it" if missing else ""

    def arguments(self, folder, *arguments, site=""):
        """Arguments that make a run in `folder` use containers. These have no network: a task has all it needs.

        One thread for each task: the machine may be busy, and spinning threads of two containers would crawl.
        """
        lines = [f"{self.name}.runOptions = '--network none {self.run_options}'", "process { withName: EMBED_CHUNK { cpus = 1 } }", site]
        (folder / "site.config").write_text("\n".join(lines) + "\n")
        return [*arguments, "--weights_dir", folder / "downloads", "-c", folder / "site.config"]

    def containers(self, folder, *options):
        """Ids of the living containers that work below `folder`; with --all of the dead ones, too."""
        known = self("ps", "--quiet", "--no-trunc", *options).split()
        places = {each: self("inspect", "--format", "{{.Config.WorkingDir}}", each, check=False).strip() for each in known}
        return [each for each, place in places.items() if place.startswith(f"{folder}/")]

    def embedding_container(self, folder, nextflow):
        """Wait until some batches lie on the host while their container works on; return its id."""
        wait_for(lambda: len(batches(folder)) >= 2, still=lambda: nextflow.poll() is None)
        (container,) = self.containers(folder)
        return container


@pytest.fixture(scope="module", params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("docker", "podman")])
def engine(request):
    engine = Engine(request.param)
    if reason := engine.why_not():
        pytest.skip(reason)
    return engine


def batches(folder):
    """Marked checkpoint files as the host sees them."""
    markers = (folder / "work" / "checkpoints").glob("*/chunk_*/batch_*.pt.done")
    return [marker.with_suffix("") for marker in markers if marker.with_suffix("").is_file()]


def finish(folder, nextflow):
    """Wait for Nextflow to end well; return the digest of all that embeddings.h5 holds."""
    assert nextflow.wait(300) == 0, (folder / "console.txt").read_text()
    return content(folder)


@pytest.fixture
def folder(engine, tmp_path):
    """A launch folder; what still lives of its containers is removed after the test."""
    yield tmp_path
    for container in engine.containers(tmp_path, "--all"):
        engine("rm", "--force", container, check=False)


@pytest.fixture(scope="module")
def slow_chunk(engine, tmp_path_factory):
    """Arguments for one chunk that keeps a container busy for seconds and commits after each of its packs."""
    folder = tmp_path_factory.mktemp("slow")
    save_esm2(random_esm2(Shape(layers=12, width=480, heads=20)), folder / "slow.pt")
    write_fasta(folder / "proteins.fasta", make_proteins([300 + 10 * number for number in range(PROTEINS)]))
    given = ["--input", folder / "proteins.fasta", "--model", folder / "slow.pt", "--max_tokens", 512, "--checkpoint_seconds", 0]
    return ["-profile", engine.name, *given, "--report", "false"]


@pytest.fixture(scope="module")
def undisturbed(engine, slow_chunk, tmp_path_factory):
    """The digest of embeddings.h5 when nothing dies."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_pipeline(folder, *engine.arguments(folder, *slow_chunk))
    return content(folder)


@pytest.mark.parametrize("image", IMAGES)
def test_any_uid_can_use_an_image(engine, image):
    package = "multiqc" if "-report:" in image else "h5py"
    asked = f"import getpass, {package}, pathlib; getpass.getuser(); pathlib.Path.home().joinpath('x').touch()"
    if "-embed:" in image:
        asked += "; import esm, torch._inductor.runtime.cache_dir_utils as caches; open(caches.cache_dir() + '/x', 'w')"
    engine("run", "--rm", "--network", "none", "--user", "12345:12345", image, "bash", "-c", f'ps > /dev/null && python3 -c "{asked}"')


def test_the_demo_keeps_its_checkpoints_on_the_host(engine, folder, hostile_pt):
    given = ["-profile", f"demo,{engine.name}", "--model", hostile_pt, "--keep_checkpoints", "-with-trace", "trace.txt"]
    run_pipeline(folder, *engine.arguments(folder, *given))
    metrics = metrics_of(folder / "work")
    assert len(metrics) == 4 and sum(chunk["computed"] for chunk in metrics) == 323
    assert {path.parent.name for path in batches(folder)} == {chunk["chunk"] for chunk in metrics}
    assert {path.stat().st_uid for path in batches(folder)} == {os.getuid()}
    header, *lines = [line.split("\t") for line in (folder / "trace.txt").read_text().splitlines()]
    memory = {row["name"]: row["peak_rss"] for row in (dict(zip(header, line)) for line in lines)}
    assert (folder / "results" / "report.html").exists(), "without its image MULTIQC fails, and no run fails for that"
    assert len(memory) == 10 and not {"-", "0"} & set(memory.values()), f"ps measured nothing: {memory}"


def test_a_killed_container_is_retried_and_its_rows_are_reused(engine, folder, slow_chunk, undisturbed):
    nextflow = start_pipeline(folder, *engine.arguments(folder, *slow_chunk))
    engine("kill", "--signal", "KILL", engine.embedding_container(folder, nextflow))
    assert finish(folder, nextflow) == undisturbed
    (metrics,) = metrics_of(folder / "work")
    assert metrics["reused"] > 0 and metrics["reused"] + metrics["computed"] == PROTEINS
    assert sorted(path.read_text() for path in folder.glob("work/*/*/.exitcode")) == ["0", "0", "0", "0", "0", "137"]


def test_an_orphaned_container_leaves_when_its_successor_has_come_and_the_file_is_the_same(engine, folder, slow_chunk, undisturbed):
    given = engine.arguments(folder, *slow_chunk, "--keep_checkpoints")
    nextflow = start_pipeline(folder, *given)
    orphan = engine.embedding_container(folder, nextflow)
    os.kill(nextflow.pid, signal.SIGKILL)
    nextflow.wait()
    engine("pause", orphan)  # until its successor writes, or it would have ended by then
    before = len(batches(folder))
    successor = start_pipeline(folder, *given, "-resume")
    wait_for(lambda: len(batches(folder)) > before, still=lambda: successor.poll() is None)
    engine("unpause", orphan)
    wait_for(lambda: orphan not in engine.containers(folder), seconds=300)
    assert finish(folder, successor) == undisturbed
    wait_for(lambda: [path.read_text() for path in folder.glob("work/*/*/.exitcode")].count("75") == 1)  # the orphan's own wrapper writes it
    rows = [row for path in batches(folder) for row in torch.load(path, weights_only=True)["rows"].tolist()]
    assert set(rows) == set(range(PROTEINS)) and len(rows) <= PROTEINS + 2, "the orphan did more than the pack that it was at"


def test_container_options_of_a_site_do_not_unmount_the_checkpoints(engine, folder, hostile_pt):
    write_fasta(folder / "proteins.fasta", make_proteins([50, 60, 70]))
    given = ["-profile", engine.name, "--input", folder / "proteins.fasta", "--model", hostile_pt, "--keep_checkpoints"]
    run_pipeline(folder, *engine.arguments(folder, *given, site="process { withLabel: process_gpu { containerOptions = '--env SITE=1' } }"))
    (launcher,) = [path for path in folder.glob("work/*/*/.command.run") if "EMBED_CHUNK" in path.read_text()]
    assert "--env SITE=1" in launcher.read_text()
    assert batches(folder)
