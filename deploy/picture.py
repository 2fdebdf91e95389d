"""Draw a terminal's text as SVG: ``make demo | python -m deploy.picture docs/demo.svg``. The text is passed through."""

import html
import sys
from pathlib import Path

FROM = "The press's ledger"  # the step that the picture shows, with everything after it
LINE_PX, CHAR_PX, PAD_PX = 20, 8.4, 24


def svg(lines: list[str]) -> str:
    """One dark card with the lines in a fixed-width font."""
    width = int(max(map(len, lines)) * CHAR_PX) + 2 * PAD_PX
    height = len(lines) * LINE_PX + 2 * PAD_PX
    rows = "\n".join(
        f'<text x="{PAD_PX}" y="{PAD_PX + (at + 1) * LINE_PX - 5}" xml:space="preserve"{_style(line)}>{html.escape(line)}</text>'
        for at, line in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-size="14" '
        f'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" fill="#d6deeb">\n'
        f'<rect width="100%" height="100%" rx="10" fill="#0b1f2a"/>\n{rows}\n</svg>\n'
    )


def _style(line: str) -> str:
    if line[:1].isdigit():
        return ' font-weight="bold"'
    if line.startswith("   ") and line.strip().startswith(("lost", "duplicated", "out of order")):
        return ' fill="#7ddb8f"'
    return ""


def main(target: str) -> int:
    lines: list[str] = []
    for raw in sys.stdin:
        sys.stdout.write(raw)
        line = raw.rstrip("\n")
        if FROM in line:
            lines = [line.split("  [")[0]]
        elif lines:
            lines.append(line)
    if not lines:
        sys.stderr.write(f"picture: no line with {FROM!r} in the input\n")
        return 1
    Path(target).write_text(svg(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
