"""The command line of cloudcore."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from proto.kit import commandline
from proto.kit.commandline import with_output, with_settings

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  argparse has no public name for it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return commandline.run("cloudcore", parser, argv)


def parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    top = commandline.top("cloudcore", "The cloud daemon of Skerry and its commands.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    _serve(verbs)
    _token(verbs)
    with_output(_verb(verbs, "status", "show what serves, which nodes are connected and how much waits"))
    with_output(_verb(verbs, "doctor", "check everything that can be wrong and say what to type next"))
    _history(verbs)
    _node(verbs)
    _crds(verbs)
    backup = with_output(_verb(verbs, "backup", "save databases and keys to one file while serving"))
    backup.add_argument("file", type=Path, help="file to write; it holds private keys")
    restore = with_output(_verb(verbs, "restore", "put a backup back; refused while cloudcore serves"))
    restore.add_argument("file", type=Path, help="file that `cloudcore backup` wrote")
    return top


def _serve(verbs: Verbs) -> None:
    _verb(verbs, "serve", "run the daemon").add_argument(
        "--print-settings", action="store_true", help="print the settings in force and exit"
    )


def _token(verbs: Verbs) -> None:
    inner = _group(verbs, "token", "join tokens", "create|list|delete")
    create = with_output(_verb(inner, "create", "make a one-time join token", module="token"))
    create.add_argument("--node", default="", metavar="NAME", help="only this node may use it")
    create.add_argument("--ttl", default="24h", metavar="TIME", help="how long it lives, such as 30m or 24h")
    with_output(_verb(inner, "list", "list the join tokens; never their secrets", module="token"))
    delete = with_output(_verb(inner, "delete", "forget a join token", module="token"))
    delete.add_argument("token", help="its id, or the whole token")


def _history(verbs: Verbs) -> None:
    history = _verb(verbs, "history", "print what a device reported")
    history.add_argument("device", help="device, NAME or NAMESPACE/NAME")
    history.add_argument("-n", "--namespace", default="", metavar="NS", help="namespace of the device")
    history.add_argument("--property", default="", metavar="P", help="only this property")
    history.add_argument("--since", default="", metavar="TIME", help="only newer reports, such as 2h or 15m")
    history.add_argument("--limit", type=int, default=10_000, metavar="N", help="at most the newest N (10000)")
    history.add_argument(
        "-o", "--output", choices=("text", "csv", "json"), default="text", help="csv or json for scripts"
    )


def _node(verbs: Verbs) -> None:
    inner = _group(verbs, "node", "nodes of this cloud", "list|revoke")
    with_output(_verb(inner, "list", "list the nodes and their links", module="node"))
    revoke = with_output(_verb(inner, "revoke", "end a node's certificates until it joins again", module="node"))
    revoke.add_argument("name", help="node")
    revoke.add_argument("--reason", default="revoked by an administrator", help="shown in listings")


def _crds(verbs: Verbs) -> None:
    inner = _group(verbs, "crds", "our custom resource definitions", "apply")
    with_output(_verb(inner, "apply", "install them where they are missing; others' are left alone", module="crds"))


def _group(verbs: Verbs, name: str, text: str, metavar: str) -> Verbs:
    group = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    return group.add_subparsers(dest=f"{name}_verb", required=True, metavar=metavar)


def _verb(verbs: Verbs, name: str, text: str, *, module: str = "") -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    verb.set_defaults(module=module or name)
    verb.add_argument(
        "--data-dir", type=Path, default=None, metavar="DIR", help="default /var/lib/skerry/cloud for root"
    )
    with_settings(verb, "cloud.yaml")
    verb.add_argument("--kubeconfig", default=None, metavar="FILE", help="short for --set api.kubeconfig=FILE")
    verb.add_argument("--broker", default=None, metavar="URL", help="short for --set broker.url=URL")
    verb.add_argument("--database", default=None, metavar="URL", help="short for --set history.database=URL")
    return verb
