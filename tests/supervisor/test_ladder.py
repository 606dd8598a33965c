"""The graces on the way down can only be shortened."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.supervisor.ladder import Ladder
from stdio_broker.supervisor.lifecycle import LADDER, State

GRACES = st.one_of(st.none(), st.integers(0, 9).map(float))


def ladder() -> Ladder:
    return Ladder(
        {"flush_grace": 0.5, "eof_grace": 2.0, "stop_grace": 5.0, "kill_grace": 3.0, "drain_grace": 0.25}
    )


def graces(ladder: Ladder) -> list[float]:
    return [ladder.grace(state) for state in LADDER]


def test_a_shorter_grace_is_taken() -> None:
    steps = ladder()
    steps.shorten(eof_grace=1.0, stop_grace=0.0)
    assert graces(steps) == [0.5, 1.0, 0.0, 3.0]


def test_no_grace_at_all_skips_the_flushing_as_well() -> None:
    steps = ladder()
    steps.shorten(eof_grace=0)
    assert graces(steps) == [0, 0, 5.0, 3.0]


def test_a_longer_grace_changes_nothing() -> None:
    steps = ladder()
    steps.shorten(eof_grace=100, stop_grace=math.inf)
    assert graces(steps) == [0.5, 2.0, 5.0, 3.0]


def test_what_comes_after_the_exit_keeps_its_grace() -> None:
    """Its last words are for the user, whoever is in a hurry."""
    steps = ladder()
    steps.shorten(eof_grace=0, stop_grace=0)
    assert (steps.grace(State.DRAIN), steps.grace(State.REAP)) == (0.25, 3.0)


def test_a_state_without_a_grace_is_not_asked_for_one() -> None:
    """Zero would end it at once, and RUNNING lasts."""
    with pytest.raises(ValueError, match=r"^RUNNING has no grace$"):
        ladder().grace(State.RUNNING)


@pytest.mark.parametrize("grace", [-1.0, -math.inf, math.nan])
def test_a_grace_that_is_no_length_of_time_is_refused_and_changes_nothing(grace: float) -> None:
    steps = ladder()
    with pytest.raises(ValueError, match=r"^eof_grace: expected seconds, 0 or more, found"):
        steps.shorten(eof_grace=grace, stop_grace=0)
    with pytest.raises(ValueError, match=r"^stop_grace: "):
        steps.shorten(eof_grace=0, stop_grace=grace)
    assert graces(steps) == graces(ladder())


@given(st.lists(st.tuples(GRACES, GRACES)))
def test_the_shortest_graces_win_in_any_order(
    requests: list[tuple[float | None, float | None]],
) -> None:
    forwards, backwards = ladder(), ladder()
    for eof_grace, stop_grace in requests:
        before = graces(forwards)
        forwards.shorten(eof_grace=eof_grace, stop_grace=stop_grace)
        assert all(after <= grace for after, grace in zip(graces(forwards), before, strict=True))
    for eof_grace, stop_grace in reversed(requests):
        backwards.shorten(eof_grace=eof_grace, stop_grace=stop_grace)
    assert graces(forwards) == graces(backwards)
