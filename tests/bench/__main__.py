"""Measure everything, print one table, keep JSON in build/bench/.

python -m tests.bench [--only NAME ...] [--quick]
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.goals import GOALS
from tests.bench.report import judge_all, table

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "bench"
PATIENCE_S = 1200.0  # of one bench
GOODBYE_S = 20.0
BUSY_SHARE = 0.5  # of the cores, by others: then the figures are not the machine's


@dataclass(frozen=True, slots=True)
class Bench:
    """One program, with its arguments in full and in quick runs."""

    name: str
    about: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()


BENCHES = (
    Bench("reports", "reports end to end, latencies", ("--seconds", "60"), ("--seconds", "10")),
    Bench("broker", "our broker, Mosquitto and amqtt", ("--amqtt",), ("--amqtt", "--seconds", "2")),
    Bench("idle", "memory of idle connections", (), ("--count", "300")),
    Bench("twin", "CPU of a report at the edge", (), ("--reports", "2000")),
    Bench(
        "streams",
        "twins beside logs, exec and cp",
        (),
        ("--runs", "1", "--seconds", "4", "--copy", "5"),
    ),
    Bench("pods", "a pod's start, of the bare CRI calls", (), ("--single", "5", "--rounds", "1")),
    Bench("pods_footprint", "what 20 pods cost an idle gateway", (), ("--seconds", "60", "--more", "0")),
    Bench("footprint", "memory, start, reconnect, idle traffic", (), ("--idle-seconds", "10", "--cuts", "5")),
    Bench("drain", "an offline edge comes back", (), ("--reports", "3000")),
    Bench("storm", "a thousand edges after a cloud restart", (), ("--edges", "200")),
)


class BenchFailed(Exception):
    """A bench gave no result; the text says where its words are."""


async def run(bench: Bench, *, quick: bool) -> dict[str, Any]:
    """Run one bench in its own process and return its result. Raises BenchFailed."""
    log = OUT / f"{bench.name}.log"
    argv = [sys.executable, "-m", f"tests.bench.bench_{bench.name}", *(bench.quick if quick else bench.full)]
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *argv, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=errors, start_new_session=True
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                out, _ = await process.communicate()
        except TimeoutError as error:
            raise BenchFailed(f"no result in {PATIENCE_S:g} s; see {log}") from error
        finally:
            await end(process)
    if process.returncode:
        raise BenchFailed(f"ended with {process.returncode}; see {log}")
    return parse(out.decode())


async def end(process: asyncio.subprocess.Process) -> None:
    """Let a bench that still runs end its daemons, then end whatever it left."""
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), GOODBYE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its own session: nobody else's process is in it
    await process.wait()


def parse(text: str) -> dict[str, Any]:
    """Return the JSON object that ends a bench's output; a table may stand before it. Raises BenchFailed."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith("{"):
            with suppress(json.JSONDecodeError):
                found = json.loads("".join(lines[number:]))
                if isinstance(found, dict):
                    return found
    raise BenchFailed("printed no result")


def machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def keep(name: str, document: dict[str, Any]) -> None:
    (OUT / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")


async def run_all(benches: list[Bench], *, quick: bool) -> int:
    """Run ``benches`` one after the other; 1 when one of them gave no result."""
    OUT.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"quick": quick, "machine": machine(), "failed": {}, "seconds": {}}
    results: dict[str, dict[str, Any]] = {}
    for number, bench in enumerate(benches, 1):
        print(f"[{number}/{len(benches)}] {bench.name}: {bench.about}", flush=True)
        began_s = time.monotonic()
        try:
            results[bench.name] = await run(bench, quick=quick)
            keep(bench.name, results[bench.name])
            print(f"      {time.monotonic() - began_s:.0f} s", flush=True)
        except BenchFailed as error:
            results[bench.name] = {}
            summary["failed"][bench.name] = str(error)
            print(f"      failed: {error}", flush=True)
        summary["seconds"][bench.name] = round(time.monotonic() - began_s, 1)
    rows = judge_all(GOALS, results)
    keep("summary", {**summary, "measures": [row.to_json() for row in rows]})
    print(f"\n{table(rows)}\n")
    missed = sum(row.met is False for row in rows)
    load, cpus = summary["machine"]["load_before"][0], os.cpu_count() or 1
    if load > BUSY_SHARE * cpus:
        print(
            f"the machine was busy before the first bench (load {load:g} on {cpus} cores): expect worse than it can do"
        )
    short = " (quick: short runs, not for comparison)" if quick else ""
    print(
        f"{missed} of {sum(row.met is not None for row in rows)} goals missed{short}; JSON in {OUT.relative_to(ROOT)}"
    )
    return 1 if summary["failed"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    names = [bench.name for bench in BENCHES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="short runs, to see that everything works")
    args = parser.parse_args()
    try:
        return asyncio.run(run_all([bench for bench in BENCHES if bench.name in args.only], quick=args.quick))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
