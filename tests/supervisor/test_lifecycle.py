"""The table of a child's life: as design, §3 draws it, without a dead end, and shown by the documentation."""

import itertools

import pytest

from stdio_broker.supervisor.lifecycle import GRACES, LADDER, TRANSITIONS, State, follow
from stdio_broker.supervisor.status import Phase
from tests.supervisor.lifecycle_docs import DOCUMENT, drawn, updated

ENDS = {State.DONE, State.ABANDONED}

#: Where the task has ended, so that it cannot be lost any more.
SETTLED = {State.UNKILLABLE, *ENDS}


def reachable(start: State) -> set[State]:
    found = {start}
    waiting = [start]
    while waiting:
        new = TRANSITIONS[waiting.pop()].next.keys() - found
        found |= new
        waiting += new
    return found


def test_every_state_has_its_row_in_the_order_of_a_life() -> None:
    assert list(TRANSITIONS) == list(State)


@pytest.mark.parametrize(
    "life",
    [
        "RUNNING FLUSH EOF TERM KILL EXITED SWEEP DRAIN REAP DONE",
        "RUNNING EXITED SWEEP DRAIN REAP DONE",
        "RUNNING EXITED DRAIN REAP DONE",
        "RUNNING FLUSH EOF KILL DRAIN UNKILLABLE REAP DONE",
        "RUNNING FLUSH EOF TERM KILL DRAIN REAP DONE",
        "RUNNING ABANDONED",
    ],
)
def test_a_life_follows_the_table(life: str) -> None:
    """Design, §3; then: by itself, orphans left, state D, dead at the last moment, the loop closed."""
    states = [State[name] for name in life.split()]
    for before, after in itertools.pairwise(states):
        assert follow(before, after) is after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (State.RUNNING, State.TERM),  # not without having closed stdin
        (State.TERM, State.EOF),  # never back
        (State.RUNNING, State.REAP),  # not before the group was swept
        (State.REAP, State.SWEEP),  # no signal after the reaping
        (State.UNKILLABLE, State.DONE),  # not without the reaping
        (State.DONE, State.RUNNING),
        (State.RUNNING, State.RUNNING),
    ],
)
def test_what_the_table_does_not_have_is_refused(before: State, after: State) -> None:
    with pytest.raises(RuntimeError, match=rf"^a child that is {before.name} cannot become {after.name}$"):
        follow(before, after)


def test_every_state_can_be_reached_and_from_every_state_the_end() -> None:
    assert reachable(State.RUNNING) == set(State)
    assert all(reachable(state) & ENDS for state in State)
    assert {state for state in State if not TRANSITIONS[state].next} == ENDS


def test_a_life_never_goes_back_but_to_reap_what_was_unkillable() -> None:
    order = list(State)
    back = [
        (before, after)
        for before, step in TRANSITIONS.items()
        for after in step.next
        if order.index(after) <= order.index(before)
    ]
    assert back == [(State.UNKILLABLE, State.REAP)]


def test_a_lost_child_is_abandoned_from_any_state_before_its_end() -> None:
    """F35. The diagram leaves these arrows out and the table says "before DONE"."""
    assert {state for state in State if State.ABANDONED in TRANSITIONS[state].next} == set(State) - SETTLED


def test_a_state_that_waits_for_somebody_else_is_bounded() -> None:
    """Supervision, 4.3 rule 3. RUNNING lasts as long as it likes; an unkillable child is done."""
    waiting = {State.FLUSH, State.EOF, State.TERM, State.KILL, State.DRAIN, State.REAP}
    assert {state for state in State if TRANSITIONS[state].grace is not None} == waiting
    assert {TRANSITIONS[state].grace for state in waiting} == set(GRACES)


def test_the_ladder_stands_in_the_order_of_the_specification() -> None:
    """MCP 2025-11-25, basic/lifecycle, "Shutdown": close stdin, wait, SIGTERM, wait, SIGKILL."""
    assert list(LADDER) == [State.FLUSH, State.EOF, State.TERM, State.KILL]
    assert list(LADDER.values()) == [Phase.SELF, Phase.EOF, Phase.TERM, Phase.KILL]
    assert State.FLUSH in TRANSITIONS[State.RUNNING].next
    for before, after in itertools.pairwise(LADDER):
        assert after in TRANSITIONS[before].next


# The documentation.


def test_the_documentation_shows_the_table() -> None:
    text = DOCUMENT.read_text("utf-8")
    assert updated(text) == text, "docs/supervisor.md: run `python -m tests.supervisor.lifecycle_docs`"


def test_the_drawing_has_every_state_and_every_way_between_them() -> None:
    text = drawn()
    for before, step in TRANSITIONS.items():
        assert f"| {before.name} | {step.what} |" in text
        for after, reason in step.next.items():
            assert (f"{before.name} --> {after.name} : {reason}\n" in text) == (after is not State.ABANDONED)


@pytest.mark.parametrize("state", list(State))
def test_what_is_drawn_does_not_break_the_drawing(state: State) -> None:
    """Colons and semicolons end a label in Mermaid, a bar ends a cell in Markdown."""
    assert not any(set(reason) & set(":;#|\n") or not reason for reason in TRANSITIONS[state].next.values())
    assert not set(TRANSITIONS[state].what) & set("|\n")


def test_a_document_without_the_markers_is_not_touched() -> None:
    with pytest.raises(ValueError, match="expected the markers"):
        updated("# The supervisor library\n")
