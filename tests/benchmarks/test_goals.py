"""The rows of the design: what was measured, and the verdict on it."""

from collections.abc import Mapping

import pytest

from benchmarks.goals import GOALS, Found, Goal, of_goals, verdict
from benchmarks.results import Round
from benchmarks.subjects import BROKER, CONSTANT
from tests.benchmarks.figures import peer, results, rounds, subject

_MORE = Goal(what="", unit=" ×", least=8, aim=20, measure=lambda *_: None)
_LESS = Goal(what="", unit=" ms", least=100, aim=20, most=True, measure=lambda *_: None)
_AIM = Goal(what="", unit=" ×", least=None, aim=0.6, measure=lambda *_: None)


@pytest.mark.parametrize(
    ("goal", "found", "expected"),
    [
        (_MORE, 20.0, "aim reached"),
        (_MORE, 8.0, "reached"),
        (_MORE, 7.9, "**not reached**"),
        (_MORE, None, "not measured"),
        (_LESS, 20.0, "aim reached"),
        (_LESS, 99.0, "reached"),
        (_LESS, 101.0, "**not reached**"),
        (_AIM, 0.7, "aim reached"),
        (_AIM, 0.5, "aim not reached"),
    ],
)
def test_a_verdict_knows_which_way_is_better(goal: Goal, found: float | None, expected: str) -> None:
    assert verdict(goal, None if found is None else Found(value=found, text="")) == expected


def test_bounds_are_written_with_their_direction() -> None:
    assert (_MORE.bound(8), _LESS.bound(100), _AIM.bound(None)) == ("≥ 8 ×", "≤ 100 ms", "")


def _row(title: str, *, soak: Mapping[str, float | None] | None = None, **measured: list[Round]) -> list[str]:
    subjects = {"ours": subject(BROKER), "constant": subject(CONSTANT, "limit", "none")}
    shared = {"sharing"}
    known = {
        name: subjects.get(name, peer(name, "shared" if name in shared else "per session"))
        for name in measured
    }
    found = results(list(known.values()), {known[name].name: of for name, of in measured.items()})
    (row,) = (row for row in of_goals(found, soak or {}).rows if row[0].startswith(title))
    return list(row)


def test_throughput_is_compared_with_the_fastest_peer() -> None:
    row = _row(
        "calls/s, 1 session",
        ours=rounds("many_rps", [90, 100]),
        slow=rounds("many_rps", [1, 1]),
        fast=rounds("many_rps", [9, 10]),
    )
    assert row[-2:] == ["10 (10 to 10) × fast", "reached"]


def test_a_scenario_that_we_fail_is_no_ratio() -> None:
    row = _row("calls/s, 1 session", ours=rounds("many_rps", [90, None]), fast=rounds("many_rps", [1, 1]))
    assert row[-2:] == ["", "not measured"]


def test_cycles_are_compared_with_peers_that_start_a_child_and_leave_none() -> None:
    def cycles(rps: float, left: float) -> list[Round]:
        return [Round(figures={"cycles_rps": rps, "cycles_left": left}, asked=["cycles"])]

    row = _row(
        "open, call, close",
        ours=cycles(40, 0),
        sharing=cycles(35, 0),
        leaky=cycles(30, 7),
        clean=cycles(10, 0),
    )
    assert row[-2:] == ["4 (4 to 4) × clean", "reached"]


def test_the_last_cycles_of_the_soak_count_for_what_must_not_grow() -> None:
    ours = rounds("many_rps", [1])
    held = {key: 9.0 for name in ("fds", "threads", "children") for key in (name, f"{name}_before")}
    soak = {"rss_growth": 0.012, **held}
    assert _row("memory after", soak=soak, ours=ours)[-2:] == ["+1.2%", "reached"]
    assert _row("descriptors, threads", soak=soak, ours=ours)[-1] == "reached"
    assert _row("descriptors, threads", soak={**soak, "fds": 10.0}, ours=ours)[-1] == "**not reached**"
    assert _row("memory after", ours=ours)[-1] == "not measured"


def test_every_goal_can_do_without_a_measurement() -> None:
    table = of_goals(results([subject(BROKER)], {BROKER: []}), {})
    assert {row[-1] for row in table.rows} == {"not measured"}
    assert len(table.rows) == len(GOALS)
