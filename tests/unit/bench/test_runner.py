"""The bench runner says what was measured, and nothing else."""

import pytest

from tests.bench import __main__ as runner
from tests.bench.goals import GOALS, Goal, row
from tests.bench.report import find, judge, judge_all, table

FAST = Goal("b", "rate", ("open", "per_s"), "/s", ">=", 2000)
SOON = Goal("b", "late", ("late_s",), "s", "<=", 1)
SAID = Goal("b", "said", ("said",))


@pytest.mark.parametrize(
    ("goal", "result", "met"),
    [
        (FAST, {"open": {"per_s": 2000}}, True),
        (FAST, {"open": {"per_s": 1999.9}}, False),
        (SOON, {"late_s": 1.0}, True),
        (SOON, {"late_s": 1.001}, False),
        (SAID, {"said": 5}, None),
    ],
)
def test_a_figure_is_compared_with_its_goal(goal: Goal, result: dict[str, object], met: bool | None) -> None:
    assert judge(goal, result).met is met


def test_a_goal_without_its_figure_is_missed() -> None:
    assert judge(FAST, {"open": {}}).met is False
    assert judge(FAST, {}).met is False


def test_a_word_or_a_truth_value_is_no_figure() -> None:
    assert find({"late_s": "0"}, ("late_s",)) is None
    assert find({"late_s": True}, ("late_s",)) is None


def test_a_row_of_a_list_is_found_by_what_it_says() -> None:
    rows = [{"publishers": 1, "broker": "mosquitto", "ratio": 1.0}, {"publishers": 1, "broker": "skerry", "ratio": 0.3}]
    assert find({"rows": rows}, row(1, "skerry", "ratio")) == 0.3
    assert find({"rows": rows}, row(50, "skerry", "ratio")) is None


def test_a_bench_that_was_not_asked_for_has_no_rows_and_a_failed_one_misses_its_goals() -> None:
    assert judge_all([FAST, Goal("other", "x", ("x",))], {"b": {}}) == [judge(FAST, {})]


def test_the_table_shouts_what_is_missed() -> None:
    shown = table([judge(FAST, {"open": {"per_s": 1234.5}}), judge(SOON, {"late_s": 0.25}), judge(SAID, {})])
    lines = [line.split() for line in shown.splitlines()]
    assert lines[2] == ["rate", "1,234", "/s", ">=", "2,000", "/s", "NO"]
    assert lines[3] == ["late", "0.25", "s", "<=", "1", "s", "yes"]
    assert lines[4] == ["said", "none"]


def test_the_result_is_the_json_that_ends_the_output() -> None:
    assert runner.parse('name rate\n{x} 5\n{"a": {"b": 1}}\n') == {"a": {"b": 1}}
    assert runner.parse('{\n  "a": 1\n}\n') == {"a": 1}


def test_an_output_without_json_is_a_failed_bench() -> None:
    with pytest.raises(runner.BenchFailed):
        runner.parse("nothing to see\n")


async def test_a_bench_that_ends_badly_is_reported_with_its_log(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "OUT", tmp_path)
    with pytest.raises(runner.BenchFailed, match=r"twin\.log"):
        await runner.run(runner.Bench("twin", "", full=("--no-such-option",)), quick=False)


def test_every_goal_belongs_to_a_bench_and_every_bench_has_a_figure() -> None:
    assert {goal.bench for goal in GOALS} == {bench.name for bench in runner.BENCHES}
