#!/usr/bin/env python3
"""Write versions.yml: the Python that runs this, and the versions of the named packages as far as they are installed.

Every step does this for itself, in its own container. Reads what pip noted, imports nothing: torch alone would take seconds.
"""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Iterator, List, Tuple

from protembed.atomic import write_text
from protembed.cli import CommandLine


def installed(packages: List[str]) -> Iterator[Tuple[str, str]]:
    """(name, version) of Python and of those that are there."""
    yield "python", platform.python_version()
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:  # a stub run may have none of them
            continue


def main() -> int:
    parser = CommandLine(description=__doc__)
    parser.add_argument("step", help="name of the process")
    parser.add_argument("packages", nargs="*", help="packages, by the names that pip knows")
    parser.add_argument("--output", default="versions.yml", help="the file (default: versions.yml)")
    options = parser.parse_args()
    lines = [f'  {package}: "{found}"\n' for package, found in installed(options.packages)]
    write_text(options.output, "".join([f"{options.step}:\n", *lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
