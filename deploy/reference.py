"""Write docs/reference.md: every command, setting and metric, taken from the code itself. ``python -m deploy.reference``."""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cloudcore.cli import parser as cloud_parser
from cloudcore.settings import Settings as CloudSettings
from deploy.stage import ROOT
from edgecore.cli import parser as edge_parser
from edgecore.settings import Settings as EdgeSettings
from proto.kit import settings
from tests.kit.platform import Platform

TARGET = ROOT / "docs" / "reference.md"
METRICS = "## Metrics"
HEAD = """# Reference

Written by `python -m deploy.reference` from the code; a test compares.

A setting is given by `--set key=value`, by one YAML file (`--config`, and the one in the data directory), or by the environment: `SKERRY_` and the key in
capitals with `__` for a dot, such as `SKERRY_LINK__KEEP_ALIVE_S`. An unknown key is an error that names the nearest known one.
"""


def commands(name: str, parser: argparse.ArgumentParser) -> str:
    rows = "\n".join(f"| `{usage}` | {text} |" for usage, text in _verbs(parser, name))
    return f"## Commands of {name}\n\n| Command | |\n|---|---|\n{rows}\n"


def _verbs(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, str]]:
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]  # noqa: SLF001  argparse shows no other way
    for group in groups:
        texts = {choice.dest: choice.help or "" for choice in group._choices_actions}  # noqa: SLF001
        for verb, inner in group.choices.items():
            nested = list(_verbs(inner, f"{path} {verb}"))
            yield from nested or [(f"{path} {verb} {_options(inner)}", _cell(texts.get(verb, "")))]


def _options(parser: argparse.ArgumentParser) -> str:
    words = []
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._HelpAction):  # noqa: SLF001
            continue
        value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
        flag = max(action.option_strings, key=len, default="")
        word = f"{flag} {value}".strip() if action.nargs != 0 else flag
        words.append(word if action.required else f"[{word}]")
    return _cell(" ".join(words))


def settings_table(name: str, docs: list[settings.Doc]) -> str:
    rows = "\n".join(f"| `{d.key}` | {_cell(d.type)} | `{d.default or ' '}` | {_cell(d.text)} |" for d in docs)
    return f"## Settings of {name}\n\n| Key | Type | Default | |\n|---|---|---|---|\n{rows}\n"


def metrics(*scrapes: str) -> list[tuple[str, str, str]]:
    """Return (name, kind, help) of every metric in the scraped pages, by name."""
    kinds: dict[str, str] = {}
    texts: dict[str, str] = {}
    for line in "\n".join(scrapes).splitlines():
        match line.split(" ", 3):
            case ["#", "HELP", name, text]:
                texts[name] = text
            case ["#", "TYPE", name, kind]:
                kinds[name] = kind
    return [(name, kinds[name], texts.get(name, "")) for name in sorted(kinds)]


def metrics_table(*scrapes: str) -> str:
    rows = "\n".join(f"| `{name}` | {kind} | {_cell(text)} |" for name, kind, text in metrics(*scrapes))
    return f"{METRICS}\n\n| Name | Kind | |\n|---|---|---|\n{rows}\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def render() -> str:
    """Everything but the metrics, which only running daemons know."""
    parts = [
        HEAD,
        commands("cloudcore", cloud_parser()),
        commands("edgecore", edge_parser()),
        settings_table("cloudcore", settings.describe(CloudSettings)),
        settings_table("edgecore", settings.describe(EdgeSettings)),
    ]
    return "\n".join(parts) + "\n"


async def scrapes() -> tuple[str, str]:
    """Start a cloud and an edge, and return what each measures."""
    with tempfile.TemporaryDirectory(prefix="skerry-reference-") as folder:
        async with Platform(Path(folder)) as platform:
            await platform.start_cloud()
            edge = await platform.add_edge("gw-1")
            return await platform.metrics(), await edge.metrics()


def main(target: Path = TARGET) -> int:
    target.write_text(render() + metrics_table(*asyncio.run(scrapes())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
