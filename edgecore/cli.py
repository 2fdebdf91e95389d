"""The command line of edgecore. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

Each command is imported when it is called, so that ``--help`` and the offline ones start at once.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from proto.kit.errors import SkerryError, UsageError
from proto.kit.version import VERSION

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a person sees one sentence, never a traceback."""
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        args = parser().parse_args(argv)
        code: int = import_module(f"edgecore.commands.{args.module}").run(args)
    except UsageError as error:
        return _fail(error, EXIT_USAGE)
    except SkerryError as error:
        return _fail(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `edgecore status | head`
        sys.stderr.close()
        return EXIT_FAILED
    except OSError as error:  # a disk that is full, a directory that others own
        return _fail(SkerryError(f"{error.filename or args.verb}: {error.strerror or error}"), EXIT_FAILED)
    return code


def parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    top = argparse.ArgumentParser(prog="edgecore", description="The node daemon of Skerry and its commands.")
    top.add_argument("--version", action="version", version=f"edgecore {VERSION}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    _run(verbs)
    _join(verbs)
    for name, text in (
        ("status", "show node, cloud link, devices, certificate and disk; works offline"),
        ("doctor", "check everything that can be wrong and say what to type next"),
    ):
        _output(_settings(_verb(verbs, name, text)))
    reset = _output(_verb(verbs, "reset", "forget the identity and state of this node"))
    reset.add_argument("--yes", action="store_true", help="do not ask")
    reset.add_argument("--keep-data", action="store_true", help="forget the identity only: twins and what waits stay")
    reset.add_argument("--purge", action="store_true", help="delete for good instead of keeping a quarantine copy")
    _device(verbs)
    return top


def _run(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    run = _settings(_verb(verbs, "run", "run the daemon"))
    run.add_argument("--print-settings", action="store_true", help="print the settings in force and exit")


def _join(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    join = _output(_verb(verbs, "join", "join a cloud: get a certificate and write the settings; safe to run again"))
    join.add_argument("--cloud", required=True, metavar="URL", help="join endpoint, https://HOST:10002")
    join.add_argument(
        "--token", required=True, metavar="TOKEN", help="from `cloudcore token create`; - reads it from stdin"
    )
    join.add_argument("--node", required=True, metavar="NAME", help="name of this node")


def _device(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    device = verbs.add_parser("device", help="devices of this node", description="Devices of this node; works offline.")
    inner = device.add_subparsers(dest="device_verb", required=True, metavar="list|explain")
    listing = _output(_settings(_verb(inner, "list", "list the devices with their twin's state", module="device")))
    listing.add_argument("-n", "--namespace", default="", metavar="NS", help="only this namespace")
    explain = _output(_settings(_verb(inner, "explain", "say why a twin is pending", module="device")))
    explain.add_argument("name", help="device, NAME or NAMESPACE/NAME")
    explain.add_argument("-n", "--namespace", default="", metavar="NS", help="namespace of the device")


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, *, module: str = ""
) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    verb.set_defaults(module=module or name)
    verb.add_argument(
        "--data-dir", type=Path, default=None, metavar="DIR", help="default /var/lib/skerry/edge for root"
    )
    return verb


def _settings(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    verb.add_argument("--config", type=Path, default=None, metavar="FILE", help="YAML settings over DIR/edge.yaml")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; may be repeated")
    return verb


def _output(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    verb.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json for scripts")
    return verb


def _fail(error: SkerryError, code: int) -> int:
    print(f"edgecore: {error}", file=sys.stderr)
    return code
