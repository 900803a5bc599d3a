"""What every script of bin/ does the same way: argv to Options, logging to stderr, errors to exit codes.

stdout stays empty. A foreseen error becomes one line `script: message` on stderr and its class's exit code; anything
else keeps its traceback and exits with 1.
"""

import logging
import sys
from pathlib import Path
from typing import Callable, Optional, Sequence, Type, TypeVar

from argparse_dataclass import ArgumentParser

from protembed.errors import BadOption, ProtembedError

OptionsType = TypeVar("OptionsType")
log = logging.getLogger("protembed")


def run(options_class: Type[OptionsType], main: Callable[[OptionsType], None], argv: Optional[Sequence[str]] = None) -> int:
    """Parse argv into `options_class`, call `main` with it, and return the exit code."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stderr)
    module = sys.modules[options_class.__module__]
    parser = _Parser(options_class, prog=Path(module.__file__).name, description=module.__doc__)
    try:
        main(parser.parse_args(argv))
    except ProtembedError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


class _Parser(ArgumentParser):
    """argparse's parser, but a bad command line is exit code 78 as in design, not argparse's 2."""

    def error(self, message: str):
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(BadOption.exit_code)
