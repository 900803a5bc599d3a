"""Weights from a real HTTP server: one that does as it should, and one that does not."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
import torch

from protembed import downloading
from protembed.shapes import SHAPES, Shape
from protembed.weights import load_esm2, random_esm2, save_esm2, save_regression
from tests.conftest import BIN, make_proteins, run_script, write_fasta
from tests.nextflow import basic, content, run_pipeline, wait_for
from tests.terminal import on_a_terminal
from tests.test_fetch_weights import description, fetch
from tests.weights_site import MODEL, NAME, REGRESSION, begin, make_site, serving


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """This machine is asked without one, whatever the surroundings say."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """To be copied, not changed."""
    folder = tmp_path_factory.mktemp("site")
    make_site(folder)
    return folder


@pytest.fixture
def server(tmp_path, site):
    shutil.copytree(site, tmp_path / "site")
    with serving(tmp_path / "site") as running:
        yield running


def refused(tmp_path, server, code, *words):
    """The download ends with this code and one line that has these words, and nothing stands beside the weights folder."""
    done = fetch(tmp_path, NAME, "--url", server.url, check=False)
    assert done.returncode == code and all(word in done.stderr.splitlines()[-1] for word in words), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", "weights"]


def test_a_model_is_downloaded_once_with_its_regression_and_described(tmp_path, server):
    fetch(tmp_path, NAME, "--url", server.url)
    assert server.asked == [f"/{MODEL}", f"/{REGRESSION}"]
    assert (tmp_path / "weights" / "model.pt").read_bytes() == (server.folder / MODEL).read_bytes()
    told = description(tmp_path)
    assert (told["layers"], told["width"], told["heads"], told["fp16_exact"], told["random"]) == (6, 320, 20, True, False)
    fetch(tmp_path, NAME, "--url", server.url)
    assert len(server.asked) == 2
    model = load_esm2(tmp_path / "weights" / "model.pt", tmp_path / "weights" / "regression.pt")
    assert torch.equal(model.contact_head.regression.weight, random_esm2(SHAPES[NAME], seed=4).contact_head.regression.weight)


def test_a_kept_download_has_a_second_name_and_what_a_link_in_its_place_leads_to_is_copied(tmp_path, server):
    """The user's own file may be written to in place."""
    fetch(tmp_path, NAME, "--url", server.url)
    assert (tmp_path / "weights" / "model.pt").samefile(tmp_path / f"{NAME}.pt")
    (tmp_path / f"{NAME}.pt").unlink()
    (tmp_path / f"{NAME}.pt").symlink_to(server.folder / MODEL)
    fetch(tmp_path, NAME, "--url", server.url)
    assert not (tmp_path / "weights" / "model.pt").samefile(server.folder / MODEL)
    assert (tmp_path / "weights" / "model.pt").read_bytes() == (server.folder / MODEL).read_bytes() and len(server.asked) == 2


def test_a_download_that_breaks_off_is_transient_and_the_next_gets_the_whole_file(tmp_path, server):
    server.instead = lambda request: begin(request, length=1_000_000, sent=1000)
    refused(tmp_path, server, 75, f"{server.url}/{MODEL} broke off after 1000 of 1000000 bytes")
    server.instead = None
    fetch(tmp_path, NAME, "--url", server.url)
    assert (tmp_path / f"{NAME}.pt").read_bytes() == (server.folder / MODEL).read_bytes()


def test_a_download_in_pieces_that_breaks_off_is_transient(tmp_path, server):
    def half_a_piece(request):
        request.protocol_version = "HTTP/1.1"
        request.send_response(200)
        request.send_header("Transfer-Encoding", "chunked")
        request.end_headers()
        request.wfile.write(b"400\r\n" + b"x" * 100)
        request.close_connection = True

    server.instead = half_a_piece
    refused(tmp_path, server, 75, "cannot be downloaded: IncompleteRead")


def test_a_server_that_falls_silent_or_hangs_up_is_transient(tmp_path, server, monkeypatch):
    monkeypatch.setattr(downloading, "SILENCE", 0.3)
    over = threading.Event()
    server.instead = lambda request: (begin(request, length=1_000_000, sent=1000), over.wait())
    refused(tmp_path, server, 75, "cannot be downloaded: timed out")
    over.set()
    server.instead = lambda request: request.connection.shutdown(socket.SHUT_RDWR)
    refused(tmp_path, server, 75, "cannot be downloaded: Remote end closed connection")


@pytest.mark.parametrize("status, code", [(408, 75), (429, 75), (500, 75), (503, 75), (401, 66), (403, 66), (404, 66), (410, 66)])
def test_what_a_server_may_answer_otherwise_later_is_transient_and_what_it_will_not_is_bad_weights(tmp_path, server, status, code):
    server.instead = lambda request: request.send_error(status)
    refused(tmp_path, server, code, f"{server.url}/{MODEL} cannot be downloaded: HTTP Error {status}")


@pytest.mark.parametrize("url", ["mirror.example", "mirror.example:80/fair-esm", "http://", "http://[::1", "http://127.0.0.1:port", "http://127.0.0.1/a b"])
def test_what_is_no_url_is_exit_66_in_one_line(tmp_path, url):
    done = fetch(tmp_path, NAME, "--url", url, check=False)
    assert (done.returncode, f"{url}/{MODEL} is not a URL (--weights_url)" in done.stderr.splitlines()[-1]) == (66, True), done.stderr


def test_no_network_is_transient_and_names_the_way_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    done = fetch(tmp_path, NAME, "--url", f"http://127.0.0.1:{port}", check=False)
    assert (done.returncode, "give --model a .pt file" in done.stderr) == (75, True)


def write_page(path):
    path.write_text("<html>Please log in.</html>")


@pytest.mark.parametrize(
    "path, write, says",
    [
        (MODEL, write_page, "is damaged or is no PyTorch weights file"),
        (MODEL, lambda path: os.truncate(path, path.stat().st_size - 1000), "is damaged or is no PyTorch weights file"),
        (MODEL, lambda path: save_esm2(random_esm2(SHAPES["esm2_t12_35M_UR50D"]), path), "has 12 layers of width 480; esm2_t6_8M_UR50D has 6 of 320"),
        (REGRESSION, write_page, f"is damaged or is not the contact regression of {NAME}"),
        (REGRESSION, lambda path: save_regression(random_esm2(Shape(1, 64, 1)), path), f"is damaged or is not the contact regression of {NAME}"),
    ],
    ids=["page", "torn", "other model", "page for regression", "other regression"],
)
def test_a_download_that_is_not_what_was_asked_for_is_refused_and_not_kept(tmp_path, server, path, write, says):
    write(server.folder / path)
    done = fetch(tmp_path, NAME, "--url", server.url, check=False)
    assert done.returncode == 66 and f"{server.url}/{path} {says}" in done.stderr.splitlines()[-1], done.stderr
    kept = [f"{NAME}.pt"] if path == REGRESSION else []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "site", "weights"])


def test_a_kept_file_that_is_not_what_was_asked_for_is_named_with_what_to_do(tmp_path, server):
    write_page(tmp_path / f"{NAME}.pt")
    done = fetch(tmp_path, NAME, "--url", server.url, check=False)
    assert done.returncode == 66 and f"{tmp_path}/{NAME}.pt is damaged" in done.stderr and "remove it to have it downloaded again" in done.stderr
    assert not server.asked


def test_what_a_killed_download_leaves_is_removed_by_the_next(tmp_path, server):
    over = threading.Event()
    server.instead = lambda request: (begin(request, length=3 << 20, sent=2 << 20), over.wait())
    command = [sys.executable, BIN / "fetch_weights.py", NAME, "--outdir", tmp_path / "weights", "--url", server.url]
    killed = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    wait_for(lambda: any(path.stat().st_size >= 1 << 20 for path in tmp_path.glob(".*")), still=lambda: killed.poll() is None)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*"))) == 1
    over.set()
    server.instead = None
    fetch(tmp_path, NAME, "--url", server.url)
    assert {path.name for path in tmp_path.iterdir()} == {"site", "weights", f"{NAME}.pt", f"{NAME}-contact-regression.pt"}


def test_a_disk_that_is_full_is_told_from_a_network_that_is_gone(server, disk):
    small = disk(5000)
    command = [sys.executable, BIN / "fetch_weights.py", NAME, "--outdir", small.place / "weights", "--url", server.url]
    done = subprocess.run(small.command(*command), capture_output=True, text=True)
    assert done.returncode == 75 and f"{small.place}/{NAME}.pt: No space left on device; make room there" in done.stderr, done.stderr


def test_a_proxy_is_asked_where_one_is_set(tmp_path, server):
    surroundings = {"http_proxy": server.url, "no_proxy": "", "NO_PROXY": ""}
    run_script("fetch_weights.py", NAME, "--outdir", tmp_path / "weights", "--url", "http://mirror.example", env=surroundings)
    assert server.asked == [f"http://mirror.example/{MODEL}", f"http://mirror.example/{REGRESSION}"]


def test_a_download_draws_a_bar_on_a_terminal(tmp_path, server):
    command = [sys.executable, BIN / "fetch_weights.py", NAME, "--outdir", tmp_path / "weights", "--url", server.url]
    code, said = on_a_terminal(command)
    assert code == 0 and "100%|" in said


@pytest.mark.nextflow
def test_runs_with_work_folders_of_their_own_download_a_model_once(tmp_path, server):
    write_fasta(tmp_path / "proteins.fasta", make_proteins([30]))
    given = [*basic(tmp_path, NAME), "--weights_url", server.url]
    for number in (1, 2):
        run_pipeline(tmp_path, *given, "-work-dir", tmp_path / f"work{number}", "--outdir", f"results{number}")
        assert server.asked == [f"/{MODEL}", f"/{REGRESSION}"]
    assert content(tmp_path, "results1") == content(tmp_path, "results2")
    assert all((tmp_path / "downloads" / path.rpartition("/")[2]).read_bytes() == (server.folder / path).read_bytes() for path in (MODEL, REGRESSION))
