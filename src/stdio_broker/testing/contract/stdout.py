# ruff: noqa: S101, PLR2004 - these are tests: an assert states the rule, a number is the expectation
"""Rules of stdout and stderr: every line is delivered, in order, and only what is too long is not."""

import asyncio
import contextlib
from dataclasses import replace

from ...errors import EndOfOutput, LineTooLong
from ...supervisor import OversizeLine, Phase
from .base import (
    FLOOD_LINE,
    FLOOD_LINES,
    PATIENT,
    SPEECH,
    TIGHT,
    Behaviour,
    Contract,
    error_of,
    everything,
)

__all__ = ["StdoutRules"]

LINES = SPEECH.split(b"\n")
LONGEST = max(LINES, key=len)


class StdoutRules(Contract):
    """Rules of stdout and stderr."""

    async def test_lines_come_as_they_are_and_the_last_one_needs_no_newline(self) -> None:
        """MCP 2025-11-25, basic/transports: a line ends at a newline; nothing is decoded or stripped."""
        async with self.running(Behaviour.SPEAKS) as child:
            assert [await child.stdout.receive() for _ in LINES] == LINES

    async def test_after_the_last_line_comes_the_end_for_ever(self) -> None:
        """Whichever way it is asked for."""
        async with self.running(Behaviour.SPEAKS) as child:
            assert await everything(child) == LINES
            assert child.stdout.ended
            await error_of(child.stdout.receive(), EndOfOutput)
            await error_of(child.stdout.receive_many(), EndOfOutput)
            assert await everything(child) == []

    async def test_batches_are_never_empty_and_hold_the_same_lines(self) -> None:
        """One batch is what has arrived."""
        async with self.running(Behaviour.SPEAKS) as child:
            lines: list[bytes | OversizeLine] = []
            with contextlib.suppress(EndOfOutput):
                while batch := await child.stdout.receive_many():
                    lines += batch
            assert child.stdout.ended
            assert lines == LINES

    async def test_a_line_over_the_limit_costs_only_itself(self) -> None:
        """It is reported by its length and its ends, and the next one is in sync."""
        config = replace(PATIENT, max_line_bytes=len(LONGEST) - 1)
        before, after = LINES[: LINES.index(LONGEST)], LINES[LINES.index(LONGEST) + 1 :]
        async with self.running(Behaviour.SPEAKS, config) as child:
            assert [await child.stdout.receive() for _ in before] == before
            error = await error_of(child.stdout.receive(), LineTooLong)
            assert (error.length, error.head, error.tail) == (len(LONGEST), LONGEST, LONGEST)
            assert await everything(child) == after

    async def test_a_line_over_the_limit_has_its_place_in_a_batch(self) -> None:
        """As what is left of it."""
        config = replace(PATIENT, max_line_bytes=len(LONGEST) - 1)
        over = OversizeLine(len(LONGEST), LONGEST, LONGEST)
        async with self.running(Behaviour.SPEAKS, config) as child:
            await child.wait()
            assert await child.stdout.receive_many() == [over if line == LONGEST else line for line in LINES]

    async def test_a_line_of_just_the_limit_is_a_line(self) -> None:
        """The newline does not count."""
        config = replace(PATIENT, max_line_bytes=len(LONGEST))
        async with self.running(Behaviour.SPEAKS, config) as child:
            assert await everything(child) == LINES

    async def test_only_one_task_may_receive(self) -> None:
        """Two would each get some of the lines."""
        async with self.running(Behaviour.ECHOES) as child:
            first = asyncio.ensure_future(child.stdout.receive())
            await asyncio.sleep(0)
            await error_of(child.stdout.receive(), RuntimeError)
            await error_of(child.stdout.receive_many(), RuntimeError)
            await child.stdin.send(b"line")
            assert await first == b"line"

    async def test_a_receive_that_is_cancelled_loses_nothing(self) -> None:
        """A consumer may use timeouts."""
        async with self.running(Behaviour.ECHOES) as child:
            receiving = asyncio.ensure_future(child.stdout.receive())
            await asyncio.sleep(0)
            receiving.cancel()
            await asyncio.wait({receiving})
            assert receiving.cancelled()
            await child.stdin.send(b"line")
            assert await child.stdout.receive() == b"line"

    async def test_lines_are_handed_over_in_order_and_a_long_one_is_returned(self) -> None:
        """`forward`: whoever asked deals with the long one before the next is handed over."""
        async with self.running(Behaviour.SPEAKS) as child:
            lines: list[bytes | OversizeLine] = []
            assert await child.stdout.forward(lines.append, below_bytes=len(LONGEST)) == LONGEST
            lines.append(LONGEST)
            await error_of(child.stdout.forward(lines.append, below_bytes=len(LONGEST)), EndOfOutput)
            assert lines == LINES
            assert child.stdout.ended

    async def test_a_line_over_the_limit_is_handed_over_in_its_place(self) -> None:
        """As what is left of it."""
        config = replace(PATIENT, max_line_bytes=len(LONGEST) - 1)
        over = OversizeLine(len(LONGEST), LONGEST, LONGEST)
        async with self.running(Behaviour.SPEAKS, config) as child:
            lines: list[bytes | OversizeLine] = []
            await error_of(child.stdout.forward(lines.append, below_bytes=1000), EndOfOutput)
            assert lines == [over if line == LONGEST else line for line in LINES]

    async def test_a_line_is_handed_over_though_nobody_is_woken_for_it(self) -> None:
        """Whoever has asked for it to be handed over goes on waiting, and nobody else may receive."""
        async with self.running(Behaviour.ECHOES) as child:
            taken: asyncio.Queue[bytes | OversizeLine] = asyncio.Queue()
            forwarding = asyncio.ensure_future(child.stdout.forward(taken.put_nowait, below_bytes=100))
            await asyncio.sleep(0)
            for line in (b"one", b"two"):
                await child.stdin.send(line)
                assert await taken.get() == line
            await error_of(child.stdout.receive(), RuntimeError)
            assert not forwarding.done()
            await child.stdin.send(b"x" * 100)
            assert await forwarding == b"x" * 100
            assert taken.empty()

    async def test_what_a_taker_raises_is_raised_to_whoever_gave_it_and_costs_one_line(self) -> None:
        """The lines behind it are received as if nothing had been."""

        def fail(line: bytes | OversizeLine) -> None:
            raise ValueError(line)

        async with self.running(Behaviour.ECHOES) as child:
            forwarding = asyncio.ensure_future(child.stdout.forward(fail, below_bytes=100))
            await asyncio.sleep(0)
            for line in (b"one", b"two", b"three"):
                await child.stdin.send(line)
            error = await error_of(forwarding, ValueError)
            assert error.args == (b"one",)
            assert [await child.stdout.receive() for _ in range(2)] == [b"two", b"three"]

    async def test_forwarding_that_is_cancelled_loses_nothing(self) -> None:
        """What came before was handed over, and what comes behind it is received."""
        async with self.running(Behaviour.ECHOES) as child:
            taken: asyncio.Queue[bytes | OversizeLine] = asyncio.Queue()
            forwarding = asyncio.ensure_future(child.stdout.forward(taken.put_nowait, below_bytes=100))
            await child.stdin.send(b"one")
            assert await taken.get() == b"one"
            forwarding.cancel()
            await asyncio.wait({forwarding})
            assert forwarding.cancelled()
            await child.stdin.send(b"two")
            assert await child.stdout.receive() == b"two"
            assert taken.empty()

    async def test_lines_may_be_had_in_one_way_after_another(self) -> None:
        """Each goes on where the one before has stopped."""
        async with self.running(Behaviour.SPEAKS) as child:
            lines: list[bytes | OversizeLine] = [await child.stdout.receive()]
            lines.append(await child.stdout.forward(lines.append, below_bytes=len(LONGEST)))
            assert lines[-1] == LONGEST
            lines.append(await child.stdout.receive())
            with contextlib.suppress(EndOfOutput):
                await child.stdout.forward(lines.append, below_bytes=1000)
            await error_of(child.stdout.receive_many(), EndOfOutput)
            assert lines == LINES

    async def test_output_that_nobody_has_read_survives_the_exit(self) -> None:
        """The last answers of a child that exits are answers."""
        async with self.running(Behaviour.SPEAKS) as child:
            assert (await child.wait()).stdout_discarded == 0
            assert await everything(child) == LINES

    async def test_a_child_that_closes_its_stdout_lives_on(self) -> None:
        """The end of the output, the exit and a stop are three facts."""
        async with self.running(Behaviour.CLOSES_STDOUT) as child:
            assert await everything(child) == []
            assert child.stdout.ended
            assert not child.exited.is_set()
            assert (await child.stop()).phase is Phase.EOF

    async def test_a_child_that_is_blocked_by_its_output_can_obey_eof(self) -> None:
        """While it is stopped it is read on: blocked, it could not notice that it shall end.

        What does not fit is dropped and counted, and what was kept can be read afterwards.
        """
        async with self.running(Behaviour.FLOODS, TIGHT) as child:
            assert await child.stdout.receive() == FLOOD_LINE.strip()
            status = await child.stop()
            assert (status.code, status.phase) == (0, Phase.EOF)
            kept = [FLOOD_LINE.strip(), *await everything(child)]
            assert status.stdout_discarded > 0
            assert sum(map(len, kept)) + status.stdout_discarded == FLOOD_LINES * len(FLOOD_LINE.strip())

    async def test_every_line_of_stderr_is_delivered_before_it_is_done(self) -> None:
        """Decoded, and the last one needs no newline: it may be why it crashed."""
        lines: list[str] = []
        config = replace(PATIENT, on_stderr=lines.append)
        async with self.running(Behaviour.COMPLAINS, config) as child:
            await child.wait()
            assert lines == ["one", "t\ufffdo", "unfinished"]

    async def test_the_last_lines_of_stderr_are_kept(self) -> None:
        """As many as were asked for, the oldest first, with a callback or without."""
        async with self.running(Behaviour.COMPLAINS, replace(PATIENT, stderr_tail_lines=2)) as child:
            await child.wait()
            assert child.stderr_tail == ("t\ufffdo", "unfinished")

    async def test_a_stderr_callback_that_fails_does_not_harm_the_child(self) -> None:
        """Its mistake is logged, and it gets the next line."""
        lines: list[str] = []

        def fail(line: str) -> None:
            lines.append(line)
            raise RuntimeError("a mistake in a callback")

        async with self.running(Behaviour.COMPLAINS, replace(PATIENT, on_stderr=fail)) as child:
            assert (await child.wait()).ok
            assert len(lines) == 3
