"""What every script of bin/ does the same way: argv to Options, logging to stderr, errors to exit codes.

stdout stays empty. A foreseen error becomes one line `script: message` on stderr and its class's exit code; anything
else keeps its traceback and exits with 1.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Callable, Optional, Sequence, Type, TypeVar

from protembed.errors import BadOption, ProtembedError, fault_of_the_file_system

OptionsType = TypeVar("OptionsType")
log = logging.getLogger("protembed")


def run(options_class: Type[OptionsType], main: Callable[[OptionsType], None], argv: Optional[Sequence[str]] = None) -> int:
    """Parse argv into `options_class`, call `main` with it, and return the exit code."""
    from argparse_dataclass import ArgumentParser  # not above: show_progress.py must run where there is only Python

    class Parser(CommandLine, ArgumentParser):
        pass

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stderr)
    module = sys.modules[options_class.__module__]
    parser = Parser(options_class, prog=Path(module.__file__).name, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = [dashed(word) for word in (sys.argv[1:] if argv is None else argv)]
    return exit_code_of(parser.prog, lambda: main(parser.parse_args(words)))


def dashed(word: str) -> str:
    """--repr_layers is --repr-layers: esm-extract and Nextflow's parameters have the one, these scripts show the other."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def exit_code_of(prog: str, call: Callable[[], None]) -> int:
    """Call, and turn an error that was foreseen into one line and its code; others keep their traceback."""
    try:
        call()
    except Exception as error:
        foreseen = error if isinstance(error, ProtembedError) else fault_of_the_file_system(error)
        if foreseen is None:
            raise
        print(f"{prog}: {foreseen}", file=sys.stderr)
        return foreseen.exit_code
    return 0


class CommandLine(argparse.ArgumentParser):
    """argparse's parser, but a bad command line is exit code 78 as in design, not argparse's 2."""

    def parse_args(self, args=None, namespace=None):
        for word in sys.argv[1:] if args is None else args:
            if word.startswith("--") and word.endswith("=--"):  # argparse makes an empty list of it
                self.error(f"argument {word[:-3]}: expected a value, found '--'")
        return super().parse_args(args, namespace)

    def error(self, message: str):
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(BadOption.exit_code)
