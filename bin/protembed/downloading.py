"""A file behind a URL: whole and checked under its final name, or absent.

A name that is there is never asked for again. So a file gets its name only when no byte is missing that the server announced and
its reader has accepted it: half a model, or a proxy's page in its place, would stay for good.
"""

import http.client
import logging
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Callable, Iterator

from tqdm import tqdm

from protembed import __version__
from protembed.atomic import BLOCK, replacing
from protembed.errors import BadWeights, Transient, first_line

log = logging.getLogger("protembed")
URL = re.compile(r"(https?|ftp)://[^/]+/|file:///", re.IGNORECASE)
LATER = (408, 429)  # and all from 500 on: what a server answers that may serve the file another time
SILENCE = 60.0  # seconds without a byte after which a server is given up for this time
WAY_OUT = "on a machine without internet give --model a .pt file"


def download(url: str, folder: Path, check: Callable[[Path, str], object]) -> Path:
    """The file behind `url` in `folder`, under the last part of the URL; downloaded only if it is not there yet.

    check: called with a path, and what to call the file in a message; raises BadWeights when the file is not what was wanted.
    BadWeights when it does, or when there is no such file or URL; Transient when another attempt may get the file.
    """
    target = folder / url.rpartition("/")[2]
    if target.is_file():
        log.info("using %s", target)
        try:
            check(target, str(target))
        except BadWeights as error:
            raise BadWeights(f"{error}; remove it to have it downloaded again") from error
        return target
    log.info("downloading %s", url)
    with replacing(target) as temporary:
        with open(temporary, "xb") as file:
            for block in _blocks_behind(url):
                file.write(block)
        check(temporary, url)
    return target


def _blocks_behind(url: str) -> Iterator[bytes]:
    """What the server sends. A generator, so that faults of the network are told apart from those of the disk, whose errors have the same classes."""
    if not URL.match(url):
        raise BadWeights(f"{url} is not a URL (--weights_url): it must begin with https:// or http:// and a host")
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"protembed/{__version__}"})  # some sites refuse urllib's own
        with urllib.request.urlopen(request, timeout=SILENCE) as answer:
            yield from _all_that_was_announced(url, answer)
    except urllib.error.HTTPError as error:
        kind = Transient if error.code in LATER or error.code >= 500 else BadWeights
        raise kind(f"{url} cannot be downloaded: {error}") from error
    except (ValueError, http.client.InvalidURL) as error:
        raise BadWeights(f"{url} is not a URL (--weights_url): {first_line(error)}") from error
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are of the first
        raise Transient(f"{url} cannot be downloaded: {first_line(error)}; {WAY_OUT}") from error


def _all_that_was_announced(url: str, answer) -> Iterator[bytes]:
    """The bytes of an answer; Transient when they are fewer than its Content-Length says, which urllib does not look at."""
    said, received = answer.headers.get("Content-Length") or "", 0
    announced = int(said) if said.isdigit() else 0
    with tqdm(total=announced or None, unit="B", unit_scale=True, unit_divisor=1024, disable=not sys.stderr.isatty()) as bar:
        while block := answer.read(BLOCK):
            received += len(block)
            bar.update(len(block))
            yield block
    if received < announced:
        raise Transient(f"{url} broke off after {received} of {announced} bytes; {WAY_OUT}")
