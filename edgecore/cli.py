"""The command line of edgecore."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proto.kit import commandline
from proto.kit.commandline import with_output, with_settings


class Verb(argparse.ArgumentParser):
    """A command. ``takes_command``: what follows ``--`` is another command, whatever it looks like."""

    takes_command = False

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        words = list(args or ())
        if not self.takes_command:
            return super().parse_known_args(words, namespace)
        cut = words.index("--") if "--" in words else len(words)
        found, rest = super().parse_known_args(words[:cut], namespace)
        found.command = words[cut + 1 :]
        return found, rest


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return commandline.run("edgecore", parser, argv)


def parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    top = commandline.top("edgecore", "The node daemon of Skerry and its commands.")
    verbs: Any = top.add_subparsers(dest="verb", required=True, metavar="COMMAND", parser_class=Verb)
    _run(verbs)
    _join(verbs)
    for name, text in (
        ("status", "show node, cloud link, devices, certificate and disk; works offline"),
        ("doctor", "check everything that can be wrong and say what to type next"),
    ):
        with_output(_settings(_verb(verbs, name, text)))
    reset = with_output(_settings(_verb(verbs, "reset", "end the pods, forget the identity and state of this node")))
    reset.add_argument("--yes", action="store_true", help="do not ask")
    reset.add_argument("--keep-data", action="store_true", help="forget the identity only: twins and what waits stay")
    reset.add_argument("--pods-only", action="store_true", help="end the pods of this node and forget nothing else")
    reset.add_argument("--purge", action="store_true", help="delete for good instead of keeping a quarantine copy")
    _device(verbs)
    _local(verbs)
    _images(verbs)
    _pods(verbs)
    return top


def _run(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    run = _settings(_verb(verbs, "run", "run the daemon"))
    run.add_argument("--print-settings", action="store_true", help="print the settings in force and exit")


def _join(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    join = with_output(
        _verb(verbs, "join", "join a cloud: get a certificate and write the settings; safe to run again")
    )
    join.add_argument("--cloud", required=True, metavar="URL", help="join endpoint, https://HOST:10002")
    join.add_argument(
        "--token", required=True, metavar="TOKEN", help="from `cloudcore token create`; - reads it from stdin"
    )
    join.add_argument("--node", required=True, metavar="NAME", help="name of this node")


def _device(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    device = verbs.add_parser("device", help="devices of this node", description="Devices of this node; works offline.")
    inner = device.add_subparsers(dest="device_verb", required=True, metavar="list|explain")
    listing = with_output(_settings(_verb(inner, "list", "list the devices with their twin's state", module="device")))
    listing.add_argument("-n", "--namespace", default="", metavar="NS", help="only this namespace")
    explain = with_output(_settings(_verb(inner, "explain", "say why a twin is pending", module="device")))
    explain.add_argument("name", help="device, NAME or NAMESPACE/NAME")
    explain.add_argument("-n", "--namespace", default="", metavar="NS", help="namespace of the device")


def _local(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    config = _settings(_verb(verbs, "kubectl-config", "print a kubeconfig of this node's API", module="kubectl_config"))
    config.add_argument("--out", default=None, metavar="FILE", help="write it to FILE, mode 0600")
    with_output(_verb(verbs, "pending", "list the writes at this node that the cloud has not answered"))
    text = "writes at this node that the cloud did not apply"
    refused = verbs.add_parser("conflicts", help=text, description=f"{text[0].upper()}{text[1:]}.")
    inner = refused.add_subparsers(dest="conflict_verb", required=True, metavar="list|show|retry|drop")
    for name, what in (
        ("list", "list them"),
        ("show", "show both versions of one"),
        ("retry", "make one again, over what there is now"),
        ("drop", "forget one, here and in the cloud"),
    ):
        verb = _settings(with_output(_verb(inner, name, what, module="conflicts")))
        if name != "list":
            verb.add_argument("name", help="name of the WriteConflict, or the number of the write")


def _images(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    images = verbs.add_parser(
        "images", help="container images of this node", description="Container images of this node; works offline."
    )
    inner = images.add_subparsers(dest="images_verb", required=True, metavar="list|import|prune")
    with_output(_settings(_verb(inner, "list", "list the images of the container runtime", module="images")))
    taking = with_output(
        _settings(_verb(inner, "import", "take images from files: OCI archives, or from docker save", module="images"))
    )
    taking.add_argument("files", nargs="+", type=Path, metavar="FILE", help="archive with the images' names in it")
    prune = with_output(
        _settings(_verb(inner, "prune", "remove images that no pod of this node needs", module="images"))
    )
    prune.add_argument("--all", action="store_true", help="images with a name, too")


def _pods(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    listing = with_output(_verb(verbs, "pods", "list the pods of this node, and why one does not run; works offline"))
    listing.add_argument("-n", "--namespace", default="", metavar="NS", help="only this namespace")
    logs = _of_pod(_verb(verbs, "logs", "print the log of a container of this node", module="pods"))
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the container ends")
    logs.add_argument("--previous", action="store_true", help="of the container before the last restart")
    logs.add_argument("--tail", type=int, default=None, metavar="LINES", help="only the last lines")
    execute: Any = _of_pod(_verb(verbs, "exec", "run a command in a container of this node", module="pods"))
    execute.add_argument("-i", "--stdin", action="store_true", help="pass standard input on")
    execute.add_argument("-t", "--tty", action="store_true", help="as on a terminal")
    execute.usage = "edgecore exec [options] POD [-c NAME] [-i] [-t] -- COMMAND [ARGUMENT...]"
    execute.takes_command = True
    again = "restart the containers of a pod of this node; what waits for its next try is tried now"
    _of_pod(_verb(verbs, "restart", again, module="pods"))


def _of_pod(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    verb.add_argument("pod", help="pod, NAME or NAMESPACE/NAME")
    verb.add_argument("-n", "--namespace", default="", metavar="NS", help="namespace of the pod")
    verb.add_argument("-c", "--container", default="", metavar="NAME", help="container; the only or default one")
    return verb


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
    return with_settings(verb, "edge.yaml")
