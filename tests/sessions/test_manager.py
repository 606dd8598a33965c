"""All sessions of a node: opened within bounds, found by their owner only, ended whole."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from stdio_broker.bridge import Bridge, Exchange, Link
from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.errors import (
    BridgeBroken,
    CapacityError,
    ChildGone,
    Draining,
    LimitReached,
    LocalProtocolError,
    RemoteProtocolError,
    ServerFailing,
    SessionNotFound,
    SpawnError,
    StartTimeout,
)
from stdio_broker.protocol.jsonrpc import Request, parse_body
from stdio_broker.sessions import (
    ANONYMOUS,
    Opened,
    Principal,
    Quotas,
    QuotaSettings,
    ServerRecipe,
    Session,
    SessionIds,
    SessionManager,
    Settings,
)
from stdio_broker.supervisor import Child, Config, Supervisor
from stdio_broker.supervisor.restart import BreakerState, RestartPolicy
from tests.support.edge import CHILD, UNBOUNDED, child_config, managing
from tests.support.mcp_client import Message
from tests.support.processes import wait_until

ANNA = Principal(issuer="https://id.example.com", subject="anna")
BERND = Principal(issuer="https://id.example.com", subject="bernd")
ONE_AT_A_TIME = dataclasses.replace(UNBOUNDED, max_starting=1)


def request(method: str, **params: object) -> Request:
    """Return a request as the endpoint parses it."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    message = parse_body(body.encode())
    assert isinstance(message, Request)
    return message


def initialize() -> Request:
    """Return an `initialize`."""
    return request("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={})


def tool(name: str, **arguments: object) -> Request:
    """Return a call of a tool of `mcp_child.py`."""
    return request("tools/call", name=name, arguments=arguments)


async def open_session(manager: SessionManager, principal: Principal = ANONYMOUS) -> Session:
    """Open a session and take its answer, as the endpoint does."""
    opened = await manager.open(principal, initialize())
    assert opened.session is not None
    await answer_on(opened.exchange)
    opened.bridge.release(opened.exchange)
    return opened.session


def with_child(manager: SessionManager) -> int:
    """Return how many sessions have a child; before that they wait for their turn."""
    return sum(session.link is not None for session in manager._sessions.values())  # noqa: SLF001


async def answer_on(exchange: Exchange) -> Message:
    """Return the answer on an exchange."""
    async with asyncio.timeout(10):
        answer: Message = json.loads(await exchange.wait_answered())
    return answer


async def call(session: Session, name: str, **arguments: object) -> Message:
    """Call a tool; return its answer."""
    exchange = await session.bridge.call(tool(name, **arguments))
    try:
        return await answer_on(exchange)
    finally:
        session.bridge.release(exchange)


async def test_a_session_is_found_by_its_owner_only() -> None:
    """design.md, 6.7: ids are bound to the principal; a foreign id answers exactly like an unknown one."""
    async with managing() as (manager, _):
        session = await open_session(manager, ANNA)
        assert manager.find(ANNA, session.id) is session
        problems: list[str] = []
        strangers = [BERND, ANONYMOUS, Principal("https://other.example.com", "anna")]
        for principal, session_id in [*((stranger, session.id) for stranger in strangers), (ANNA, "unknown")]:
            with pytest.raises(SessionNotFound) as caught:
                manager.find(principal, session_id)
            problems.append(str(caught.value))
        assert len(set(problems)) == 1


async def test_a_session_that_has_ended_is_not_found() -> None:
    """2025-11-25, transports: an ended session MUST be 404."""
    async with managing() as (manager, supervisor):
        session = await open_session(manager)
        manager.end(session, "the test says so")
        assert session.ended == "the test says so"
        with pytest.raises(SessionNotFound):
            manager.find(ANONYMOUS, session.id)
        manager.end(session, "again")
        assert session.ended == "the test says so"
        await wait_until(lambda: supervisor.statistics().running == 0)


async def test_statistics_tell_sessions_from_places() -> None:
    """Ours: a place is taken from before the start of a child until after its end."""
    stubborn = child_config("ignore-eof", eof_grace=0.2)
    async with managing(stubborn, settings=Settings(max_sessions=7)) as (manager, _):
        session = await open_session(manager)
        statistics = manager.statistics()
        assert (statistics.sessions, statistics.places, statistics.max_sessions) == (1, 1, 7)
        assert not statistics.draining
        manager.end(session, "the test says so")
        assert (manager.statistics().sessions, manager.statistics().places) == (0, 1)
        await wait_until(lambda: manager.statistics().places == 0)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        pytest.param(child_config("version=1999-01-01"), RemoteProtocolError, id="unknown revision"),
        pytest.param(child_config("silent"), StartTimeout, id="no answer"),
        pytest.param(Config(cmd=("/nonexistent",)), SpawnError, id="no such program"),
    ],
)
async def test_an_open_that_fails_takes_no_place_and_leaves_no_child(
    config: Config, error: type[Exception]
) -> None:
    """Ours: the place comes back however it fails."""
    async with managing(config, settings=Settings(start_timeout=0.5)) as (manager, supervisor):
        with pytest.raises(error):
            await manager.open(ANONYMOUS, initialize())
        assert manager.statistics().sessions == 0
        await wait_until(lambda: manager.statistics().places == 0)
        assert supervisor.statistics().running == 0


@pytest.mark.parametrize("modes", [("refuse",), ("die-on=initialize",)])
async def test_a_refusal_of_the_server_opens_no_session_but_is_there_to_be_read(
    modes: tuple[str, ...],
) -> None:
    """protocol.md, 6.2: an error passes to the client, and the child is stopped."""
    async with managing(child_config(*modes)) as (manager, supervisor):
        opened = await manager.open(ANONYMOUS, initialize())
        assert opened.session is None
        assert "error" in await answer_on(opened.exchange)
        opened.bridge.release(opened.exchange)
        await wait_until(lambda: manager.statistics().places == 0)
        assert supervisor.statistics().running == 0


async def test_a_program_that_reads_nothing_and_ends_is_a_broken_bridge_or_a_refusal() -> None:
    """Ours: `true` as a server: whether its end or our line comes first, no session and nothing left."""
    async with managing(Config(cmd=("true",))) as (manager, supervisor):
        try:
            opened: Opened | None = await manager.open(ANONYMOUS, initialize())
        except BridgeBroken:
            opened = None
        assert opened is None or opened.session is None
        await wait_until(lambda: manager.statistics().places == 0)
        assert supervisor.statistics().running == 0


async def test_an_initialize_without_a_version_is_refused_before_anything_is_started() -> None:
    """2025-11-25, lifecycle: a protocol version is required."""
    async with managing() as (manager, supervisor):
        with pytest.raises(LocalProtocolError):
            await manager.open(ANONYMOUS, request("initialize"))
        assert supervisor.statistics().started == 0


async def test_cancelling_an_open_stops_its_child() -> None:
    """Ours: the client has gone, and would never learn the id."""
    async with managing(child_config("silent")) as (manager, supervisor):
        opening = asyncio.create_task(manager.open(ANONYMOUS, initialize()))
        await wait_until(lambda: with_child(manager) == 1)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await wait_until(lambda: manager.statistics().places == 0)
        assert supervisor.statistics().running == 0


async def test_cancelling_an_open_before_its_child_runs_takes_no_place() -> None:
    """Ours: at whatever moment the client goes."""
    async with managing() as (manager, supervisor):
        for rounds in range(12):
            opening = asyncio.create_task(manager.open(ANONYMOUS, initialize()))
            for _ in range(rounds):
                await asyncio.sleep(0)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        await wait_until(lambda: manager.statistics().places == 0)
        await wait_until(lambda: supervisor.statistics().running == 0)


async def test_one_session_too_many_is_refused_with_the_time_to_wait() -> None:
    """design.md, 6.12: admission limits."""
    async with managing(settings=Settings(max_sessions=2, retry_after=7)) as (manager, supervisor):
        await open_session(manager)
        await open_session(manager)
        with pytest.raises(LimitReached, match="2 sessions") as caught:
            await manager.open(ANONYMOUS, initialize())
        assert caught.value.retry_after == 7
        assert supervisor.statistics().started == 2


async def test_only_so_many_children_are_started_at_once(tmp_path: Path) -> None:
    """Ours: `max_starting`: a start costs far more than a running child."""
    go = tmp_path / "go"
    quotas = dataclasses.replace(UNBOUNDED, max_starting=2)
    async with managing(child_config(f"start-when={go}"), quotas=quotas) as (manager, supervisor):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(open_session(manager))
            await wait_until(lambda: with_child(manager) == 2)
            for _ in range(20):
                await asyncio.sleep(0)
            assert (supervisor.statistics().started, manager.statistics().places) == (2, 5)
            assert manager.statistics().asleep == 0  # they are not: they wait for their turn
            go.touch()
        assert manager.statistics().sessions == 5


async def test_waiting_for_a_turn_to_start_is_bounded(tmp_path: Path) -> None:
    """Ours: `queue_timeout`; the place comes back."""
    quotas = dataclasses.replace(UNBOUNDED, max_starting=1, queue_timeout=0.1)
    config = child_config(f"start-when={tmp_path / 'go'}", eof_grace=0.1)
    async with managing(config, quotas=quotas) as (manager, supervisor):
        first = asyncio.create_task(manager.open(ANONYMOUS, initialize()))
        await wait_until(lambda: with_child(manager) == 1)
        with pytest.raises(LimitReached):
            await manager.open(ANONYMOUS, initialize())
        assert manager.statistics().places == 1
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await wait_until(lambda: supervisor.statistics().running == 0)


# Draining.


async def test_draining_waits_for_open_calls_and_lets_nothing_new_in() -> None:
    """errors.Draining: calls in flight may finish, nothing new starts."""
    async with managing() as (manager, _):
        session = await open_session(manager)
        waiting = asyncio.create_task(call(session, "wait", seconds=0.3))
        await wait_until(lambda: session.bridge.busy)
        async with asyncio.timeout(10):
            draining = asyncio.create_task(manager.drain(10))
            await asyncio.sleep(0)
            with pytest.raises(Draining):
                await manager.open(ANONYMOUS, initialize())
            with pytest.raises(Draining):
                manager.check_accepting()
            await draining
        assert "result" in await waiting
        assert manager.statistics().draining
        assert manager.statistics().sessions == 1


async def test_draining_waits_no_longer_than_its_grace() -> None:
    """Ours: `drain_grace`."""
    async with managing() as (manager, _):
        session = await open_session(manager)
        waiting = asyncio.create_task(call(session, "wait"))
        await wait_until(lambda: session.bridge.busy)
        async with asyncio.timeout(5):
            await manager.drain(0.2)
        assert not waiting.done()
        manager.end_all("the broker is shutting down")
        assert "shutting down" in (await waiting)["error"]["message"]


async def test_draining_when_nobody_waits_takes_no_time() -> None:
    """Ours: an idle broker stops at once."""
    async with managing() as (manager, _):
        await open_session(manager)
        async with asyncio.timeout(1):
            await manager.drain(60)


async def test_what_waits_for_its_turn_when_draining_begins_is_not_started(tmp_path: Path) -> None:
    """errors.Draining: nothing new starts; what starts after the sessions were ended would never end."""
    go = tmp_path / "go"
    async with managing(child_config(f"start-when={go}"), quotas=ONE_AT_A_TIME) as (manager, supervisor):
        opening = [asyncio.create_task(manager.open(ANONYMOUS, initialize())) for _ in range(3)]
        await wait_until(lambda: with_child(manager) == 1)
        draining = asyncio.create_task(manager.drain(10))
        await asyncio.sleep(0)
        go.touch()
        async with asyncio.timeout(10):
            first, *others = await asyncio.gather(*opening, return_exceptions=True)
        assert isinstance(first, Opened)
        first.bridge.release(first.exchange)
        assert [type(other) for other in others] == [Draining, Draining]
        await draining
        assert supervisor.statistics().started == 1


async def ends_by_itself(work: asyncio.Task[None], supervisor: Supervisor) -> bool:
    """Tell whether the work ends soon. If not, end its children, so that it can.

    Not `asyncio.timeout`: a manager that waits for a child cannot be cancelled.
    """
    _, pending = await asyncio.wait({work}, timeout=5)
    still_pending = pending
    while still_pending:
        await supervisor.stop_all()
        _, still_pending = await asyncio.wait({work}, timeout=0.2)
    return not pending


def unaided(supervisor: Supervisor, config: Config, quotas: QuotaSettings = UNBOUNDED) -> SessionManager:
    """Return a manager that nobody helps to end its sessions."""
    return SessionManager(
        ServerRecipe("child", config),
        supervisor,
        settings=Settings(recovery="end"),
        bridge_settings=BridgeSettings(),
        ids=SessionIds(),
        quotas=Quotas(quotas, now=asyncio.get_running_loop().time),
    )


async def test_leaving_the_block_while_sessions_are_being_opened_leaves_nothing(tmp_path: Path) -> None:
    """Ours: whoever is in the queue gets an error, and no child is left or waited for without end."""
    config = child_config(f"start-when={tmp_path / 'go'}", eof_grace=0.1)
    opening: list[asyncio.Task[Opened]] = []
    async with Supervisor() as supervisor:

        async def open_and_leave() -> None:
            async with unaided(supervisor, config, ONE_AT_A_TIME) as manager:
                opening.extend(asyncio.create_task(manager.open(ANONYMOUS, initialize())) for _ in range(4))
                await wait_until(lambda: with_child(manager) == 1)

        in_time = await ends_by_itself(asyncio.create_task(open_and_leave()), supervisor)
        first, *others = await asyncio.gather(*opening, return_exceptions=True)
    assert in_time
    assert isinstance(first, Opened)
    assert first.session is None
    assert [type(other) for other in others] == [Draining] * 3
    assert supervisor.statistics().started == 1


async def test_leaving_the_block_ends_every_session() -> None:
    """Ours: no child outlives its manager."""
    async with managing() as (manager, supervisor):
        sessions = [await open_session(manager) for _ in range(3)]
        waiting = [asyncio.create_task(call(session, "wait")) for session in sessions]
        await wait_until(lambda: all(session.bridge.busy for session in sessions))
    assert supervisor.statistics().running == 0
    assert ["error" in answer for answer in await asyncio.gather(*waiting)] == [True] * 3


async def test_an_error_in_the_block_ends_every_session_too() -> None:
    """Style guide, "Concurrency": whoever opens a thing closes it, whatever else went wrong."""
    async with Supervisor() as supervisor:

        async def fail() -> None:
            async with unaided(supervisor, child_config()) as manager:
                await open_session(manager)
                raise LookupError("something else")

        failing = asyncio.create_task(fail())
        in_time = await ends_by_itself(failing, supervisor)
        with pytest.raises((LookupError, ExceptionGroup)):
            await failing
    assert in_time


async def test_a_mistake_of_ours_ends_the_session_that_it_happened_in_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: an entry point logs what it did not expect; the child is stopped, and the others live on."""
    async with managing() as (manager, supervisor):
        good = await open_session(manager)
        run = Bridge.run

        async def fail(_bridge: Bridge, _link: Link) -> None:
            raise LookupError("a mistake")

        monkeypatch.setattr(Bridge, "run", fail)
        opened = await manager.open(ANONYMOUS, initialize())
        monkeypatch.setattr(Bridge, "run", run)
        assert opened.session is None
        opened.bridge.release(opened.exchange)
        await wait_until(lambda: supervisor.statistics().running == 1)
        assert "child.failed" in caplog.messages
        assert "result" in await call(good, "echo", text="hello")


# Idleness.


async def test_a_session_without_requests_ends_by_itself() -> None:
    """protocol.md, 6.2: the idle timeout does what DELETE does."""
    async with managing(settings=Settings(idle_timeout=0.2)) as (manager, supervisor):
        session = await open_session(manager)
        await wait_until(lambda: session.ended == "idle")
        with pytest.raises(SessionNotFound):
            manager.find(ANONYMOUS, session.id)
        await wait_until(lambda: supervisor.statistics().running == 0)


async def test_an_open_get_stream_does_not_keep_a_session_alive() -> None:
    """Ours: its client may have vanished without a word."""
    async with managing(settings=Settings(idle_timeout=0.2)) as (manager, _):
        session = await open_session(manager)
        stream = session.bridge.listen()
        await wait_until(lambda: session.ended == "idle")
        assert not stream.open
        session.bridge.release(stream)


async def test_a_session_is_not_idle_while_a_call_runs_and_for_a_while_after() -> None:
    """design.md, 6.5: a child that owes something is never idle; the time counts from its answer."""
    async with managing(settings=Settings(idle_timeout=0.2)) as (manager, _):
        session = await open_session(manager)
        assert "result" in await call(session, "wait", seconds=0.7)
        answered = asyncio.get_running_loop().time()
        assert session.ended is None
        await wait_until(lambda: session.ended == "idle")
        assert asyncio.get_running_loop().time() - answered > 0.19


async def test_every_request_of_the_owner_keeps_a_session_alive() -> None:
    """Ours: idle is the time since the last request, of any kind."""
    async with managing(settings=Settings(idle_timeout=0.3)) as (manager, _):
        session = await open_session(manager)
        for _ in range(8):
            await asyncio.sleep(0.1)
            assert manager.find(ANONYMOUS, session.id) is session


async def test_requests_of_strangers_do_not_keep_a_session_alive() -> None:
    """Ours: who may not use it cannot hold it either."""
    async with managing(settings=Settings(idle_timeout=0.2)) as (manager, _):
        session = await open_session(manager, ANNA)

        def tried_and_ended() -> bool:
            with pytest.raises(SessionNotFound):
                manager.find(BERND, session.id)
            return session.ended == "idle"

        await wait_until(tried_and_ended)


# A server that keeps failing.

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
NO_MERCY = RestartPolicy(max_restarts=0, first_backoff=300.0, max_backoff=300.0)


def longest(_low: float, high: float) -> float:
    """Draw the longest back-off."""
    return high


def shortest(low: float, _high: float) -> float:
    """Draw no back-off at all: who comes next is the trial."""
    return low


@contextlib.asynccontextmanager
async def breaking(
    config: Config,
    *,
    uniform: Callable[[float, float], float] = longest,
    policy: RestartPolicy = NO_MERCY,
    quotas: QuotaSettings = UNBOUNDED,
    start_timeout: float = 20.0,
    secrets: frozenset[str] = frozenset(),
) -> AsyncIterator[tuple[SessionManager, Supervisor]]:
    """Manage sessions of a server that is left alone after one failure, if the policy says no other."""
    async with Supervisor() as supervisor:
        manager = SessionManager(
            ServerRecipe("failing", config, secrets),
            supervisor,
            settings=Settings(recovery="end", breaker=policy, start_timeout=start_timeout),
            bridge_settings=BridgeSettings(),
            ids=SessionIds(),
            quotas=Quotas(quotas, now=asyncio.get_running_loop().time),
            uniform=uniform,
        )
        async with manager:
            try:
                yield manager, supervisor
            finally:
                manager.end_all("the test is over")
                await supervisor.stop_all()


def state(manager: SessionManager) -> BreakerState:
    return manager.statistics().breaker.state


async def try_to_open(manager: SessionManager) -> Session | None:
    """Open a session, or find out that the server fails."""
    async with asyncio.timeout(20):
        try:
            opened = await manager.open(ANONYMOUS, initialize())
        except (SpawnError, StartTimeout, BridgeBroken, RemoteProtocolError):
            return None
    await answer_on(opened.exchange)
    opened.bridge.release(opened.exchange)
    return opened.session


def once_there(path: Path, *modes: str) -> Config:
    """Return a server that ends at its start until a file is there."""
    return Config(cmd=("sh", "-c", 'test -e "$0" || exit 3; exec "$@"', str(path), *CHILD, *modes))


async def test_a_restart_storm_opens_the_breaker_and_health_changes(caplog: pytest.LogCaptureFixture) -> None:
    """F38. mcp-proxy #247: its child is dead, and it goes on to say that all is well."""
    policy = RestartPolicy(first_backoff=100.0, max_backoff=300.0)
    config = child_config("die-on=initialize")
    async with breaking(config, policy=policy) as (manager, supervisor):
        for failures in range(1, 4):
            assert await try_to_open(manager) is None
            breaker = manager.statistics().breaker
            assert (breaker.state, breaker.failures, breaker.retry_after) == (CLOSED, failures, 0.0)
        assert await try_to_open(manager) is None
        breaker = manager.statistics().breaker
        assert (breaker.state, breaker.failures) == (OPEN, 4)
        assert breaker.last_reason == "the server process exited with code 3 before it answered `initialize`"
        with pytest.raises(ServerFailing) as caught:
            await manager.open(ANONYMOUS, initialize())
        with pytest.raises(ServerFailing):
            await manager.open(ANONYMOUS, initialize())
        assert str(caught.value) == "the server keeps failing; it is tried again in a while"
        assert 280 < caught.value.retry_after <= 300
        assert 280 < manager.statistics().breaker.retry_after <= 300
        assert supervisor.statistics().started == 4
        await wait_until(lambda: manager.statistics().places == 0)
    opened = [vars(record) for record in caplog.records if record.msg == "server.breaker_opened"]
    assert [(record["server"], record["reason"], record["retry_after"]) for record in opened] == [
        ("failing", breaker.last_reason, pytest.approx(300.0))
    ]


@pytest.mark.parametrize(
    ("config", "start_timeout", "reason"),
    [
        pytest.param(
            Config(cmd=("/nonexistent",)), 20, "cannot start '/nonexistent'", id="there is no such program"
        ),
        pytest.param(
            child_config("silent"), 0.2, "did not answer `initialize` within 0.2 s", id="it does not answer"
        ),
        pytest.param(
            Config(cmd=("sh", "-c", "exec >&-; cat >&2")),
            20,
            "the server process closed its output before it answered `initialize`",
            id="it cannot answer",
        ),
    ],
)
async def test_every_way_to_fail_is_a_failure(config: Config, start_timeout: float, reason: str) -> None:
    """Ours: a client cannot use any of them."""
    async with breaking(config, start_timeout=start_timeout) as (manager, _):
        assert await try_to_open(manager) is None
        breaker = manager.statistics().breaker
        assert breaker.state is OPEN
        assert reason in str(breaker.last_reason)


async def test_an_end_before_the_request_was_read_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: which of both is faster is a matter of microseconds."""

    async def gone(_bridge: Bridge, _request: Request) -> Exchange:
        raise ChildGone("too late")

    monkeypatch.setattr(Bridge, "call", gone)
    async with breaking(child_config()) as (manager, _):
        with pytest.raises(BridgeBroken):
            await manager.open(ANONYMOUS, initialize())
        assert state(manager) is OPEN


async def test_what_is_told_of_a_failure_holds_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Style guide, "Logging": a secret may even be part of the command."""
    config = Config(cmd=("/nonexistent/hunter2",))
    async with breaking(config, secrets=frozenset({"hunter2"})) as (manager, _):
        assert await try_to_open(manager) is None
        assert "/nonexistent/[redacted]" in str(manager.statistics().breaker.last_reason)
    assert not any("hunter2" in str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize("mode", ["refuse", "version=1999-01-01"])
async def test_an_answer_that_opens_no_session_is_no_failure(mode: str) -> None:
    """Ours: one user's bad input must not shut out everybody."""
    async with breaking(child_config(mode)) as (manager, _):
        for _ in range(3):
            assert await try_to_open(manager) is None
            assert manager.statistics().breaker.failures == 0
        assert state(manager) is CLOSED


async def test_a_session_that_crashes_is_counted_but_is_no_failure() -> None:
    """Ours: it was one user's call that crashed it, and an agent repeats that."""
    async with breaking(child_config()) as (manager, _):
        for crashes in range(1, 3):
            session = await open_session(manager)
            assert "error" in await call(session, "die", code=9)
            await wait_until(lambda: manager.statistics().sessions == 0)
            assert manager.statistics().crashes == crashes
        assert state(manager) is CLOSED


async def test_a_session_that_is_ended_or_never_agreed_is_no_crash() -> None:
    """Ours: they are counted for operators, who want to know what broke."""
    async with breaking(child_config("exit-at-start=3"), policy=RestartPolicy()) as (manager, _):
        assert await try_to_open(manager) is None
        await wait_until(lambda: manager.statistics().places == 0)
        assert manager.statistics().crashes == 0
    async with breaking(child_config()) as (manager, _):
        manager.end(await open_session(manager), "the test says so")
        await wait_until(lambda: manager.statistics().places == 0)
        assert manager.statistics().crashes == 0


async def test_a_session_that_opens_clears_the_record() -> None:
    """Ours: a server that fails now and then is not one that keeps failing."""
    policy = RestartPolicy(max_restarts=1, first_backoff=300.0, max_backoff=300.0)
    async with breaking(child_config(), policy=policy) as (manager, _):
        for _ in range(3):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Supervisor, "start", refuse_to_start)
                assert await try_to_open(manager) is None
            assert manager.statistics().breaker.failures == 1
            await open_session(manager)
            assert manager.statistics().breaker.failures == 0


async def refuse_to_start(_supervisor: Supervisor, _config: Config) -> Child:
    raise SpawnError("played", "no such program")


async def test_one_client_tries_a_failing_server_while_the_others_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: an answer closes the breaker at once, and what waits for a turn to start is not in its way."""
    mended, go = tmp_path / "mended", tmp_path / "go"
    config = once_there(mended, f"start-when={go}")
    async with breaking(config, uniform=shortest, quotas=ONE_AT_A_TIME) as (manager, supervisor):
        assert await try_to_open(manager) is None
        assert state(manager) is OPEN
        mended.touch()
        trial = asyncio.create_task(open_session(manager))
        await wait_until(lambda: with_child(manager) == 1)
        assert state(manager) is HALF_OPEN
        async with asyncio.timeout(10):  # far less than `queue_timeout`
            with pytest.raises(ServerFailing) as caught:
                await manager.open(ANONYMOUS, initialize())
        assert caught.value.retry_after == Settings().retry_after
        go.touch()
        await trial
        assert state(manager) is CLOSED
        await open_session(manager)
        assert supervisor.statistics().started == 3
    logged = [message for message in caplog.messages if message.startswith("server.breaker")]
    assert logged == ["server.breaker_opened", "server.breaker_closed"]


@pytest.mark.parametrize("mode", ["refuse", "version=1999-01-01"])
async def test_an_answer_that_opens_no_session_closes_the_breaker(tmp_path: Path, mode: str) -> None:
    """Ours: it starts and answers, which is all that was in doubt."""
    mended = tmp_path / "mended"
    async with breaking(once_there(mended, mode), uniform=shortest) as (manager, _):
        assert await try_to_open(manager) is None
        assert state(manager) is OPEN
        mended.touch()
        assert await try_to_open(manager) is None
        assert state(manager) is CLOSED


async def test_a_trial_that_fails_makes_the_next_wait_longer(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: the bound of the wait doubles; that it is still open is no news for the log."""
    bounds: list[float] = []

    def draw(_low: float, high: float) -> float:
        bounds.append(high)
        return 0.0

    policy = RestartPolicy(max_restarts=0, first_backoff=1.0, max_backoff=3.0)
    async with breaking(Config(cmd=("/nonexistent",)), uniform=draw, policy=policy) as (manager, _):
        for _ in range(4):
            assert await try_to_open(manager) is None
            assert state(manager) is OPEN
    assert bounds == [1.0, 2.0, 3.0, 3.0]
    assert caplog.messages.count("server.breaker_opened") == 1


async def test_a_trial_whose_client_goes_away_leaves_the_next_one_a_try(tmp_path: Path) -> None:
    """Ours: else nobody could ever try again."""
    mended, go = tmp_path / "mended", tmp_path / "go"
    async with breaking(once_there(mended, f"start-when={go}"), uniform=shortest) as (manager, _):
        assert await try_to_open(manager) is None
        mended.touch()
        trial = asyncio.create_task(manager.open(ANONYMOUS, initialize()))
        await wait_until(lambda: with_child(manager) == 1)
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial
        assert state(manager) is OPEN
        go.touch()
        await open_session(manager)
        assert state(manager) is CLOSED


async def test_who_waits_for_a_turn_when_the_breaker_opens_is_refused_without_a_start(tmp_path: Path) -> None:
    """Ours: the queue would be a restart storm of its own."""
    go = tmp_path / "go"
    config = Config(cmd=("sh", "-c", 'while ! test -e "$0"; do sleep 0.01; done; exit 3', str(go)))
    async with breaking(config, quotas=ONE_AT_A_TIME) as (manager, supervisor):
        first = asyncio.create_task(try_to_open(manager))
        await wait_until(lambda: with_child(manager) == 1)
        others = [asyncio.create_task(manager.open(ANONYMOUS, initialize())) for _ in range(3)]
        await wait_until(lambda: manager.statistics().places == 4)
        go.touch()
        assert await first is None
        outcomes = await asyncio.gather(*others, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ServerFailing] * 3
        assert supervisor.statistics().started == 1
        await wait_until(lambda: manager.statistics().places == 0)


async def test_a_limit_of_ours_is_no_failure_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: "the server keeps failing" would not be true."""

    async def refuse(_supervisor: Supervisor, _config: Config) -> Child:
        raise CapacityError("played", "no more files", resource="file descriptors", used=9, limit=9)

    monkeypatch.setattr(Supervisor, "start", refuse)
    async with breaking(child_config()) as (manager, _):
        with pytest.raises(CapacityError):
            await manager.open(ANONYMOUS, initialize())
        assert manager.statistics().breaker.failures == 0


async def test_a_session_that_we_end_before_its_answer_is_no_failure_of_the_server() -> None:
    """Ours: an operator may end it."""
    async with breaking(child_config("silent")) as (manager, _):
        opening = asyncio.create_task(try_to_open(manager))
        await wait_until(lambda: with_child(manager) == 1)
        manager.end_all("the test says so")
        assert await opening is None
        assert manager.statistics().breaker.failures == 0


async def test_what_ends_because_we_shut_down_is_no_failure_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ours: a second Ctrl-C kills the children themselves, and nobody shall be told that they failed."""
    async with breaking(child_config("silent")) as (manager, supervisor):
        opening = asyncio.create_task(try_to_open(manager))
        await wait_until(lambda: with_child(manager) == 1)
        await manager.drain(0.01)
        await supervisor.stop_all(eof_grace=0, stop_grace=0)
        assert await opening is None
        assert manager.statistics().breaker.failures == 0
    assert "server.breaker_opened" not in caplog.messages
