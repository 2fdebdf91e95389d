"""``edgecore pods``, ``logs``, ``exec`` and ``restart``: the pods of this node for those without kubectl, with or without a cloud."""

import argparse
import asyncio
from typing import Any

from edgecore import door, offline
from edgecore.commands import as_json, data_dir_of
from edgecore.data_dir import DataDir
from edgecore.pods.logfile import LogChannels, Wanted
from edgecore.pods.why import why
from edgecore.terminal import carry, sized
from kubeapi.kinds import POD
from kubeapi.pod_printer import pod_cells
from proto.calls import Call
from proto.kit.channels import Channels
from proto.kit.clock import Clock, SystemClock
from proto.kit.errors import SkerryError, UsageError

Json = dict[str, Any]
COLUMNS = ("NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "WHY")


def run(args: argparse.Namespace) -> int:
    directory, clock = data_dir_of(args), SystemClock()
    pods = offline.objects(directory, POD)
    if args.verb == "pods":
        chosen = [pod for pod in pods if args.namespace in {"", pod["metadata"].get("namespace", "")}]
        rows = table(chosen, clock)
        print(as_json({"version": 1, "items": rows}) if args.output == "json" else render(rows))
        return 0
    pod = find(pods, args.pod, args.namespace)
    return asyncio.run(_on(directory, pod, args, clock))


async def _on(directory: DataDir, pod: Json, args: argparse.Namespace, clock: Clock) -> int:
    namespace, name = pod["metadata"].get("namespace", ""), pod["metadata"]["name"]
    if args.verb == "restart":
        wanted = {"namespace": namespace, "pod": name, "container": args.container}
        channels = await door.ask(directory, door.Request(restart=wanted))
        await channels.close()
        print(f"{namespace}/{name}: {args.container or 'all containers'} restarting")
        return 0
    if args.verb == "logs":
        return await carry(await _log(directory, pod, args, clock), stdin=False, tty=False)
    if not args.command:
        raise UsageError("exec: write the command after --, such as: edgecore exec POD -- ls /")
    call = Call(
        kind="exec",
        namespace=namespace,
        pod=name,
        container=args.container,
        command=args.command,
        stdin=args.stdin,
        stdout=True,
        stderr=not args.tty,
        tty=args.tty,
    )
    channels = await door.ask(directory, door.Request(call=call))
    if args.tty:
        await sized(channels)
    return await carry(channels, stdin=args.stdin, tty=args.tty)


async def _log(directory: DataDir, pod: Json, args: argparse.Namespace, clock: Clock) -> Channels:
    """The log from the daemon, or from its file while no daemon runs."""
    metadata = pod["metadata"]
    call = Call(
        kind="logs",
        namespace=metadata.get("namespace", ""),
        pod=metadata["name"],
        container=args.container,
        stdout=True,
        follow=args.follow,
        previous=args.previous,
        tail_lines=args.tail,
    )
    try:
        return await door.ask(directory, door.Request(call=call))
    except door.NotRunning:
        return _log_file(directory, pod, args, clock)


def _log_file(directory: DataDir, pod: Json, args: argparse.Namespace, clock: Clock) -> Channels:
    """Raises SkerryError when there is none."""
    metadata = pod["metadata"]
    container = args.container or pod["spec"]["containers"][0]["name"]
    folder = directory.path / "logs" / f"{metadata.get('namespace', '')}_{metadata['name']}_{metadata.get('uid', '')}"
    files = sorted((folder / container).glob("*.log"), key=lambda file: int(file.stem) if file.stem.isdigit() else -1)
    wanted = files[-2:-1] if args.previous else files[-1:]
    if not wanted:
        raise SkerryError(f"no {'previous ' if args.previous else ''}log of container {container} is on this node")

    async def ended() -> bool:
        return True

    return LogChannels(wanted[0], Wanted(tail_lines=args.tail), clock=clock, ended=ended)


def table(pods: list[Json], clock: Clock) -> list[Json]:
    """One row per pod, as kubectl shows it, and why it does not run."""
    rows = []
    for pod in pods:
        cells = pod_cells(pod, clock.wall())
        names = ("name", "ready", "status", "restarts", "age")
        row = {"namespace": pod["metadata"].get("namespace", ""), **dict(zip(names, cells, strict=False))}
        rows.append({**row, "uid": pod["metadata"].get("uid", ""), "why": why(pod)})
    return rows


def render(rows: list[Json]) -> str:
    """Aligned columns, as kubectl shows them."""
    if not rows:
        return "no pods: the cloud has none for this node, or it has not been reached yet (edgecore status)"
    keys = ("namespace", "name", "ready", "status", "restarts", "age", "why")
    lines = [COLUMNS, *(tuple(" ".join(str(row[key]).split()) for key in keys) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def find(pods: list[Json], name: str, namespace: str) -> Json:
    """Raises UsageError, SkerryError."""
    space, _, plain = name.rpartition("/")
    space = space or namespace
    found = [p for p in pods if p["metadata"]["name"] == plain and space in {"", p["metadata"].get("namespace", "")}]
    if len(found) == 1:
        return found[0]
    if found:
        spaces = ", ".join(p["metadata"].get("namespace", "") for p in found)
        raise UsageError(f"{plain} exists in {spaces}: add -n NAMESPACE")
    known = ", ".join(f"{p['metadata'].get('namespace', '')}/{p['metadata']['name']}" for p in pods[:5])
    raise SkerryError(f"no pod {name} on this node" + (f"; there are: {known}" if known else ""))
