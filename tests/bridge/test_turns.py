"""Whose turn it is, where only one piece of work shall run at a time. All of it is ours (`turns`)."""

from __future__ import annotations

import asyncio

from stdio_broker.bridge.turns import Turns
from tests.bridge.legacy_rig import in_virtual_time


def _turns(*, taken: bool = True) -> tuple[Turns[str], list[str]]:
    started: list[str] = []
    return Turns(started.append, taken=taken, patience=5.0), started


@in_virtual_time
async def test_everything_runs_at_once_until_turns_are_taken() -> None:
    turns, started = _turns(taken=False)
    assert turns.enter("a")
    assert turns.enter_again("b", at_once=False)
    turns.taken = True
    assert not turns.enter("c")
    turns.leave("a")
    assert started == []
    turns.leave("b")
    assert started == ["c"]


@in_virtual_time
async def test_what_was_begun_before_starts_first_then_the_rest_in_its_order() -> None:
    turns, started = _turns()
    assert turns.enter("running")
    assert not turns.enter("new 1")
    assert not turns.enter("new 2")
    assert not turns.enter_again("begun 1", at_once=False)
    assert not turns.enter_again("begun 2", at_once=False)
    assert len(turns) == 5
    for done in ("running", "begun 1", "begun 2", "new 1", "new 2"):
        turns.leave(done)
    assert started == ["begun 1", "begun 2", "new 1", "new 2"]
    assert len(turns) == 0


@in_virtual_time
async def test_what_was_begun_before_waits_so_long_and_no_longer() -> None:
    turns, started = _turns()
    turns.enter("running")
    turns.enter("new")
    turns.enter_again("begun", at_once=False)
    await asyncio.sleep(4.9)
    assert started == []
    await asyncio.sleep(0.2)
    assert started == ["begun"]
    turns.leave("running")
    assert started == ["begun"], "another one runs still"
    turns.leave("begun")
    assert started == ["begun", "new"]


@in_virtual_time
async def test_what_runs_whatever_we_do_does_not_wait() -> None:
    turns, started = _turns()
    turns.enter("running")
    assert turns.enter_again("begun", at_once=True)
    turns.enter("new")
    turns.leave("running")
    assert started == []
    turns.leave("begun")
    assert started == ["new"]


@in_virtual_time
async def test_what_leaves_while_it_waits_is_not_started() -> None:
    turns, started = _turns()
    turns.enter("running")
    turns.enter("new")
    turns.enter_again("begun", at_once=False)
    turns.leave("new")
    turns.leave("begun")
    turns.leave("never entered")
    await asyncio.sleep(6)
    turns.leave("running")
    assert started == []


@in_virtual_time
async def test_nothing_starts_after_the_end() -> None:
    turns, started = _turns()
    turns.enter("running")
    turns.enter("new")
    turns.enter_again("begun", at_once=False)
    turns.clear()
    await asyncio.sleep(6)
    turns.leave("running")
    assert started == []
    assert len(turns) == 0
