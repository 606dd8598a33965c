# ruff: noqa: S101 - these are tests: an assert states the rule, a number is the expectation
"""Rules of the end: what is known before it, what it tells, and what `done` means."""

import asyncio
import signal

from ...errors import ChildExitError, EndOfOutput, NotExited
from ...supervisor import ExitStatus, Phase
from .base import Behaviour, Contract, error_of, refusal_of, still_waits

__all__ = ["ExitRules"]


class ExitRules(Contract):
    """Rules of the end."""

    async def test_before_the_end_there_is_a_pid_and_no_exit_status(self) -> None:
        """No status is not the same as a good one."""
        async with self.running(Behaviour.ECHOES) as child:
            assert isinstance(child.pid, int)
            assert not child.exited.is_set()
            assert not child.done.is_set()
            refusal_of(child.exit_status, NotExited)
            refusal_of(child.exit_err, NotExited)

    async def test_done_means_that_nothing_is_left(self) -> None:
        """Reaped, every pipe closed, and the last line is there to be read."""
        async with self.running(Behaviour.ECHOES) as child:
            await child.stdin.send(b"line")
            status = await child.stop()
            assert child.done.is_set()
            assert child.exited.is_set()
            assert child.pid is None
            assert child.stdin.closed
            assert child.stdout.ended
            assert child.exit_status() == status
            assert await child.stdout.receive() == b"line"
            await error_of(child.stdout.receive(), EndOfOutput)

    async def test_done_comes_by_itself_when_the_child_exits(self) -> None:
        """Nobody has to wait for it, or stop it."""
        async with self.running(Behaviour.LEAVES) as child:
            await child.exited.wait()
            await child.done.wait()
            assert child.pid is None
            assert child.stdin.closed

    async def test_an_exit_code_is_reported_as_it_is(self) -> None:
        """And is an error, unless it is 0."""
        async with self.running(Behaviour.LEAVES) as child:
            assert await child.wait() == ExitStatus(code=3, signal=None, phase=Phase.SELF)
            error = child.exit_err()
            assert isinstance(error, ChildExitError)
            assert (error.code, error.signal) == (3, None)
            assert str(error) == "the child exited with code 3"

    async def test_a_fatal_signal_is_reported_as_it_is(self) -> None:
        """SIGKILL too, if it was not ours."""
        async with self.running(Behaviour.DIES) as child:
            assert await child.wait() == ExitStatus(code=None, signal=signal.SIGKILL, phase=Phase.SELF)
            error = child.exit_err()
            assert isinstance(error, ChildExitError)
            assert (error.code, error.signal) == (None, signal.SIGKILL)
            assert str(error) == "the child ended by SIGKILL"

    async def test_a_clean_exit_is_no_error(self) -> None:
        """Code 0, whoever wanted it."""
        async with self.running(Behaviour.SPEAKS) as child:
            assert await child.wait() == ExitStatus(code=0, signal=None, phase=Phase.SELF)
            assert child.exit_err() is None

    async def test_waiting_asks_nobody_to_end(self) -> None:
        """Nor does giving up the waiting."""
        async with self.running(Behaviour.ECHOES) as child:
            waiting = asyncio.ensure_future(child.wait())
            await still_waits(waiting)
            waiting.cancel()
            await asyncio.wait({waiting})
            assert waiting.cancelled()
            await child.stdin.send(b"still here")
            assert await child.stdout.receive() == b"still here"
            assert not child.exited.is_set()
