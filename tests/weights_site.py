"""fair-esm's site of weights on this machine, which answers in another way when a test wants it to."""

import contextlib
import functools
import http.server
import threading
from urllib.parse import urlsplit

from protembed.shapes import SHAPES
from protembed.weights import random_esm2, save_esm2, save_regression

NAME = "esm2_t6_8M_UR50D"
MODEL, REGRESSION = f"models/{NAME}.pt", f"regression/{NAME}-contact-regression.pt"


class Server(http.server.ThreadingHTTPServer):
    """Serves `folder`, laid out as fair-esm's site; `asked`: the paths of all requests; `instead`: answers a GET in another way."""

    daemon_threads = True

    def __init__(self, folder):
        self.folder, self.asked, self.instead, self.url = folder, [], None, ""
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        self.path = urlsplit(self.path).path  # a proxy is asked with the whole URL
        (self.server.instead or http.server.SimpleHTTPRequestHandler.do_GET)(self)

    def log_message(self, *_):
        pass


def make_site(folder):
    """A model with drawn weights and its regression."""
    for path in (MODEL, REGRESSION):
        (folder / path).parent.mkdir(parents=True)
    model = random_esm2(SHAPES[NAME], seed=4)
    save_esm2(model, folder / MODEL)
    save_regression(model, folder / REGRESSION)


@contextlib.contextmanager
def serving(folder):
    """A Server, until the block ends."""
    with Server(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def begin(request, length, sent):
    """Announce so many bytes and send the first of them."""
    request.send_response(200)
    request.send_header("Content-Length", str(length))
    request.end_headers()
    request.wfile.write(b"x" * sent)
    request.wfile.flush()
