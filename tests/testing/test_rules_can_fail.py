# ruff: noqa: SLF001 - what is broken here lies inside
"""Every rule of the contract can fail: a fake child that breaks it does not pass."""

import asyncio
import contextlib
import dataclasses
import signal
from collections.abc import Callable
from typing import TypeAlias

import pytest

from stdio_broker.errors import BrokerError, ChildExitError
from stdio_broker.supervisor import ExitStatus, Phase
from stdio_broker.supervisor import ladder as ladder_module
from stdio_broker.supervisor.ladder import Ladder
from stdio_broker.supervisor.lifecycle import LADDER, State
from stdio_broker.supervisor.splitter import LineSplitter, PieceSplitter
from stdio_broker.supervisor.stderr import StderrPump
from stdio_broker.testing import ChildContract, FakeChild, FakeStdin, FakeStdout
from stdio_broker.testing import life as life_module
from stdio_broker.testing import output as output_module
from stdio_broker.testing import stdin as stdin_module
from stdio_broker.testing.life import Life
from tests.support.clock import run_in_virtual_time

from .test_contract import TestFakeChild as FakeContract

Patch: TypeAlias = pytest.MonkeyPatch
Change: TypeAlias = Callable[[Patch], None]

#: How a rule fails. What would wait for ever runs into the time limit of the rule.
FAILURES = (AssertionError, TimeoutError, BrokerError, ExceptionGroup)

RULES = {name for name in dir(ChildContract) if name.startswith("test_")}

CHANGES: list[tuple[str, Change]] = []


def breaks(*rules: str) -> Callable[[Change], Change]:
    """Name the rules, without their `test_`, that a fake child with this change does not keep."""

    def register(change: Change) -> Change:
        CHANGES.extend((f"test_{rule}", change) for rule in rules)
        return change

    return register


# stdin


@breaks("lines_arrive_in_the_order_in_which_they_were_sent")
def lines_are_stripped_when_sent(patch: Patch) -> None:
    accept = FakeStdin._accept
    patch.setattr(FakeStdin, "_accept", lambda self, line: accept(self, line.strip()))


@breaks("lines_arrive_in_the_order_in_which_they_were_sent")
def a_line_that_does_not_wait_overtakes(patch: Patch) -> None:
    async def send(self: FakeStdin, line: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._accept, line)

    patch.setattr(FakeStdin, "send", send)


@breaks("a_line_with_a_newline_is_refused_whole")
def a_newline_is_no_problem(patch: Patch) -> None:
    # The second is for the echo, which would complain instead.
    for module in (stdin_module, output_module):
        patch.setattr(module, "refuse_newline", lambda _: None)


@breaks("a_line_longer_than_every_buffer_arrives_whole")
def a_line_is_cut_to_the_size_of_the_buffer(patch: Patch) -> None:
    accept = FakeStdin._accept
    patch.setattr(FakeStdin, "_accept", lambda self, line: accept(self, line[:1000]))


@breaks("it_is_ready_when_a_line_would_be_taken_at_once")
def it_is_always_ready(patch: Patch) -> None:
    patch.setattr(FakeStdin, "ready", property(lambda _: True))


@breaks("many_senders_never_interleave_their_lines")
def a_line_is_sent_in_two_pieces(patch: Patch) -> None:
    whole = FakeStdin.send

    async def send(self: FakeStdin, line: bytes) -> None:
        for piece in (line[:1000], line[1000:]):
            await whole(self, piece)
            await asyncio.sleep(0)

    patch.setattr(FakeStdin, "send", send)


@breaks("who_sends_waits_while_nobody_reads_what_the_child_says")
def unread_output_does_not_stop_the_reading(patch: Patch) -> None:
    patch.setattr(output_module._MemoryPipe, "pause", lambda _: None)


@breaks("who_sends_waits_while_nobody_reads_what_the_child_says")
def nobody_ever_waits(patch: Patch) -> None:
    patch.setattr(FakeStdin, "_must_wait", property(lambda _: False))


@breaks("who_sends_waits_while_nobody_reads_what_the_child_says")
def a_line_that_does_not_wait_goes_over_the_mark(patch: Patch) -> None:
    def send_nowait(self: FakeStdin, line: bytes) -> bool:
        full = self.unwritten_bytes > 5000
        self._accept(line)
        return not full

    patch.setattr(FakeStdin, "send_nowait", send_nowait)


@breaks("who_waits_first_sends_first_and_nobody_overtakes")
def who_waits_last_is_woken_first(patch: Patch) -> None:
    def wake_last(self: FakeStdin) -> None:
        if self._queue and self.unwritten_bytes < self._buffer_bytes:
            stdin_module._wake(self._queue[-1])

    patch.setattr(FakeStdin, "_wake_first", wake_last)


@breaks("a_send_that_is_cancelled_while_it_waits_sends_nothing")
def a_cancelled_line_is_sent_all_the_same(patch: Patch) -> None:
    whole = FakeStdin.send

    async def send(self: FakeStdin, line: bytes) -> None:
        try:
            await whole(self, line)
        except asyncio.CancelledError:
            self._accept(line)
            raise

    patch.setattr(FakeStdin, "send", send)


@breaks("a_send_that_is_cancelled_while_it_waits_sends_nothing")
def who_is_cancelled_keeps_its_turn(patch: Patch) -> None:
    async def wait_for_turn(self: FakeStdin) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        await waiter
        self._queue.remove(waiter)

    patch.setattr(FakeStdin, "_wait_for_turn", wait_for_turn)


@breaks(
    "closing_refuses_who_waits_and_counts_what_it_drops",
    "a_child_that_does_not_read_gets_its_eof_after_the_flush_grace",
)
def who_waits_is_not_told_that_stdin_is_closed(patch: Patch) -> None:
    patch.setattr(stdin_module, "_wake", lambda _: None)


@breaks(
    "closing_refuses_who_waits_and_counts_what_it_drops",
    "a_child_that_does_not_read_gets_its_eof_after_the_flush_grace",
)
def what_is_dropped_is_not_counted(patch: Patch) -> None:
    patch.setattr(FakeStdin, "dropped_bytes", 0)


@breaks("closing_is_eof_and_not_a_stop")
def closing_stdin_stops_the_child(patch: Patch) -> None:
    read_eof = FakeChild._read_eof

    def stop(self: FakeChild) -> None:
        self._life.stop(eof_grace=None, stop_grace=None)
        read_eof(self)

    patch.setattr(FakeChild, "_read_eof", stop)


@breaks(
    "a_closed_stdin_takes_nothing",
    "a_child_that_has_ended_takes_nothing",
    "a_child_that_closes_its_stdin_takes_nothing_and_lives_on",
)
def a_closed_stdin_says_nothing(patch: Patch) -> None:
    open_send = FakeStdin.send

    async def send(self: FakeStdin, line: bytes) -> None:
        if not self.closed:
            await open_send(self, line)

    patch.setattr(FakeStdin, "send", send)


@breaks("a_child_that_closes_its_stdin_takes_nothing_and_lives_on")
def a_child_that_closes_its_stdin_ends(patch: Patch) -> None:
    patch.setattr(FakeStdin, "shut", FakeStdin.close)


@breaks("what_was_accepted_reaches_the_child_before_its_eof")
def a_stop_closes_stdin_at_once(patch: Patch) -> None:
    take_step = Life._take_step

    def close(self: Life) -> None:
        self._child.stdin.close()
        take_step(self)

    patch.setattr(Life, "_take_step", close)


@breaks("a_child_that_does_not_read_gets_its_eof_after_the_flush_grace")
def flushing_has_no_end(patch: Patch) -> None:
    grace = Ladder.grace
    patch.setattr(Ladder, "grace", lambda self, state: 300 if state is State.FLUSH else grace(self, state))


@breaks("an_idle_stdin_owes_nothing")
def the_flush_grace_is_always_waited_for(patch: Patch) -> None:
    patch.setattr(Life, "_step_is_over", lambda self: self._ended is not None)


# stdout and stderr


@breaks("lines_come_as_they_are_and_the_last_one_needs_no_newline")
def lines_are_stripped_when_received(patch: Patch) -> None:
    data = FakeStdout._data
    patch.setattr(FakeStdout, "_data", lambda self, chunk: data(self, chunk.replace(b"\r\n", b"\n")))


@breaks(
    "lines_come_as_they_are_and_the_last_one_needs_no_newline",
    "output_that_nobody_has_read_survives_the_exit",
)
def the_last_line_needs_a_newline(patch: Patch) -> None:
    patch.setattr(LineSplitter, "finish", lambda _: None)


@breaks("after_the_last_line_comes_the_end_for_ever")
def after_the_end_one_waits_for_ever(patch: Patch) -> None:
    wait = FakeStdout._wait
    ends: list[FakeStdout] = []

    async def wait_for_ever(self: FakeStdout) -> None:
        if self in ends:
            await asyncio.Event().wait()
        if self.ended:
            ends.append(self)
        await wait(self)

    patch.setattr(FakeStdout, "_wait", wait_for_ever)


@breaks("batches_are_never_empty_and_hold_the_same_lines")
def a_batch_may_be_empty(patch: Patch) -> None:
    async def receive_many(self: FakeStdout) -> list[object]:
        return []

    patch.setattr(FakeStdout, "receive_many", receive_many)


@breaks("a_line_over_the_limit_costs_only_itself", "a_line_over_the_limit_has_its_place_in_a_batch")
def a_line_may_be_longer_by_one(patch: Patch) -> None:
    init = LineSplitter.__init__
    patch.setattr(LineSplitter, "__init__", lambda self, limit: init(self, limit + 1))


@breaks("a_line_of_just_the_limit_is_a_line")
def the_newline_counts(patch: Patch) -> None:
    init = LineSplitter.__init__
    patch.setattr(LineSplitter, "__init__", lambda self, limit: init(self, limit - 1))


@breaks("a_line_over_the_limit_costs_only_itself", "a_line_over_the_limit_has_its_place_in_a_batch")
def a_line_that_is_too_long_takes_the_next_with_it(patch: Patch) -> None:
    feed = LineSplitter.feed

    def skip(self: LineSplitter, chunk: bytes) -> list[object]:
        lines = feed(self, chunk)
        return [line for before, line in zip([b"", *lines], lines, strict=False) if isinstance(before, bytes)]

    patch.setattr(LineSplitter, "feed", skip)


@breaks("only_one_task_may_receive")
def a_second_task_takes_over(patch: Patch) -> None:
    wait = FakeStdout._wait

    async def take_over(self: FakeStdout) -> None:
        self._waiter = None
        await wait(self)

    patch.setattr(FakeStdout, "_wait", take_over)


@breaks("a_receive_that_is_cancelled_loses_nothing")
def a_cancelled_receive_takes_the_next_line_with_it(patch: Patch) -> None:
    wait = FakeStdout._wait

    async def wait_and_lose(self: FakeStdout) -> None:
        try:
            await wait(self)
        except asyncio.CancelledError:
            patch.setattr(FakeStdout, "feed", lambda *_: None)
            raise

    patch.setattr(FakeStdout, "_wait", wait_and_lose)


@breaks(
    "lines_are_handed_over_in_order_and_a_long_one_is_returned",
    "a_line_is_handed_over_though_nobody_is_woken_for_it",
    "lines_may_be_had_in_one_way_after_another",
)
def a_long_line_is_handed_over_like_any_other(patch: Patch) -> None:
    forward = FakeStdout.forward

    async def forward_all(self: FakeStdout, take: Callable[[object], None], *, below_bytes: int) -> bytes:
        return await forward(self, take, below_bytes=1000 * below_bytes)

    patch.setattr(FakeStdout, "forward", forward_all)


@breaks("a_line_over_the_limit_is_handed_over_in_its_place")
def a_line_over_the_limit_is_not_handed_over(patch: Patch) -> None:
    forward = FakeStdout.forward
    patch.setattr(
        FakeStdout,
        "forward",
        lambda self, take, below_bytes: forward(
            self, lambda line: take(line) if isinstance(line, bytes) else None, below_bytes=below_bytes
        ),
    )


@breaks("what_a_taker_raises_is_raised_to_whoever_gave_it_and_costs_one_line")
def what_a_taker_raises_is_swallowed(patch: Patch) -> None:
    def swallow(self: FakeStdout, take: Callable[[object], None], line: object) -> None:
        with contextlib.suppress(ValueError):
            take(line)

    patch.setattr(FakeStdout, "_hand_over", swallow)


@breaks("forwarding_that_is_cancelled_loses_nothing")
def a_taker_gets_lines_though_it_was_taken_back(patch: Patch) -> None:
    async def forward(self: FakeStdout, take: Callable[[object], None], below_bytes: int) -> bytes:
        self._take, self._take_below = take, below_bytes
        await self._wait()
        return await self.receive()

    patch.setattr(FakeStdout, "forward", forward)


@breaks("output_that_nobody_has_read_survives_the_exit", "done_means_that_nothing_is_left")
def what_was_not_read_is_lost_at_the_end(patch: Patch) -> None:
    reap = Life._reap

    def forget(self: Life) -> None:
        self._child.stdout._lines.clear()
        reap(self)

    patch.setattr(Life, "_reap", forget)


@breaks("a_child_that_closes_its_stdout_lives_on")
def a_child_that_closes_its_stdout_ends(patch: Patch) -> None:
    blocked = FakeChild._unblocked

    def end(self: FakeChild) -> None:
        blocked(self)
        if self.stdout._pipe._ending:
            asyncio.get_running_loop().call_soon(self.exit)

    patch.setattr(FakeChild, "_unblocked", end)


@breaks("a_child_that_is_blocked_by_its_output_can_obey_eof")
def while_it_is_stopped_nobody_reads(patch: Patch) -> None:
    patch.setattr(FakeStdout, "drain", lambda _: None)


@breaks("a_child_that_is_blocked_by_its_output_can_obey_eof")
def what_is_discarded_is_not_counted(patch: Patch) -> None:
    patch.setattr(FakeStdout, "discarded_bytes", 0)


@breaks("every_line_of_stderr_is_delivered_before_it_is_done", "the_last_lines_of_stderr_are_kept")
def the_last_words_on_stderr_are_lost(patch: Patch) -> None:
    patch.setattr(PieceSplitter, "finish", lambda _: None)


@breaks("every_line_of_stderr_is_delivered_before_it_is_done")
def done_does_not_wait_for_stderr(patch: Patch) -> None:
    deliver = StderrPump._deliver
    patch.setattr(StderrPump, "_deliver", lambda self: self._loop.call_later(1, deliver, self))
    patch.setattr(StderrPump, "delivered", True)
    patch.setattr(StderrPump, "close", lambda _: None)


@breaks("the_last_lines_of_stderr_are_kept")
def the_last_line_of_stderr_comes_first(patch: Patch) -> None:
    patch.setattr(StderrPump, "tail", property(lambda self: tuple(reversed(self._tail))))


@breaks("a_stderr_callback_that_fails_does_not_harm_the_child")
def a_stderr_callback_that_fails_gets_no_other_line(patch: Patch) -> None:
    call = StderrPump._call

    def call_once(self: StderrPump) -> None:
        call(self)
        self._backlog.clear()

    patch.setattr(StderrPump, "_call", call_once)


# The end


@breaks("before_the_end_there_is_a_pid_and_no_exit_status")
def before_the_end_the_status_is_a_good_one(patch: Patch) -> None:
    patch.setattr(FakeChild, "exit_status", lambda _: ExitStatus(code=0, signal=None))


@breaks("done_means_that_nothing_is_left", "done_comes_by_itself_when_the_child_exits")
def the_pid_outlives_the_child(patch: Patch) -> None:
    patch.setattr(Life, "_reap", lambda self: self._enter(State.REAP))


@breaks("done_comes_by_itself_when_the_child_exits")
def only_a_stop_sees_the_end_through(patch: Patch) -> None:
    def only_exit(self: Life, status: ExitStatus) -> None:
        self._ended = status
        self._child.exited.set()

    patch.setattr(Life, "exit", only_exit)


def _report(patch: Patch, report: Callable[[ExitStatus], ExitStatus]) -> None:
    ended = Life.exit
    patch.setattr(Life, "exit", lambda self, status: ended(self, report(status)))


@breaks("an_exit_code_is_reported_as_it_is")
def every_bad_code_is_1(patch: Patch) -> None:
    _report(patch, lambda status: dataclasses.replace(status, code=status.code and 1))


@breaks("a_fatal_signal_is_reported_as_it_is")
def a_fatal_signal_is_a_code(patch: Patch) -> None:
    """As shells and tini have it."""
    _report(patch, lambda status: ExitStatus(code=128 + (status.signal or 0), signal=None))


@breaks("a_clean_exit_is_no_error", "a_polite_child_ends_by_eof")
def every_end_is_an_error(patch: Patch) -> None:
    patch.setattr(FakeChild, "exit_err", lambda _: ChildExitError("ended", code=0, signal=None))


@breaks("an_exit_code_is_reported_as_it_is", "a_child_that_ignores_sigterm_is_killed")
def no_end_is_an_error(patch: Patch) -> None:
    patch.setattr(FakeChild, "exit_err", lambda _: None)


@breaks("waiting_asks_nobody_to_end")
def waiting_is_stopping(patch: Patch) -> None:
    patch.setattr(FakeChild, "wait", lambda self: self.stop())


# A stop


@breaks("a_polite_child_ends_by_eof", "what_was_accepted_reaches_the_child_before_its_eof")
def sigterm_comes_with_the_eof(patch: Patch) -> None:
    take_step = Life._take_step

    def both(self: Life) -> None:
        take_step(self)
        if self.state is State.EOF:
            self._send(signal.SIGTERM)

    patch.setattr(Life, "_take_step", both)


@breaks("a_stop_can_be_begun_without_waiting_for_its_end")
def only_who_waits_stops_it(patch: Patch) -> None:
    patch.setattr(FakeChild, "stop_nowait", lambda *_, **__: None)


@breaks("a_stop_that_was_obeyed_is_no_error_whatever_the_code")
def a_bad_code_is_always_an_error(patch: Patch) -> None:
    def exit_err(self: FakeChild) -> ChildExitError | None:
        code = self.exit_status().code
        return ChildExitError("ended", code=code, signal=None) if code else None

    patch.setattr(FakeChild, "exit_err", exit_err)


@breaks("a_child_that_ignores_eof_ends_by_sigterm", "a_grace_is_waited_for")
def there_is_no_sigterm(patch: Patch) -> None:
    steps = {state: phase for state, phase in LADDER.items() if state is not State.TERM}
    patch.setattr(life_module, "LADDER", steps)


@breaks("a_child_that_ignores_sigterm_is_killed")
def there_is_no_sigkill(patch: Patch) -> None:
    get = FakeChild._get
    patch.setattr(
        FakeChild, "_get", lambda self, number: None if number is signal.SIGKILL else get(self, number)
    )


@breaks("a_grace_is_waited_for", "a_polite_child_ends_by_eof")
def no_grace_is_waited_for(patch: Patch) -> None:
    patch.setattr(Ladder, "grace", lambda *_: 0.0)


@breaks("no_graces_at_all_kill_at_once")
def sigterm_is_sent_before_any_sigkill(patch: Patch) -> None:
    grace = Ladder.grace
    patch.setattr(Ladder, "grace", lambda self, state: grace(self, state) or 0.001)


@breaks("stopping_twice_is_stopping_once", "stopping_a_child_that_has_ended_returns_how_it_ended")
def a_stop_that_comes_late_takes_the_credit(patch: Patch) -> None:
    stop = FakeChild.stop

    async def stop_again(
        self: FakeChild, *, eof_grace: float | None = None, stop_grace: float | None = None
    ) -> ExitStatus:
        late = self.done.is_set()
        status = await stop(self, eof_grace=eof_grace, stop_grace=stop_grace)
        return dataclasses.replace(status, phase=Phase.KILL) if late else status

    patch.setattr(FakeChild, "stop", stop_again)


@breaks("all_callers_share_one_way_down_and_the_shortest_graces_win", "a_grace_is_waited_for")
def the_first_caller_decides(patch: Patch) -> None:
    """The seed's rule."""
    stop = Life.stop

    def stop_once(self: Life, *, eof_grace: float | None, stop_grace: float | None) -> None:
        if self._task is None:
            stop(self, eof_grace=eof_grace, stop_grace=stop_grace)

    patch.setattr(Life, "stop", stop_once)


@breaks("no_caller_can_make_it_longer")
def the_last_caller_decides(patch: Patch) -> None:
    def stop(self: Life, *, eof_grace: float | None, stop_grace: float | None) -> None:
        if eof_grace is not None:
            self._ladder._graces["eof_grace"] = eof_grace
        self._begin()

    patch.setattr(Life, "stop", stop)


@breaks("a_stop_that_is_cancelled_kills_at_once_and_sees_it_through")
def a_cancelled_stop_does_not_hurry(patch: Patch) -> None:
    patch.setattr(Life, "hurry", lambda _: None)


@breaks("a_stop_that_is_cancelled_kills_at_once_and_sees_it_through")
def a_cancelled_stop_asks_politely(patch: Patch) -> None:
    patch.setattr(Life, "hurry", lambda self: self.stop(eof_grace=0, stop_grace=None))


@breaks("a_stop_that_is_cancelled_kills_at_once_and_sees_it_through")
def a_cancelled_stop_does_not_see_it_through(patch: Patch) -> None:
    async def stop(
        self: FakeChild, *, eof_grace: float | None = None, stop_grace: float | None = None
    ) -> ExitStatus:
        self._life.stop(eof_grace=eof_grace, stop_grace=stop_grace)
        try:
            await self.done.wait()
        except asyncio.CancelledError:
            self._life.hurry()
            raise
        return self.exit_status()

    patch.setattr(FakeChild, "stop", stop)


@breaks("a_grace_that_is_no_length_of_time_is_refused_and_the_child_lives")
def any_number_is_a_grace(patch: Patch) -> None:
    patch.setattr(ladder_module, "check_graces", lambda **_: None)


@breaks("a_grace_that_is_no_length_of_time_is_refused_and_the_child_lives")
def a_refused_stop_begins_all_the_same(patch: Patch) -> None:
    stop = Life.stop

    def begin(self: Life, *, eof_grace: float | None, stop_grace: float | None) -> None:
        self._begin()
        stop(self, eof_grace=eof_grace, stop_grace=stop_grace)

    patch.setattr(Life, "stop", begin)


@breaks("as_a_context_manager_it_is_stopped_at_the_end")
def the_end_of_the_block_does_not_matter(patch: Patch) -> None:
    async def leave(*_: object) -> None:
        return None

    patch.setattr(FakeChild, "__aexit__", leave)


def test_every_rule_is_broken_by_something() -> None:
    assert {rule for rule, _ in CHANGES} == RULES


@pytest.mark.parametrize(
    ("rule", "change"),
    CHANGES,
    ids=[f"{change.__name__}-{rule.removeprefix('test_')}" for rule, change in CHANGES],
)
def test_a_child_that_breaks_a_rule_does_not_pass_it(
    rule: str, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    with pytest.raises(FAILURES):
        run_in_virtual_time(getattr(FakeContract(), rule)())
