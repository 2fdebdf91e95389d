"""`make chaos`: many seeded episodes over the three brokers, then outages around a gateway with pods; tables, JSON in build/chaos/."""

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.chaos.brokers import NAMES
from tests.chaos.episodes import World, episode
from tests.chaos.ledger import Verdict
from tests.chaos.pods import PodSite, PodVerdict, cycle

OUT = Path("build/chaos")
LEAST_S, MOST_S = 1.0, 30.0  # of an outage around pods


async def run_broker(name: str, seeds: range) -> tuple[Verdict, list[str]]:
    """All episodes of one broker in one world; a failed convergence is reported with its seed and ends that broker."""
    total, failures = Verdict(), []
    with tempfile.TemporaryDirectory(prefix="skerry-chaos-") as folder:
        world = await World.build(Path(folder), name)
        try:
            for done, seed in enumerate(seeds, 1):
                verdict = await episode(world, seed)
                total.add(verdict)
                mark = "ok" if verdict.clean else "FAILED"
                print(
                    f"{name} {done}/{len(seeds)} seed={seed} {mark} {'+'.join(world.faults)} {verdict.acknowledged}",
                    flush=True,
                )
                if not verdict.clean:
                    failures.append(f"{name} seed {seed}: {verdict}")
        except Exception as error:  # noqa: BLE001  the other brokers go on, and the table is printed
            failures.append(f"{name} faults {world.faults}: {_words(error)}")
        finally:
            await world.close()
    return total, failures


async def run_pods(seeds: range) -> tuple[PodVerdict, list[str]]:
    """Outages around one gateway with pods; a failed convergence is reported with its seed and ends them."""
    verdict, failures = PodVerdict(), []
    with tempfile.TemporaryDirectory(prefix="skerry-chaos-") as folder:
        site = await PodSite.build(Path(folder))
        try:
            for done, seed in enumerate(seeds, 1):
                known = len(verdict.restarted)
                await cycle(site, seed, LEAST_S, MOST_S, verdict)
                failures += [f"pods seed {seed}: restarted {name}" for name in verdict.restarted[known:]]
                mark = "ok" if len(verdict.restarted) == known else "FAILED"
                print(f"pods {done}/{len(seeds)} seed={seed} {mark} {'+'.join(site.faults)}", flush=True)
        except Exception as error:  # noqa: BLE001  the table is printed
            failures.append(f"pods faults {site.faults}: {_words(error)}")
        finally:
            await site.close()
    return verdict, failures


def _words(error: BaseException) -> str:
    """What happened, the inner errors of a group included."""
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return "; ".join([f"{type(error).__name__}: {error}", *map(_words, inner)])


async def run_all(names: list[str], episodes: int, seed: int) -> dict[str, tuple[Verdict, list[str]]]:
    """The brokers side by side, each in a world of its own: most of an episode is waiting."""
    async with asyncio.TaskGroup() as group:
        tasks = {}
        for at, name in enumerate(names):
            share = episodes // len(names) + (at < episodes % len(names))
            tasks[name] = group.create_task(run_broker(name, range(seed, seed + share)))
    return {name: task.result() for name, task in tasks.items()}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--episodes", type=int, default=500, help="over all brokers")
    parser.add_argument("--pod-cycles", type=int, default=50, help="outages around a gateway with pods")
    parser.add_argument("--broker", choices=NAMES, action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    args = parser.parse_args(argv)
    names = args.broker or list(NAMES)
    failures: list[str] = []
    rows: dict[str, Verdict] = {}
    if args.episodes:
        for name, (verdict, failed) in asyncio.run(run_all(names, args.episodes, args.seed)).items():
            rows[name] = verdict
            failures += failed
    pods = PodVerdict()
    if args.pod_cycles:
        pods, failed = asyncio.run(run_pods(range(args.seed, args.seed + args.pod_cycles)))
        failures += failed
    print(f"\n{'broker':<12}{'acknowledged':>14}{'lost':>6}{'doubled':>9}{'out of order':>14}")
    for name, v in rows.items():
        print(f"{name:<12}{v.acknowledged:>14}{len(v.lost):>6}{len(v.doubled):>9}{len(v.disordered):>14}")
    print(f"\npods: {pods.cycles} outages of {LEAST_S:g} to {MOST_S:g} s, {len(pods.restarted)} containers restarted")
    OUT.mkdir(parents=True, exist_ok=True)
    report = {
        "episodes": args.episodes,
        "seed": args.seed,
        "failures": failures,
        "rows": {n: asdict(v) for n, v in rows.items()},
        "pods": asdict(pods),
    }
    (OUT / "chaos.json").write_text(json.dumps(report, indent=2))
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
