# ruff: noqa: S101 - these are tests: an assert states the rule, a number is the expectation
"""Rules of a stop: EOF, SIGTERM, SIGKILL, each after its grace; one way down for all who ask for it."""

import asyncio
import signal
from dataclasses import replace

from ...errors import ChildExitError
from ...supervisor import ExitStatus, Phase
from .base import LONG, PATIENT, Behaviour, Contract, error_of, still_waits

__all__ = ["StopRules"]

BY_SIGTERM = ExitStatus(code=None, signal=signal.SIGTERM, phase=Phase.TERM)
BY_SIGKILL = ExitStatus(code=None, signal=signal.SIGKILL, phase=Phase.KILL)


class StopRules(Contract):
    """Rules of a stop."""

    async def test_a_polite_child_ends_by_eof(self) -> None:
        """MCP 2025-11-25, basic/lifecycle: close its stdin and wait. It gets no signal meanwhile."""
        async with self.running(Behaviour.ECHOES) as child:
            assert await child.stop() == ExitStatus(code=0, signal=None, phase=Phase.EOF)
            assert child.exit_err() is None

    async def test_a_stop_can_be_begun_without_waiting_for_its_end(self) -> None:
        """Whoever ends many children has better things to do."""
        async with self.running(Behaviour.ECHOES) as child:
            child.stop_nowait()
            assert child.stop_requested
            assert await child.wait() == ExitStatus(code=0, signal=None, phase=Phase.EOF)
        async with self.running(Behaviour.STUBBORN) as child:
            child.stop_nowait()
            child.stop_nowait(eof_grace=0, stop_grace=0)
            assert await child.wait() == BY_SIGKILL

    async def test_a_stop_that_was_obeyed_is_no_error_whatever_the_code(self) -> None:
        """Many programs have a code of their own for it."""
        async with self.running(Behaviour.LEAVES_AT_EOF) as child:
            assert await child.stop() == ExitStatus(code=3, signal=None, phase=Phase.EOF)
            assert child.exit_err() is None
        async with self.running(Behaviour.GRACEFUL) as child:
            status = await child.stop(eof_grace=0)
            assert status == ExitStatus(code=7, signal=None, phase=Phase.TERM)
            assert child.exit_err() is None

    async def test_a_child_that_ignores_eof_ends_by_sigterm(self) -> None:
        """MCP 2025-11-25, basic/lifecycle: SIGTERM if it does not exit within a reasonable time."""
        async with self.running(Behaviour.DEAF, replace(PATIENT, eof_grace=0.01)) as child:
            assert await child.stop() == BY_SIGTERM
            assert child.exit_err() is None

    async def test_a_child_that_ignores_sigterm_is_killed(self) -> None:
        """MCP 2025-11-25, basic/lifecycle: SIGKILL if it does not exit after SIGTERM either."""
        config = replace(PATIENT, eof_grace=0.01, stop_grace=0.01)
        async with self.running(Behaviour.STUBBORN, config) as child:
            assert await child.stop() == BY_SIGKILL
            error = child.exit_err()
            assert isinstance(error, ChildExitError)
            assert (error.code, error.signal) == (None, signal.SIGKILL)

    async def test_a_grace_is_waited_for(self) -> None:
        """The next step comes when it is over, and not earlier."""
        async with self.running(Behaviour.DEAF) as child:
            stopping = asyncio.ensure_future(child.stop())
            await still_waits(stopping)
            assert child.stdin.closed
            assert (await child.stop(eof_grace=0)).phase is Phase.TERM
            assert await stopping == BY_SIGTERM
        async with self.running(Behaviour.STUBBORN) as child:
            stopping = asyncio.ensure_future(child.stop(eof_grace=0))
            await still_waits(stopping)
            assert (await child.stop(stop_grace=0)).phase is Phase.KILL
            assert await stopping == BY_SIGKILL

    async def test_no_graces_at_all_kill_at_once(self) -> None:
        """Now means now: how it ends shall not depend on which signal is faster."""
        async with self.running(Behaviour.DEAF) as child:
            assert await child.stop(eof_grace=0, stop_grace=0) == BY_SIGKILL

    async def test_stopping_twice_is_stopping_once(self) -> None:
        """And everybody hears the same."""
        async with self.running(Behaviour.ECHOES) as child:
            status = await child.stop()
            assert await child.stop(eof_grace=0, stop_grace=0) == status
            assert await child.wait() == status
            assert child.exit_status() == status

    async def test_stopping_a_child_that_has_ended_returns_how_it_ended(self) -> None:
        """It ended by itself, and that stays so."""
        async with self.running(Behaviour.LEAVES) as child:
            status = await child.wait()
            assert await child.stop() == status
            assert status.phase is Phase.SELF

    async def test_all_callers_share_one_way_down_and_the_shortest_graces_win(self) -> None:
        """Whoever comes later can hurry it."""
        async with self.running(Behaviour.STUBBORN) as child:
            patient = asyncio.ensure_future(child.stop())
            await still_waits(patient)
            hurried = (child.stop(eof_grace=number / 100, stop_grace=number / 100) for number in (3, 1, 2))
            assert set(await asyncio.gather(patient, *hurried)) == {BY_SIGKILL}

    async def test_no_caller_can_make_it_longer(self) -> None:
        """Graces only shrink."""
        async with self.running(Behaviour.DEAF) as child:
            stops = [child.stop(eof_grace=0.05), child.stop(), child.stop(eof_grace=2 * LONG)]
            assert set(await asyncio.gather(*stops)) == {BY_SIGTERM}

    async def test_a_stop_that_is_cancelled_kills_at_once_and_sees_it_through(self) -> None:
        """Whoever cancels has no time left. The other callers are hurried with it."""
        done_when_it_gave_up: list[bool] = []
        async with self.running(Behaviour.DEAF) as child:

            async def give_up() -> None:
                try:
                    await child.stop()
                finally:
                    done_when_it_gave_up.append(child.done.is_set())

            impatient, other = asyncio.ensure_future(give_up()), asyncio.ensure_future(child.stop())
            await still_waits(impatient)
            impatient.cancel()
            await asyncio.wait({impatient})
            assert impatient.cancelled()
            assert done_when_it_gave_up == [True]
            assert await other == BY_SIGKILL

    async def test_a_grace_that_is_no_length_of_time_is_refused_and_the_child_lives(self) -> None:
        """A mistake of the caller's does not begin a stop."""
        async with self.running(Behaviour.ECHOES) as child:
            await error_of(child.stop(eof_grace=-1), ValueError)
            await error_of(child.stop(stop_grace=float("nan")), ValueError)
            await child.stdin.send(b"still here")
            assert await child.stdout.receive() == b"still here"

    async def test_as_a_context_manager_it_is_stopped_at_the_end(self) -> None:
        """However the block ends."""
        async with self.running(Behaviour.ECHOES) as child:

            async def block() -> None:
                async with child as entered:
                    assert entered is child
                    raise LookupError("mine")

            await error_of(block(), LookupError)
            assert child.exit_status().phase is Phase.EOF
