"""Places, turns, and a breaker: who may start a child of a server, and when."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Coroutine

import pytest

from stdio_broker.bridge import Settings as BridgeSettings
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
from stdio_broker.sessions import ANONYMOUS, Principal, Quotas, QuotaSettings, ServerRecipe, Settings
from stdio_broker.sessions.admission import Admission
from stdio_broker.sessions.state import ServerState
from stdio_broker.supervisor import Config
from stdio_broker.supervisor.restart import BreakerState, RestartPolicy
from tests.support.clock import run_in_virtual_time
from tests.support.edge import UNBOUNDED
from tests.support.tokens import Tokens, recipe_with_token

SECRET = "hunter2-hunter2"  # noqa: S105 - made up
ANNA = Principal(issuer="https://id.example.com", subject="anna")
BERND = Principal(issuer="https://id.example.com", subject="bernd")
POLICY = RestartPolicy(max_restarts=1, first_backoff=10, max_backoff=10)


def virtual(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run a test in virtual time."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


def _admission(
    *, quotas: QuotaSettings = UNBOUNDED, tokens: Tokens | None = None, **bounds: float
) -> Admission:
    config = Config(cmd=["fake"])
    recipe = ServerRecipe("fake", config) if tokens is None else recipe_with_token(config, tokens)
    settings = Settings(breaker=POLICY, **bounds)  # type: ignore[arg-type]
    return Admission(
        ServerState(recipe, settings, BridgeSettings()),
        Quotas(quotas, now=asyncio.get_running_loop().time),
        uniform=lambda _low, high: high,
    )


async def _fail(admission: Admission, error: BaseException, principal: Principal = ANNA) -> None:
    with contextlib.suppress(type(error)):
        async with admission.start(principal) as start:
            start.secrets = {SECRET}
            raise error


def _children(admission: Admission) -> tuple[int, int]:
    """Return the places taken of the server, and of the node."""
    return admission.places, admission.quotas.statistics().children


@virtual
async def test_a_place_is_given_back_at_the_end_of_the_block_or_later_by_whoever_keeps_it() -> None:
    """Ours: from before a start until nothing of its child is left."""
    admission = _admission(max_sessions=2)
    with admission.place(ANNA), admission.place(BERND) as kept:
        kept.pop_all()
        with pytest.raises(LimitReached, match="all 2 processes of the server"), admission.place(ANNA):
            pass
        assert _children(admission) == (2, 2)
    assert _children(admission) == (1, 1)
    admission.give_back(BERND)
    assert _children(admission) == (0, 0)
    with pytest.raises(ValueError, match="any"), admission.place(ANNA):
        raise ValueError("any")
    assert _children(admission) == (0, 0)
    assert admission.quotas.statistics().principals == 0


@virtual
async def test_a_place_of_the_server_is_one_of_the_node_and_of_its_principal() -> None:
    """Design, 6.12: whose limit it is says whether others are affected."""
    quotas = dataclasses.replace(UNBOUNDED, max_children=2, max_children_per_principal=1)
    admission, other = _admission(quotas=quotas), _admission()
    other.quotas = admission.quotas
    with admission.place(ANNA):
        with pytest.raises(LimitReached, match="yours"), admission.place(ANNA):
            pass
        with other.place(BERND):
            with pytest.raises(LimitReached, match="node"), admission.place(ANONYMOUS):
                pass
            assert (admission.places, other.places) == (1, 1)
    assert _children(admission) == _children(other) == (0, 0)


@virtual
async def test_max_children_are_the_places_where_it_is_set() -> None:
    """Settings.max_children: sessions may sleep, so there may be more of them."""
    admission = _admission(max_sessions=9, max_children=1)
    with admission.place(ANNA), pytest.raises(LimitReached), admission.place(ANNA):
        pass


@virtual
async def test_turns_are_limited_and_so_is_the_wait_for_one() -> None:
    """Ours: `max_starting`, `queue_timeout`."""
    admission = _admission(quotas=dataclasses.replace(UNBOUNDED, max_starting=1, queue_timeout=5))
    loop = asyncio.get_running_loop()

    async def start(seconds: float) -> float:
        async with admission.start(ANNA):
            began = loop.time()
            await asyncio.sleep(seconds)
            return began

    assert list(await asyncio.gather(start(2), start(2), start(9))) == [0, 2, 4]
    first = asyncio.create_task(start(6))
    await asyncio.sleep(0)
    with pytest.raises(LimitReached, match="no turn"):
        await start(0)
    await first


@virtual
async def test_a_turn_that_comes_after_a_drain_has_begun_starts_nothing() -> None:
    """Ours: nothing starts while we shut down."""
    admission = _admission(quotas=dataclasses.replace(UNBOUNDED, max_starting=1))
    admission.check()
    async with admission.start(ANNA):
        waiting = asyncio.create_task(_fail_to_start(admission))
        await asyncio.sleep(1)
        admission.draining = True
    assert isinstance(await waiting, Draining)
    with pytest.raises(Draining):
        admission.check()


async def _fail_to_start(admission: Admission, principal: Principal = ANNA) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        async with admission.start(principal):
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
async def test_the_breaker_hears_of_what_is_the_servers_fault(error: BaseException, counts: bool) -> None:  # noqa: FBT001
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
    with pytest.raises(ServerFailing) as caught, admission.place(ANNA):
        pass
    assert caught.value.retry_after == 10
    assert isinstance(await _fail_to_start(admission), ServerFailing)
    async with admission.start(BERND) as start:
        start.answered()
    assert "[redacted]" in str(admission.breaker_statistics().last_reason)
    await asyncio.sleep(10)
    async with admission.start(ANNA) as start:
        assert isinstance(await _fail_to_start(admission), ServerFailing)
        start.answered()
        start.answered()
    assert admission.breaker_statistics().state is BreakerState.CLOSED
    assert [record.message for record in caplog.records] == ["server.breaker_opened", "server.breaker_closed"]
    assert SECRET not in str(vars(caplog.records[0]))


@virtual
async def test_what_fails_because_we_end_everything_is_no_failure() -> None:
    """Ours."""
    admission = _admission()
    for _ in range(2):
        with contextlib.suppress(BridgeBroken):
            async with admission.start(ANNA):
                admission.draining = True
                raise BridgeBroken("stopped")
        admission.draining = False
    assert admission.breaker_statistics().state is BreakerState.CLOSED


@virtual
async def test_whoever_has_an_answer_tells_how_it_went_himself() -> None:
    """Ours: that the server ended before it answered is known from the answer only."""
    admission = _admission()
    for failures in (1, 2):
        async with admission.start(ANNA) as start:
            start.failed("it ended")
        assert admission.breaker_statistics().failures == failures
    assert admission.breaker_statistics().last_reason == "it ended"


@virtual
async def test_a_server_with_a_credential_for_each_principal_has_a_breaker_for_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ours: a token that the server does not start with is nobody else's."""
    caplog.set_level(logging.WARNING)
    admission = _admission(tokens=Tokens({ANNA: "a", BERND: "b"}))
    for _ in range(2):
        await _fail(admission, BridgeBroken("no such token"))
    assert isinstance(await _fail_to_start(admission), ServerFailing)
    with pytest.raises(ServerFailing), admission.place(ANNA):
        pass
    with admission.place(BERND):
        async with admission.start(BERND) as start:
            start.answered()
    # What is told of the server is told of whoever has least luck.
    assert admission.breaker_statistics().state is BreakerState.OPEN
    await asyncio.sleep(10)
    async with admission.start(ANNA) as start:
        start.answered()
    assert admission.breaker_statistics().state is BreakerState.CLOSED
    assert [vars(record)["principal"] for record in caplog.records] == ["anna", "anna"]


@virtual
async def test_nothing_is_kept_of_principals_whose_starts_went_well() -> None:
    """Style guide, "Data": every table has a bound."""
    admission = _admission(tokens=Tokens({}))
    for number in range(5):
        async with admission.start(Principal("id", str(number))) as start:
            start.answered()
    assert admission._breakers == {}  # noqa: SLF001
    await _fail(admission, BridgeBroken("gone"))
    assert len(admission._breakers) == 1  # noqa: SLF001
    await asyncio.sleep(POLICY.window + 1)
    async with admission.start(BERND) as start:
        start.answered()
    assert admission._breakers == {}  # noqa: SLF001


@virtual
async def test_a_start_that_nobody_tells_of_lets_the_next_one_try() -> None:
    """Ours: its client has gone; the trial must not keep everybody out for good."""
    admission = _admission()
    for _ in range(2):
        await _fail(admission, BridgeBroken("gone"))
    await asyncio.sleep(10)
    async with admission.start(ANNA):
        assert admission.breaker_statistics().state is BreakerState.HALF_OPEN
    assert admission.breaker_statistics().state is BreakerState.OPEN
    async with admission.start(ANNA) as start:
        start.answered()
    assert admission.breaker_statistics().state is BreakerState.CLOSED


@virtual
async def test_a_server_keeps_failing_if_it_does_for_more_than_one() -> None:
    """Ours: one principal alone must not take a node out of its balancer. Who is anonymous is everybody."""
    admission = _admission()
    for who, failing in ((ANNA, False), (BERND, True)):
        for _ in range(2):
            await _fail(admission, BridgeBroken("gone"), who)
        assert admission.keeps_failing() is failing
    await asyncio.sleep(10)
    assert not admission.keeps_failing()  # somebody has to try
    everybody = _admission()
    for _ in range(2):
        await _fail(everybody, BridgeBroken("gone"), ANONYMOUS)
    assert everybody.keeps_failing()
    everybody.works()
    assert not everybody.keeps_failing()
