# ruff: noqa: S101, PLR2004 - these are tests: an assert states the rule, a number is the expectation
"""Rules of stdin: lines arrive whole and in order, and who sends too much waits."""

import asyncio
from dataclasses import replace

from ...errors import ChildGone
from ...supervisor import Child, Phase
from .base import (
    A_MOMENT,
    TIGHT,
    Behaviour,
    Contract,
    check_lines,
    error_of,
    everything,
    refusal_of,
    still_waits,
)

__all__ = ["StdinRules"]

#: Lines of this length fill `TIGHT` buffers, and the pipes behind them, before there are `MANY`.
LINE_BYTES = 10_000
MANY = 1000


class StdinRules(Contract):
    """Rules of stdin."""

    async def test_lines_arrive_in_the_order_in_which_they_were_sent(self) -> None:
        """Whichever way they were sent. A line is bytes, and may be empty."""
        async with self.running(Behaviour.ECHOES) as child:
            await child.stdin.send(b"one")
            assert child.stdin.send_nowait(b"")
            await child.stdin.send(b"\xff\0\r")
            assert [await child.stdout.receive() for _ in range(3)] == [b"one", b"", b"\xff\0\r"]

    async def test_a_line_with_a_newline_is_refused_whole(self) -> None:
        """MCP 2025-11-25, basic/transports: a message must not contain an embedded newline."""
        async with self.running(Behaviour.ECHOES) as child:
            await error_of(child.stdin.send(b"one\ntwo"), ValueError)
            refusal_of(lambda: child.stdin.send_nowait(b"three\n"), ValueError)
            await child.stdin.send(b"four")
            assert await child.stdout.receive() == b"four"

    async def test_a_line_longer_than_every_buffer_arrives_whole(self) -> None:
        """The marks say when to wait, not how long a line may be."""
        line = bytes(range(32, 127)) * 5000
        async with self.running(Behaviour.ECHOES, TIGHT) as child:
            await child.stdin.send(line)
            check_lines([await child.stdout.receive()], [line])

    async def test_many_senders_never_interleave_their_lines(self) -> None:
        """Any number of tasks may send."""
        lines = [bytes([65 + number]) * (number * 997) for number in range(20)]
        async with self.running(Behaviour.ECHOES, TIGHT) as child, asyncio.TaskGroup() as senders:
            for line in lines:
                senders.create_task(child.stdin.send(line))
            check_lines(sorted([await child.stdout.receive() for _ in lines]), lines)

    async def test_who_sends_waits_while_nobody_reads_what_the_child_says(self) -> None:
        """Back-pressure is one chain: unread stdout blocks the child, which then reads no stdin."""
        async with self.running(Behaviour.ECHOES, TIGHT) as child:
            sent, waiting = await _fill(child)
            assert not child.stdin.send_nowait(b"overtakes")
            # Below the mark there was room for one more line.
            assert child.stdin.unwritten_bytes <= 1000 + LINE_BYTES
            check_lines([await child.stdout.receive() for _ in sent], sent)
            await waiting
            assert await child.stdout.receive() == b"waits"

    async def test_it_is_ready_when_a_line_would_be_taken_at_once(self) -> None:
        """`ready` is what `send_nowait` would say."""
        async with self.running(Behaviour.ECHOES, TIGHT) as child:
            assert _ready(child)
            sent, waiting = await _fill(child)
            assert not _ready(child)
            check_lines([await child.stdout.receive() for _ in sent], sent)
            await waiting
            assert await child.stdout.receive() == b"waits"
            assert _ready(child)
            assert child.stdin.send_nowait(b"taken")
            child.stdin.close()
            assert not _ready(child)

    async def test_who_waits_first_sends_first_and_nobody_overtakes(self) -> None:
        """Else a stream of new lines could keep the buffer full, and who waits would wait for ever."""
        async with self.running(Behaviour.ECHOES, TIGHT) as child:
            sent, first = await _fill(child)
            others = [asyncio.ensure_future(child.stdin.send(b"%d" % number)) for number in range(5)]
            await asyncio.sleep(0)
            received = [await child.stdout.receive() for _ in sent]
            received += [await child.stdout.receive() for _ in range(6)]
            await asyncio.gather(first, *others)
            check_lines(received, [*sent, b"waits", b"0", b"1", b"2", b"3", b"4"])

    async def test_a_send_that_is_cancelled_while_it_waits_sends_nothing(self) -> None:
        """A line is accepted whole or not at all, and the turn goes to the next."""
        async with self.running(Behaviour.ECHOES, TIGHT) as child:
            sent, giving_up = await _fill(child)
            patient = asyncio.ensure_future(child.stdin.send(b"patient"))
            await asyncio.sleep(0)
            giving_up.cancel()
            await asyncio.wait({giving_up})
            assert giving_up.cancelled()
            check_lines([await child.stdout.receive() for _ in sent], sent)
            assert await child.stdout.receive() == b"patient"
            await patient

    async def test_closing_refuses_who_waits_and_counts_what_it_drops(self) -> None:
        """EOF is given at once; what the child has not read by then is lost, and counted."""
        async with self.running(Behaviour.DEAF, TIGHT) as child:
            await child.stdin.send(b"x" * 1_000_000)
            waiting = asyncio.ensure_future(child.stdin.send(b"waits"))
            await still_waits(waiting)
            child.stdin.close()
            await error_of(waiting, ChildGone)
            assert child.stdin.closed
            assert 0 < child.stdin.dropped_bytes <= 1_000_001
            dropped = child.stdin.dropped_bytes
            child.stdin.close()
            assert (await child.stop(eof_grace=0, stop_grace=0)).stdin_dropped == dropped

    async def test_closing_is_eof_and_not_a_stop(self) -> None:
        """EOF asks the child to end; how it ends then is its own affair, and counts as such."""
        async with self.running(Behaviour.LEAVES_AT_EOF) as child:
            child.stdin.close()
            status = await child.wait()
            assert (status.code, status.phase) == (3, Phase.SELF)

    async def test_a_closed_stdin_takes_nothing(self) -> None:
        """We have closed it, and the child may live on."""
        async with self.running(Behaviour.DEAF) as child:
            child.stdin.close()
            await error_of(child.stdin.send(b"late"), ChildGone)
            assert not child.stdin.send_nowait(b"late")
            assert child.stdin.dropped_bytes == 0
            assert not child.exited.is_set()

    async def test_a_child_that_has_ended_takes_nothing(self) -> None:
        """It was not us who ended it."""
        async with self.running(Behaviour.LEAVES) as child:
            await child.wait()
            await error_of(child.stdin.send(b"late"), ChildGone)
            assert not child.stdin.send_nowait(b"late")
            assert child.stdin.closed

    async def test_a_child_that_closes_its_stdin_takes_nothing_and_lives_on(self) -> None:
        """The end of one pipe is not the end of the child."""
        async with self.running(Behaviour.CLOSES_STDIN) as child:
            await child.stdin.send(b"one")
            assert await child.stdout.receive() == b"closed"
            await error_of(child.stdin.send(b"two"), ChildGone)
            assert child.stdin.closed
            assert not child.exited.is_set()
            assert (await child.stop(eof_grace=0)).phase is Phase.TERM

    async def test_what_was_accepted_reaches_the_child_before_its_eof(self) -> None:
        """The first step of a stop is to flush, and to read on, so that the child can."""
        async with self.running(Behaviour.ECHOES, TIGHT) as child:
            sent, waiting = await _fill(child)
            waiting.cancel()
            status = await child.stop()
            assert (status.code, status.phase, status.stdin_dropped) == (0, Phase.EOF, 0)
            assert await everything(child) == sent

    async def test_a_child_that_does_not_read_gets_its_eof_after_the_flush_grace(self) -> None:
        """What it did not read is counted, and who still wanted to send is refused."""
        config = replace(TIGHT, flush_grace=0.01, eof_grace=0.01)
        async with self.running(Behaviour.DEAF, config) as child:
            await child.stdin.send(b"x" * 1_000_000)
            waiting = asyncio.ensure_future(child.stdin.send(b"waits"))
            status = await child.stop()
            await error_of(waiting, ChildGone)
            assert status.phase is Phase.TERM
            assert 0 < status.stdin_dropped <= 1_000_001

    async def test_an_idle_stdin_owes_nothing(self) -> None:
        """There is nothing to flush, so nothing waits for the flush grace."""
        async with self.running(Behaviour.ECHOES) as child:
            assert not child.stdin.closed
            assert child.stdin.unwritten_bytes == 0
            assert (await child.stop()).stdin_dropped == 0


def _ready(child: Child) -> bool:
    """Ask each time: a type checker takes an attribute for what it was before."""
    return child.stdin.ready


async def _fill(child: Child) -> tuple[list[bytes], asyncio.Future[None]]:
    """Send to an echo whose output nobody reads, until a sender has to wait.

    Returns:
        The lines that were sent, and the sender that waits, of the line `waits`.
    """
    sent: list[bytes] = []
    while len(sent) < MANY:
        line = (b"%d " % len(sent)).ljust(LINE_BYTES, b"x")
        if child.stdin.send_nowait(line):
            sent.append(line)
            continue
        waiting = asyncio.ensure_future(child.stdin.send(b"waits"))
        await asyncio.wait({waiting}, timeout=A_MOMENT)
        if not waiting.done():
            return sent, waiting
        sent.append(b"waits")
    raise AssertionError("it has taken everything, though nobody reads what the child says")
