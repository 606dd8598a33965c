"""Whatever happens to a child, in whatever order: it lives by the table, and its end is bounded and complete.

F39, with the rules of supervision, 4.3. The process is played and the time is virtual; pipes and event loop
are real.
"""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from stdio_broker.supervisor import (
    Child,
    ChildGone,
    Config,
    EndOfOutput,
    ExitStatus,
    NotExited,
    OversizeLine,
    Phase,
    lifecycle,
    start,
)
from stdio_broker.supervisor import child as child_module
from stdio_broker.supervisor.child import LAST_GROUP_POLL
from stdio_broker.supervisor.lifecycle import LADDER, TRANSITIONS, Grace, State
from stdio_broker.supervisor.spawner import Spawner
from tests.supervisor.fakes import FakeProcess, FakeWatch
from tests.support.clock import VirtualClockLoop

#: Lives per run; more find more.
EXAMPLES = int(os.environ.get("STDIO_BROKER_LIVES", "100"))

EOF = None
TERM, CONT, KILL = signal.SIGTERM, signal.SIGCONT, signal.SIGKILL

PLAYED = Config(
    cmd=["played"],
    flush_grace=0.5,
    eof_grace=2.0,
    stop_grace=5.0,
    kill_grace=3.0,
    drain_grace=0.25,
    stdin_buffer_bytes=30_000,
    stdout_buffer_bytes=30_000,
)
GRACES: dict[Grace, float] = {name: getattr(PLAYED, name) for name in lifecycle.GRACES}

#: The whole way down, and the group that is waited for at its end.
WORST = sum(GRACES.values()) + GRACES["kill_grace"] + LAST_GROUP_POLL

#: A turn ends when everything is quiet, which takes this long: in virtual time nothing else takes any.
MOMENT = 1.1e-6
EPSILON = 1e-4

SECONDS = st.sampled_from([0.0, 0.003, 0.1, 0.3, 1.0, 2.9, 8.0])
REACTION = st.one_of(st.none(), SECONDS)

#: Of a caller of `stop`, who seldom is in a hurry: most steps would be skipped.
HURRY = st.sampled_from([None, None, None, None, 0.0, 0.3, 1.0, 8.0])

#: To SIGKILL: at once, as a rule; while the pipes are drained; never.
DEATH = st.sampled_from([0.0, 0.0, 0.003, 2.9, 3.1, None])

#: Two of the longest fill a pipe. The writer copies what is below 64 KiB.
LENGTH = st.sampled_from([0, 1, 100, 50_000, 70_000])

#: More than the pipe and what we keep of it.
FLOOD = 150_000

#: What an example says at most: all of it must fit into what is kept of unread output.
MOST_SAID = 900_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The moment at which a state was entered.

    Attributes:
        at: When.
        graces: What was left of the graces by then, after all that had been asked for.
        hurried_at: When somebody had last asked for less.
        exited: Whether the exit had been noticed.
        unwritten: Bytes that had not reached the child.
        held: Whether a pipe was open at the far end.
    """

    state: State
    at: float = 0.0
    graces: dict[Grace, float] = field(default_factory=lambda: dict(GRACES))
    hurried_at: float = 0.0
    exited: bool = False
    unwritten: int = 0
    held: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What was true when the child was announced as done."""

    at: float
    reaped: bool
    ours_open: int
    output_ended: bool
    input_closed: bool
    complaints: bytes
    group_alive: bool


class ChildMachine(RuleBasedStateMachine):
    """A child, and everything that its users, its process and the clock can do to it."""

    child: Child
    process: FakeProcess

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualClockLoop()
        self.patch = pytest.MonkeyPatch()
        self.life = [Entry(state=State.RUNNING)]
        self.graces = dict(GRACES)
        self.hurried_at = 0.0
        self.asked_at: float | None = None  # when somebody first wanted it to end
        self.quiet = True  # nothing is about to happen without the clock or a rule
        self.settling = True  # the next rule is followed by a turn of the event loop
        self.end: End | None = None
        self.bounds = dict(GRACES)
        self.stops: dict[asyncio.Task[ExitStatus], bool] = {}  # and whether it was cancelled
        self.begun: set[asyncio.Task[ExitStatus] | None] = set()
        self.sends: list[asyncio.Task[None]] = []
        self.reader: asyncio.Task[None] | None = None
        self.accepted: list[bytes] = []
        self.received: list[bytes] = []
        self.complaints: list[str] = []
        self.lines = 0
        self.output = 0  # bytes that it wanted to write

    @initialize(
        reactions=st.fixed_dictionaries({EOF: REACTION, TERM: REACTION, KILL: DEATH}),
        reads=st.booleans(),
        pace=st.sampled_from([0.0, 0.1]),
        flooded=st.booleans(),
        talkative=st.booleans(),
        stopped=st.booleans(),
        holds_pipes=st.booleans(),
        group_lives_for=st.sampled_from([0.0, 0.003, 0.5, 8.0]),
        refused=st.sampled_from([frozenset(), frozenset(), frozenset({TERM}), frozenset({TERM, KILL})]),
        orphans=st.sampled_from(["kill", "leave"]),
    )
    def starts(
        self,
        *,
        reactions: dict[signal.Signals | None, float | None],
        reads: bool,
        pace: float,
        flooded: bool,
        talkative: bool,
        stopped: bool,
        holds_pipes: bool,
        group_lives_for: float,
        refused: frozenset[signal.Signals],
        orphans: str,
    ) -> None:
        async def begin() -> None:
            self.process = FakeProcess(
                {cause: delay for cause, delay in reactions.items() if delay is not None},
                reads=reads,
                pace=pace,
                holds_pipes=holds_pipes,
                group_lives_for=group_lives_for,
                refused=refused,
            )
            watch = type("Watch", (FakeWatch,), {"process": self.process})
            self.patch.setattr(child_module, "PidfdWatch", watch)
            self.child = await start(
                config, spawner=cast("Spawner", self.process), on_done=lambda _: self._announced()
            )

        config = replace(
            PLAYED, on_stderr=self.complaints.append, orphans="kill" if orphans == "kill" else "leave"
        )
        self.sweeps = orphans == "kill"
        self._record_states()
        self.loop.run_until_complete(begin())
        if flooded:
            self.a_line_is_sent(FLOOD)
        if talkative:
            for _ in range(3):
                self.it_writes_a_line(FLOOD // 3)
        if stopped:  # else few lives would still have much of the way down when it begins
            self.it_is_stopped(None, None)
        self._turn()

    # What its users do.

    @rule(length=LENGTH)
    def a_line_is_sent(self, length: int) -> None:
        self.sends.append(self.loop.create_task(self._send(self._line(length))))
        self._settle()

    @rule(length=LENGTH)
    def a_line_is_sent_without_waiting(self, length: int) -> None:
        line = self._line(length)
        if self.child.stdin.send_nowait(line):
            self.accepted.append(line + b"\n")
        self._settle()

    @precondition(lambda self: any(not task.done() for task in self.sends))
    @rule()
    def the_first_that_waits_to_send_gives_up(self) -> None:
        next(task for task in self.sends if not task.done()).cancel()
        self._settle()

    @rule(by_us=st.booleans())
    def stdin_is_closed(self, *, by_us: bool) -> None:
        if by_us:
            self.child.stdin.close()
        else:
            self.process.close_stdin()
        self._settle()

    @precondition(lambda self: self.reader is None or self.reader.done())
    @rule(many=st.booleans())
    def somebody_reads(self, *, many: bool) -> None:
        self.reader = self.loop.create_task(self._receive_many() if many else self._receive())
        self._settle()

    @precondition(lambda self: self.reader is not None and not self.reader.done())
    @rule()
    def the_reader_gives_up(self) -> None:
        assert self.reader is not None
        self.reader.cancel()
        self._settle()

    @rule(eof_grace=HURRY, stop_grace=HURRY)
    def it_is_stopped(self, eof_grace: float | None, stop_grace: float | None) -> None:
        self.stops[self.loop.create_task(self._stop(eof_grace, stop_grace))] = False
        self._settle()

    @precondition(lambda self: self.asked_at is not None)
    @rule(whom=st.sampled_from(["its first caller", "its last caller", "its task"]))
    def the_stop_is_cancelled(self, whom: str) -> None:
        """Its task: what `asyncio.run` does at its end."""
        callers = [task for task in self.stops if self._can_be_cancelled(task)]
        if whom == "its task" or not callers:
            hurried = self.child._task.cancel()  # noqa: SLF001
        else:
            task = callers[0 if whom == "its first caller" else -1]
            self.stops[task] = hurried = task.cancel()
        if hurried:
            self._hurried(0.0, 0.0)
        self._settle()

    # What the process does.

    @precondition(lambda self: self.output < MOST_SAID)
    @rule(length=LENGTH)
    def it_writes_a_line(self, length: int) -> None:
        self.output += length
        self.process.write(self._line(length) + b"\n")
        self._settle()

    @rule()
    def it_writes_half_a_line(self) -> None:
        self.process.write(b"half")
        self._settle()

    @rule()
    def it_complains(self) -> None:
        self.process.complain(self._line(10) + b"\n")
        self._settle()

    @rule(on=st.booleans())
    def it_begins_or_ceases_to_read(self, *, on: bool) -> None:
        self.process.read_on(on=on)
        self._settle()

    @rule(name=st.sampled_from(["stdout", "stderr"]))
    def one_of_its_pipes_is_let_go(self, name: str) -> None:
        """By itself while it runs, by those who have inherited it afterwards."""
        self.process.let_go(name)
        self._settle()

    @rule(code=st.sampled_from([0, 1, None]))
    def it_exits(self, code: int | None) -> None:
        """None: somebody else has killed it."""
        self.process.exit(code, KILL if code is None else None)
        self._settle()

    # What the clock does.

    @rule(seconds=SECONDS)
    def time_passes(self, seconds: float) -> None:
        self._turn(seconds)

    @rule()
    def the_next_two_things_happen_in_one_turn(self) -> None:
        self.settling = False

    # What holds at any time.

    @invariant()
    def every_rule_holds(self) -> None:
        """One invariant, because a report lists each of them after each step."""
        self.the_life_follows_the_table()
        self.nothing_of_ours_breaks()
        self.deadlines_only_shrink()
        self.no_state_is_left_too_early_or_too_late()
        self.no_state_waits_for_what_is_there()
        self.every_signal_belongs_to_its_state_and_its_moment()
        self.it_is_left_in_peace_until_somebody_stops_it_or_it_exits()
        self.facts_are_told_as_they_are()
        self.the_lines_that_arrive_are_those_that_were_sent()
        self.a_child_that_shall_end_is_never_blocked_by_us()
        self.callers_of_stop_wait_for_the_end_and_all_hear_the_same()
        self.done_means_that_nothing_is_left()
        self.the_status_tells_the_whole_truth()

    def the_life_follows_the_table(self) -> None:
        states = [entry.state for entry in self.life]
        assert self.child.state is states[-1]
        assert all(after in TRANSITIONS[before].next for before, after in pairwise(states))

    def nothing_of_ours_breaks(self) -> None:
        """A signal or a second reaping after the reaping is refused by the played process, for one."""
        task = self.child._task  # noqa: SLF001
        broken = task.exception() if task.done() and not task.cancelled() else None
        assert broken is None
        assert self.child.state is not State.ABANDONED
        assert not self.process.discarded

    def deadlines_only_shrink(self) -> None:
        """Rule 1. Never longer than before, and never longer than anybody has asked for."""
        for state, step in TRANSITIONS.items():
            if step.grace is not None:
                now = self.child._ladder.grace(state)  # noqa: SLF001
                assert now <= self.bounds[step.grace]
                self.bounds[step.grace] = now
        if self.quiet:
            assert self.bounds == self.graces

    def no_state_is_left_too_early_or_too_late(self) -> None:
        """Rules 2 and 3. Whoever is cancelled leaves nothing but grace 0: SIGKILL comes at that moment."""
        for before, after in pairwise(self.life):
            self._check_cause(before, after)
            self._check_times(before, after)
        last = self.life[-1]
        grace = TRANSITIONS[last.state].grace
        if self.quiet and grace is not None:
            slack = LAST_GROUP_POLL if last.state is State.REAP else 0.0
            latest = max(last.at + self.graces[grace] + slack, self.hurried_at)
            assert self.loop.time() <= latest + EPSILON

    def no_state_waits_for_what_is_there(self) -> None:
        if self.quiet and self.child.state is State.FLUSH:
            assert self.child.stdin.unwritten_bytes
        if self.quiet and self.child.state is State.DRAIN:
            assert self.process.holds_any_pipe
        if self.quiet and self.child.state in LADDER:
            assert not self.process.exited

    def every_signal_belongs_to_its_state_and_its_moment(self) -> None:
        """Rule 4, and the order of MCP 2025-11-25, basic/lifecycle, "Shutdown"."""
        expected: list[tuple[float, signal.Signals]] = []
        polite = [TERM] if TERM in self.process.refused else [TERM, CONT]
        belonging = {State.TERM: polite, State.KILL: [KILL], State.SWEEP: [KILL]}
        for entry in self.life:
            expected += [(entry.at, number) for number in belonging.get(entry.state, [])]
        assert self.process.attempts == expected

    def it_is_left_in_peace_until_somebody_stops_it_or_it_exits(self) -> None:
        if self.quiet:
            at_peace = self.asked_at is None and not self.process.exited
            assert (self.child.state is State.RUNNING) == at_peace

    def facts_are_told_as_they_are(self) -> None:
        child = self.child
        done = child.done.is_set()
        assert (child.pid is None) == self.process.reaped
        if self.quiet:
            assert child.exited.is_set() == self.process.exited
            assert done == (child.state in {State.DONE, State.UNKILLABLE})
            if child.state not in {State.RUNNING, State.FLUSH}:
                assert child.stdin.closed
        if not done:
            with pytest.raises(NotExited):
                child.exit_status()

    def the_lines_that_arrive_are_those_that_were_sent(self) -> None:
        sent = b"".join(self.accepted)
        assert sent.startswith(self.process.arrived)

    def a_child_that_shall_end_is_never_blocked_by_us(self) -> None:
        if self.quiet and self.asked_at is not None:
            assert not self.process.blocked

    def callers_of_stop_wait_for_the_end_and_all_hear_the_same(self) -> None:
        for task, cancelled in self.stops.items():
            if task.done():
                assert self.child.done.is_set()
                assert task.cancelled() == cancelled
                assert cancelled or task.result() == self.child.exit_status()
        if self.quiet and self.child.done.is_set():
            assert all(task.done() for task in (*self.stops, *self.sends))

    def done_means_that_nothing_is_left(self) -> None:
        """Rule 5; and rule 3: no longer than all graces together."""
        if self.end is None:
            assert not (self.quiet and self.child.done.is_set())
            return
        status = self.child.exit_status()
        end = self.end
        assert self.asked_at is None or end.at <= self.asked_at + WORST + EPSILON
        killed = status.phase is not Phase.UNKILLABLE
        assert end.reaped == killed
        # What is left open of one that cannot be killed tells of its end.
        assert end.ours_open == (0 if killed else 1)
        assert end.output_ended
        assert end.input_closed
        assert end.complaints == bytes(self.process.complained)
        assert status.survivors == (end.group_alive and self.sweeps)
        if self.process.reaped:
            assert self.process.ours_open() == set()

    def the_status_tells_the_whole_truth(self) -> None:
        if not self.child.done.is_set():
            return
        status = self.child.exit_status()
        states = [entry.state for entry in self.life]
        if State.UNKILLABLE in states:
            assert (status.code, status.signal, status.phase) == (None, None, Phase.UNKILLABLE)
        else:
            waited = self.process.waited
            assert waited is not None
            assert (status.code, status.signal) == (waited.code, waited.signal)
            assert status.phase is [Phase.SELF, *(LADDER[state] for state in states if state in LADDER)][-1]
        assert status.stdout_discarded == 0
        assert status.stderr_dropped == 0
        drained, after = next(pair for pair in pairwise(self.life) if pair[0].state is State.DRAIN)
        if status.pipes_held:
            assert after.at >= drained.at + GRACES["drain_grace"] - EPSILON
        else:
            assert not after.held
        if self.process.exited:
            written = sum(len(line) for line in self.accepted) - status.stdin_dropped
            assert len(self.process.arrived) == written

    def teardown(self) -> None:
        try:
            if hasattr(self, "child"):
                self._see_the_end()
        finally:
            self._clean_up()

    def _see_the_end(self) -> None:
        """Rule 3: it has an end, and a bounded one. Then nothing that it has said may be missing."""
        self.settling = True
        self.it_is_stopped(None, None)
        self._turn(WORST)
        assert self.child.done.is_set()
        self.every_rule_holds()
        self.loop.run_until_complete(self._receive_the_rest())
        said = bytes(self.process.said)
        assert self.received == (said.removesuffix(b"\n").split(b"\n") if said else [])
        if not self.process.exited:
            self.process.exit(number=KILL)
            self._turn()
        assert self.process.reaped
        assert self.child.state is State.DONE
        self.every_rule_holds()

    def _clean_up(self) -> None:
        """Whatever has failed: end what is left, so that nothing of it is blamed on the next example."""

        async def finish() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.sleep(WORST)
            assert all(task.done() for task in tasks)

        try:
            if hasattr(self, "process"):
                self.process.exit(number=KILL)
                self.loop.run_until_complete(finish())
                self.process.end()
        finally:
            self.patch.undo()
            self.loop.close()

    def _turn(self, seconds: float = 0.0) -> None:
        """Let time pass, and then everything become quiet."""
        self.settling = self.quiet = True
        self.loop.run_until_complete(asyncio.sleep(seconds + MOMENT))

    def _settle(self) -> None:
        if self.settling:
            self._turn()
        else:
            self.quiet = False
            self.settling = True

    def _line(self, length: int) -> bytes:
        """Return a line that is like no other."""
        self.lines += 1
        return b"%d:" % self.lines + b"x" * length

    def _hurried(self, eof_grace: float | None, stop_grace: float | None) -> None:
        """Note what somebody has asked for."""
        if self.asked_at is None:
            self.asked_at = self.loop.time()
        limits: dict[Grace, float | None] = {
            "flush_grace": eof_grace,
            "eof_grace": eof_grace,
            "stop_grace": stop_grace,
        }
        for name, limit in limits.items():
            if limit is not None and limit < self.graces[name]:
                self.graces[name] = limit
                self.hurried_at = self.loop.time()

    async def _send(self, line: bytes) -> None:
        with contextlib.suppress(ChildGone):
            await self.child.stdin.send(line)
            self.accepted.append(line + b"\n")

    async def _receive(self) -> None:
        with contextlib.suppress(EndOfOutput):
            self.received.append(await self.child.stdout.receive())

    async def _receive_many(self) -> None:
        with contextlib.suppress(EndOfOutput):
            for line in await self.child.stdout.receive_many():
                assert not isinstance(line, OversizeLine)
                self.received.append(line)

    async def _receive_the_rest(self) -> None:
        async for line in self.child.stdout:
            self.received.append(line)

    async def _stop(self, eof_grace: float | None, stop_grace: float | None) -> ExitStatus:
        self.begun.add(asyncio.current_task())
        self._hurried(eof_grace, stop_grace)
        return await self.child.stop(eof_grace=eof_grace, stop_grace=stop_grace)

    def _can_be_cancelled(self, task: asyncio.Task[ExitStatus]) -> bool:
        # Only once each: who is cancelled again does not wait for the end any more.
        return task in self.begun and not task.done() and not self.stops[task]

    def _record_states(self) -> None:
        enter = Child._enter  # noqa: SLF001

        def recorded(child: Child, state: State) -> None:
            enter(child, state)
            entry = Entry(
                state=state,
                at=self.loop.time(),
                graces=dict(self.graces),
                hurried_at=self.hurried_at,
                exited=child.exited.is_set(),
                unwritten=child.stdin.unwritten_bytes,
                held=self.process.holds_any_pipe,
            )
            self.life.append(entry)

        self.patch.setattr(Child, "_enter", recorded)

    def _announced(self) -> None:
        assert self.end is None
        self.end = End(
            at=self.loop.time(),
            reaped=self.process.reaped,
            ours_open=len(self.process.ours_open()),
            output_ended=self.child.stdout.ended,
            input_closed=self.child.stdin.closed,
            complaints="".join(f"{line}\n" for line in self.complaints).encode(),
            group_alive=self.process.reaped and self.process.group_alive(),
        )

    def _check_cause(self, before: Entry, after: Entry) -> None:
        if after.state is State.EXITED:
            assert after.exited
        if after.state is State.TERM:
            assert after.graces["stop_grace"] > 0
        if (before.state, after.state) == (State.EOF, State.KILL):
            assert after.graces["stop_grace"] == 0
        if before.state is State.EXITED:
            assert (after.state is State.SWEEP) == self.sweeps
        if before.state is State.KILL:
            assert after.exited == (after.state is State.EXITED)
        if before.state is State.DRAIN:
            assert after.exited == (after.state is State.REAP)

    def _check_times(self, before: Entry, after: Entry) -> None:
        if (name := TRANSITIONS[before.state].grace) is None:
            return
        slack = LAST_GROUP_POLL if before.state is State.REAP else 0.0
        over = before.at + after.graces[name]
        assert after.at <= max(over + slack, after.hurried_at) + EPSILON
        cut_short = {
            State.FLUSH: not after.unwritten,
            State.DRAIN: not after.held,
            State.REAP: True,  # the group is gone; `survivors` would say otherwise
        }
        if after.state is not State.EXITED and not cut_short.get(before.state, False):
            assert after.at >= over - EPSILON


def test_whatever_happens_a_child_lives_by_the_table_and_its_end_is_bounded_and_complete() -> None:
    """F39; supervision, 4.3."""
    run_state_machine_as_test(
        ChildMachine, settings=settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
    )
