"""What every command line of ours does: run one command, say one sentence when it fails, return its exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from proto.kit.errors import SkerryError, UsageError
from proto.kit.version import VERSION

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def run(prog: str, parser: Callable[[], argparse.ArgumentParser], argv: Sequence[str] | None = None) -> int:
    """Parse ``argv`` and run ``PROG.commands.MODULE.run(args)``; a person sees one sentence, never a traceback.

    Each command is imported when it is called, so that ``--help`` starts at once.
    """
    args = argparse.Namespace(verb=prog)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        parser().parse_args(argv, args)
        with loading():
            command = import_module(f"{prog}.commands.{args.module}")
        code: int = command.run(args)
    except UsageError as error:
        return _fail(prog, str(error), EXIT_USAGE)
    except SkerryError as error:
        return _fail(prog, str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `edgecore status | head`
        sys.stderr.close()
        return EXIT_FAILED
    except OSError as error:  # a disk that is full, a directory that others own
        return _fail(prog, f"{error.filename or args.verb}: {error.strerror or error}", EXIT_FAILED)
    return code


@contextmanager
def loading() -> Iterator[None]:
    """Let Ctrl-C end the process at once while modules load: C extensions swallow a KeyboardInterrupt there."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def top(prog: str, description: str) -> argparse.ArgumentParser:
    """The parser of a program, with ``--version``."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--version", action="version", version=f"{prog} {VERSION}")
    return parser


def with_settings(verb: argparse.ArgumentParser, file_name: str) -> argparse.ArgumentParser:
    """Add ``--config`` and ``--set``."""
    verb.add_argument("--config", type=Path, default=None, metavar="FILE", help=f"YAML settings over DIR/{file_name}")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; may be repeated")
    return verb


def with_output(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add ``-o text|json``."""
    verb.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json for scripts")
    return verb


def _fail(prog: str, sentence: str, code: int) -> int:
    sys.stderr.write(f"{prog}: {sentence}\n")
    return code
