"""All children of one owner are stopped together, and none of them outlives it."""

import asyncio
import os
import signal
import threading
from contextlib import aclosing

import pytest

from stdio_broker.supervisor import Child, Config, Phase, SpawnError, Supervisor, SupervisorStatistics
from stdio_broker.supervisor.restart import RestartPolicy, RestartsExhausted
from stdio_broker.supervisor.spawner import Spawner
from tests.supervisor.children import command, ready_line
from tests.support.processes import children_of, wait_until

pytestmark = [pytest.mark.both_loops, pytest.mark.usefixtures("each_watch")]

POLITE = Config(cmd=command("polite"), eof_grace=300)
STUBBORN = Config(cmd=command("stubborn"), eof_grace=300, stop_grace=300)
# Starts faster than a Python program, and ends at EOF.
CAT = Config(cmd=["cat"], eof_grace=300)


async def test_leaving_it_stops_every_child() -> None:
    async with Supervisor() as supervisor:
        children = [await supervisor.start(POLITE) for _ in range(3)]
        for child in children:
            await ready_line(child)
        assert supervisor.statistics() == SupervisorStatistics(running=3, started=3)
    assert [child.exit_status().phase for child in children] == [Phase.EOF] * 3
    assert supervisor.statistics() == SupervisorStatistics(running=0, started=3)


async def test_leaving_it_by_an_error_stops_every_child_too() -> None:
    with pytest.raises(RuntimeError, match="mine"):
        async with Supervisor() as supervisor:
            child = await supervisor.start(CAT)
            raise RuntimeError("mine")
    assert child.done.is_set()


async def test_a_child_that_ends_by_itself_is_forgotten() -> None:
    async with Supervisor() as supervisor:
        child = await supervisor.start(Config(cmd=command("leave", 0)))
        await child.wait()
        assert supervisor.statistics() == SupervisorStatistics(running=0, started=1)


async def test_a_start_that_fails_is_not_counted() -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(SpawnError):
            await supervisor.start(Config(cmd=["/no/such/program"]))
        assert supervisor.statistics() == SupervisorStatistics(running=0, started=0)


async def test_all_children_are_stopped_at_the_same_time() -> None:
    """Each waits for its own grace, which begins at once: none waits for another."""
    async with Supervisor() as supervisor:
        children = [await supervisor.start(STUBBORN) for _ in range(5)]
        for child in children:
            await ready_line(child)
        stopping = asyncio.ensure_future(supervisor.stop_all())
        await wait_until(lambda: all(child.stdin.closed for child in children))
        assert not any(child.exited.is_set() for child in children)
        await supervisor.stop_all(eof_grace=0, stop_grace=0)
        await stopping
        assert {child.exit_status().phase for child in children} == {Phase.KILL}


async def test_after_stopping_all_new_children_may_be_started() -> None:
    async with Supervisor() as supervisor:
        await supervisor.start(CAT)
        await supervisor.stop_all()
        child = await supervisor.start(CAT)
        assert not child.exited.is_set()


async def test_stopping_all_when_there_are_none_returns() -> None:
    await Supervisor().stop_all()


async def test_a_grace_that_is_no_length_of_time_is_refused_before_anybody_is_stopped() -> None:
    async with Supervisor() as supervisor:
        child = await supervisor.start(CAT)
        with pytest.raises(ValueError, match="stop_grace: expected seconds"):
            await supervisor.stop_all(eof_grace=0, stop_grace=-1)
        assert not child.stdin.closed


async def test_cancelling_it_kills_all_at_once_and_ends_when_they_are_done() -> None:
    async with Supervisor() as supervisor:
        children = [await supervisor.start(STUBBORN) for _ in range(3)]
        for child in children:
            await ready_line(child)
        stopping = asyncio.ensure_future(supervisor.stop_all())
        await wait_until(lambda: all(child.stdin.closed for child in children))
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert [child.exit_status().phase for child in children] == [Phase.KILL] * 3


async def test_cancelling_who_owns_it_leaves_no_child() -> None:
    children: list[Child] = []

    async def owner() -> None:
        async with Supervisor() as supervisor:
            children.append(await supervisor.start(STUBBORN))
            await asyncio.Event().wait()

    task = asyncio.ensure_future(owner())
    await wait_until(lambda: children != [])
    await ready_line(children[0])
    task.cancel()
    await wait_until(lambda: children[0].stdin.closed)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await children[0].wait()).phase is Phase.KILL


async def test_once_closed_it_starts_nothing() -> None:
    supervisor = Supervisor()
    async with supervisor:
        pass
    with pytest.raises(RuntimeError, match="the supervisor is closed"):
        await supervisor.start(CAT)


async def test_a_child_that_is_being_started_while_it_is_closed_is_ended_and_refused(
    spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F30: a stop during a start."""
    gate = threading.Event()
    set_blocking = os.set_blocking

    def held(fd: int, blocking: bool) -> None:  # noqa: FBT001 - as it is
        gate.wait(20)
        set_blocking(fd, blocking)

    monkeypatch.setattr(os, "set_blocking", held)
    processes_before = children_of(os.getpid())
    async with Supervisor(spawner=spawner) as supervisor:
        starting = asyncio.ensure_future(supervisor.start(STUBBORN))
        await asyncio.sleep(0)
    gate.set()
    with pytest.raises(RuntimeError, match="the supervisor is closed"):
        await starting
    assert supervisor.statistics() == SupervisorStatistics(running=0, started=1)
    assert children_of(os.getpid()) == processes_before


async def test_a_start_that_is_cancelled_while_it_is_closed_leaves_no_child(spawner: Spawner) -> None:
    async with Supervisor(spawner=spawner) as supervisor:
        starting = asyncio.ensure_future(supervisor.start(STUBBORN))
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_two_hundred_children_at_once_cost_four_descriptors_each_and_leave_none(
    each_watch: str,
) -> None:
    """S11, F37; 3.11's asyncio has a thread per child, and both its and uvloop's leave zombies."""
    descriptors_before, threads_before = _descriptors(), threading.active_count()
    processes_before = children_of(os.getpid())
    async with Supervisor() as supervisor:
        children = await asyncio.gather(*(supervisor.start(CAT) for _ in range(200)))
        if each_watch == "pidfd":
            assert _descriptors() - descriptors_before == 4 * 200
            assert threading.active_count() - threads_before <= 1  # the spawner, if it was not there

        async def echo(child: Child, line: bytes) -> None:
            await child.stdin.send(line)
            assert await child.stdout.receive() == line

        await asyncio.gather(*(echo(child, b"line %d" % number) for number, child in enumerate(children)))
        assert supervisor.statistics() == SupervisorStatistics(running=200, started=200)
    assert {child.exit_status().phase for child in children} == {Phase.EOF}
    assert children_of(os.getpid()) == processes_before
    assert _descriptors() == descriptors_before


def _descriptors() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - the descriptor that lists them is counted each time


async def test_children_that_come_and_go_leave_nothing() -> None:
    """S11."""
    descriptors_before = _descriptors()
    async with Supervisor() as supervisor:
        for number in range(30):
            child = await supervisor.start(Config(cmd=["sh", "-c", f"exit {number % 2}"]))
            assert (await child.stop(eof_grace=300)).code in {0, 1, None}
        assert supervisor.statistics() == SupervisorStatistics(running=0, started=30)
        assert _descriptors() == descriptors_before


# A child that is kept running; its waits are tested in virtual time, in test_restart.py.

AT_ONCE = RestartPolicy(first_backoff=0.0, max_backoff=0.0)


async def test_a_child_that_crashes_is_started_again() -> None:
    async with Supervisor() as supervisor:
        children: list[Child] = []
        async with aclosing(supervisor.keep(CAT, policy=AT_ONCE)) as incarnations:
            async for child in incarnations:
                await child.stdin.send(b"hello")
                assert await child.stdout.receive() == b"hello"
                children.append(child)
                if len(children) == 3:
                    break
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
        statuses = [child.exit_status() for child in children]
        assert [(status.phase, status.signal) for status in statuses] == [
            (Phase.SELF, signal.SIGKILL),
            (Phase.SELF, signal.SIGKILL),
            (Phase.EOF, None),
        ]
        assert supervisor.statistics() == SupervisorStatistics(running=0, started=3)


async def test_a_restart_storm_ends_in_an_error_with_the_last_exit_status() -> None:
    """F38."""
    async with Supervisor() as supervisor:
        with pytest.raises(RestartsExhausted) as caught:
            async for _ in supervisor.keep(Config(cmd=["sh", "-c", "exit 7"]), policy=AT_ONCE):
                pass
        assert caught.value.exit_status is not None
        assert (caught.value.exit_status.code, caught.value.exit_status.phase) == (7, Phase.SELF)
        assert supervisor.statistics() == SupervisorStatistics(running=0, started=4)


async def test_a_program_that_is_not_there_is_an_error_after_as_many_tries() -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(RestartsExhausted) as caught:
            await anext(supervisor.keep(Config(cmd=["/no/such/program"]), policy=AT_ONCE))
        assert isinstance(caught.value.__cause__, SpawnError)
        assert supervisor.statistics() == SupervisorStatistics(running=0, started=0)


async def test_leaving_the_supervisor_ends_what_it_keeps_running() -> None:
    async def keep() -> list[Child]:
        return [child async for child in supervisor.keep(CAT, policy=AT_ONCE)]

    async with Supervisor() as supervisor:
        keeping = asyncio.ensure_future(keep())
        await wait_until(lambda: supervisor.statistics().running == 1)
    (child,) = await keeping
    assert child.exit_status().phase is Phase.EOF
