"""Places, turns, and a breaker: who may start a child of a server, and when."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine

import pytest

from stdio_broker.errors import (
    BridgeBroken,
    CapacityError,
    Draining,
    LimitReached,
    RemoteProtocolError,
    ServerFailing,
    SpawnError,
    StartTimeout,
    Unavailable,
)
from stdio_broker.sessions import ServerRecipe, Settings
from stdio_broker.sessions.admission import Admission
from stdio_broker.supervisor import Config
from stdio_broker.supervisor.restart import BreakerState, RestartPolicy
from tests.support.clock import run_in_virtual_time

SECRET = "hunter2-hunter2"  # noqa: S105 - made up
POLICY = RestartPolicy(max_restarts=1, first_backoff=10, max_backoff=10)


def virtual(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run a test in virtual time."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


def _admission(**bounds: float) -> Admission:
    recipe = ServerRecipe("fake", Config(cmd=["fake"]), frozenset({SECRET}))
    settings = Settings(breaker=POLICY, **bounds)  # type: ignore[arg-type]
    return Admission(recipe, settings, uniform=lambda _low, high: high)


async def _fail(admission: Admission, error: Exception) -> None:
    with contextlib.suppress(type(error)):
        async with admission.start():
            raise error


@virtual
async def test_a_place_is_given_back_at_the_end_of_the_block_or_later_by_whoever_keeps_it() -> None:
    """Ours: from before a start until nothing of its child is left."""
    admission = _admission(max_sessions=2)
    with admission.place(), admission.place() as kept:
        kept.pop_all()
        with pytest.raises(LimitReached), admission.place():
            pass
    assert admission.places == 1
    admission.give_back()
    assert admission.places == 0
    with pytest.raises(ValueError, match="any"), admission.place():
        raise ValueError("any")
    assert admission.places == 0


@virtual
async def test_turns_are_limited_and_so_is_the_wait_for_one() -> None:
    """Ours: `max_starting`, `queue_timeout`."""
    admission = _admission(max_starting=1, queue_timeout=5)
    loop = asyncio.get_running_loop()

    async def start(seconds: float) -> float:
        async with admission.start():
            began = loop.time()
            await asyncio.sleep(seconds)
            return began

    assert list(await asyncio.gather(start(2), start(2), start(9))) == [0, 2, 4]
    first = asyncio.create_task(start(6))
    await asyncio.sleep(0)
    with pytest.raises(LimitReached, match="being started"):
        await start(0)
    await first


@virtual
async def test_a_turn_that_comes_after_a_drain_has_begun_starts_nothing() -> None:
    """Ours: nothing starts while we shut down."""
    admission = _admission(max_starting=1)
    admission.check()
    async with admission.start():
        waiting = asyncio.create_task(_fail_to_start(admission))
        await asyncio.sleep(1)
        admission.draining = True
    assert isinstance(await waiting, Draining)
    with pytest.raises(Draining):
        admission.check()


async def _fail_to_start(admission: Admission) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        async with admission.start():
            pass
    return caught.value


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (SpawnError("fake", "no"), True),
        (StartTimeout(1), True),
        (BridgeBroken("gone"), True),
        (CapacityError("fake", "no", resource="processes", used=1, limit=1), False),
        (RemoteProtocolError("refused", code=-1), False),
        (asyncio.CancelledError(), False),
    ],
)
@virtual
async def test_the_breaker_hears_of_what_is_the_servers_fault(error: Exception, counts: bool) -> None:  # noqa: FBT001
    """Ours: a limit of this machine or a client that goes away is none of its failures."""
    admission = _admission()
    for _ in range(2):
        await _fail(admission, error)
    assert (admission.breaker_statistics().state is BreakerState.OPEN) == counts


@virtual
async def test_an_open_breaker_lets_one_trial_through_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: the others are told when; its secrets are told nobody."""
    caplog.set_level(logging.WARNING)
    admission = _admission()
    for _ in range(2):
        await _fail(admission, BridgeBroken(f"gone with {SECRET}"))
    with pytest.raises(ServerFailing) as caught, admission.place():
        pass
    assert caught.value.retry_after == 10
    assert isinstance(await _fail_to_start(admission), ServerFailing)
    await asyncio.sleep(10)
    async with admission.start():
        assert isinstance(await _fail_to_start(admission), ServerFailing)
        admission.answered()
    assert admission.breaker_statistics().state is BreakerState.CLOSED
    admission.answered()
    assert [record.message for record in caplog.records] == ["server.breaker_opened", "server.breaker_closed"]
    assert SECRET not in str(vars(caplog.records[0]))


@virtual
async def test_what_fails_because_we_end_everything_is_no_failure() -> None:
    """Ours."""
    admission = _admission()
    for _ in range(2):
        with contextlib.suppress(BridgeBroken):
            async with admission.start():
                admission.draining = True
                raise BridgeBroken("stopped")
        admission.draining = False
    assert admission.breaker_statistics().state is BreakerState.CLOSED
