"""Which scenario a subject is asked in which round."""

from collections.abc import Sequence

from benchmarks.results import Round
from benchmarks.rounds import due, merged
from benchmarks.scenarios import Scenario
from benchmarks.subjects import Subject
from tests.benchmarks.figures import rounds

_ALWAYS = Scenario(name="many", title="", columns=())
_SELDOM = Scenario(name="large", title="", columns=(), rounds=3, other_rounds=1)
_IMPLIED = Scenario(name="stop", title="", columns=(), implied_by="large")
_BROKER = Subject(
    name="ours", argv=(), kind="broker", child="per session", scenarios=frozenset({"many", "large"})
)
_LIMIT = Subject(name="limit", argv=(), kind="limit", child="none", scenarios=frozenset({"many", "large"}))
_PEER = Subject(name="peer", argv=(), kind="peer", child="shared", scenarios=frozenset({"many", "large"}))


def _due(subject: Subject, number: int, before: Sequence[float | None] = ()) -> list[str]:
    found = due(subject, (_ALWAYS, _SELDOM), number, rounds("many_rps", before))
    return [scenario.name for scenario in found]


def test_scenarios_that_take_long_are_run_in_fewer_rounds_and_fewer_still_for_others() -> None:
    assert [_due(_BROKER, number) for number in (0, 2, 3)] == [["many", "large"], ["many", "large"], ["many"]]
    assert [_due(_LIMIT, number) for number in (0, 1, 9)] == [["many", "large"], ["many"], ["many"]]


def test_peers_have_fewer_rounds() -> None:
    assert [_due(_PEER, number) for number in (0, 1, 2, 3)] == [["many", "large"], ["many"], ["many"], []]


def test_a_peer_that_has_never_done_it_is_not_asked_a_third_time() -> None:
    assert _due(_PEER, 2, [None, None]) == []
    assert _due(_PEER, 2, [None, 1]) == ["many"]
    assert _due(_PEER, 2, [1, None]) == ["many"]


def test_we_are_asked_however_often_we_fail() -> None:
    assert _due(_BROKER, 3, [None, None, None]) == ["many"]


def test_a_scenario_may_be_implied_by_another() -> None:
    assert due(_PEER, [_IMPLIED], 0, []) == [_IMPLIED]
    assert due(Subject(name="", argv=(), kind="limit", child="none"), [_IMPLIED], 0, []) == []


def test_what_is_measured_apart_belongs_to_the_same_round() -> None:
    one = Round(figures={"many_rps": 1, "left": 2}, asked=["many"])
    other = Round(figures={"large_1": 3, "left": 1}, asked=["large"], failures={"large_16": "no"})
    found = merged(one, other)
    assert found.figures == {"many_rps": 1, "large_1": 3, "left": 3}
    assert found.asked == ("many", "large")
    assert found.failures == {"large_16": "no"}
    assert "left" not in merged(Round(figures={}), Round(figures={})).figures
