"""Results against goals, and the table for people."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench.goals import Goal, Path

HEADER = ("measure", "value", "goal", "met")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``met`` None: nothing is asked, or the bench did not run."""

    bench: str
    measure: str
    value: float | None
    unit: str
    goal: str
    met: bool | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "measure": self.measure.strip()}


def find(result: Any, path: Path) -> float | None:
    """Return the figure at ``path``; None when the result has none there."""
    for step in path:
        if isinstance(step, str):
            result = result.get(step) if isinstance(result, Mapping) else None
        else:
            rows = result if isinstance(result, list) else []
            result = next((row for row in rows if all(row.get(k) == v for k, v in step.items())), None)
    return result if isinstance(result, int | float) and not isinstance(result, bool) else None


def judge(goal: Goal, result: Mapping[str, Any] | None) -> Row:
    """Compare one figure with its goal. A goal whose figure is not there is missed, unless its bench was not asked for."""
    value = find(result, goal.path)
    met: bool | None = None
    if goal.op and result is not None:
        at_least = goal.op == ">="
        met = value is not None and (value >= goal.limit if at_least else value <= goal.limit)
    words = f"{goal.op} {_number(goal.limit)}" if goal.op else ""
    return Row(goal.bench, goal.measure, value, goal.unit, words, met)


def judge_all(goals: Iterable[Goal], results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Rows of every bench in ``results``; a bench that failed has an empty result."""
    return [judge(goal, results[goal.bench]) for goal in goals if goal.bench in results]


def table(rows: Iterable[Row]) -> str:
    """The rows as aligned text."""
    lines = [HEADER, *((r.measure, _shown(r), f"{r.goal} {r.unit}".strip() if r.goal else "", _met(r)) for r in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(HEADER))]
    out = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d:<{widths[3]}}".rstrip() for a, b, c, d in lines]
    return "\n".join([out[0], "-" * (sum(widths) + 6), *out[1:]])


def _met(row: Row) -> str:
    return {True: "yes", False: "NO", None: ""}[row.met]


def _shown(row: Row) -> str:
    return f"{_number(row.value)} {row.unit}".rstrip() if row.value is not None else "none"


def _number(value: float) -> str:
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
