"""Sessions of a server that takes no `initialize`: state of ours over the child of their principal."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest

from stdio_broker.bridge import Exchange, LegacySession, StreamEnded
from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.errors import (
    BrokerError,
    Draining,
    LimitReached,
    LocalProtocolError,
    RemoteProtocolError,
    SessionNotFound,
)
from stdio_broker.protocol.jsonrpc import Notification, Request, parse_body
from stdio_broker.sessions import (
    Principal,
    ServerFacts,
    ServerRecipe,
    Session,
    SessionIds,
    SessionManager,
    Settings,
)
from stdio_broker.supervisor import Child, Config, ExitStatus
from tests.support.clock import run_in_virtual_time
from tests.support.fake_servers import FakeServers, Message, answer_line, discover_result

ANNA = Principal(issuer="https://id.example.com", subject="anna")
BERND = Principal(issuer="https://id.example.com", subject="bernd")


def virtual(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run a test in virtual time."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


@contextlib.asynccontextmanager
async def managing(
    servers: FakeServers, *, settings: Settings | None = None, facts: ServerFacts | None = None
) -> AsyncIterator[SessionManager]:
    """Manage sessions of a fake server; fail if anything of them is left."""
    manager = SessionManager(
        ServerRecipe("fake", Config(cmd=["fake"], eof_grace=0.1, stop_grace=0.1)),
        servers,
        settings=settings or Settings(),
        bridge_settings=BridgeSettings(),
        ids=SessionIds(),
        facts=facts,
    )
    async with manager:
        yield manager
    assert (servers.alive, manager.statistics().places, len(manager.leases)) == (0, 0, 0)


def request(method: str, **params: object) -> Request:
    """Return a request as the endpoint parses it."""
    message = parse_body(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())
    assert isinstance(message, Request)
    return message


def initialize(version: str = "2025-11-25") -> Request:
    """Return an `initialize`."""
    return request("initialize", protocolVersion=version, capabilities={}, clientInfo={"name": "c"})


async def open_session(
    manager: SessionManager, principal: Principal = ANNA, version: str = "2025-11-25"
) -> Session:
    """Open a session, as a well-behaved client does."""
    opened = await manager.open(principal, initialize(version))
    assert opened.session is not None
    await answer_on(opened.exchange)
    opened.bridge.release(opened.exchange)
    message = parse_body(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
    assert isinstance(message, Notification)
    await opened.bridge.notify(message)
    await asyncio.sleep(0.01)
    return opened.session


def own_child(session: Session) -> Child | None:
    """Return the child that only this session has."""
    return None if session.link is None else session.link.child


async def answer_on(exchange: Exchange) -> Message:
    """Return the answer on an exchange."""
    async with asyncio.timeout(10_000):
        answer: Message = json.loads(await exchange.wait_answered())
    return answer


async def problem_of(manager: SessionManager, principal: Principal = ANNA) -> BrokerError:
    """Return what an `initialize` fails with."""
    with pytest.raises(BrokerError) as caught:
        await manager.open(principal, initialize())
    return caught.value


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2099-01-01"])
@virtual
async def test_initialize_is_answered_from_the_discovery(version: str) -> None:
    """protocol.md, 5; an unknown version gets the newest."""
    servers = FakeServers.modern()
    servers.discover = {**discover_result(), "instructions": "Use it."}
    async with managing(servers) as manager:
        opened = await manager.open(ANNA, initialize(version))
        assert (await answer_on(opened.exchange))["result"] == {
            "protocolVersion": "2025-11-25" if version == "2099-01-01" else version,
            "capabilities": discover_result()["capabilities"],
            "serverInfo": {"name": "fake", "version": "1"},
            "instructions": "Use it.",
        }
        assert opened.session is not None
        assert opened.session.agreement is not None
        assert opened.session.agreement.revision.batches == (version == "2025-03-26")


@virtual
async def test_the_era_is_found_out_once_with_a_fresh_process() -> None:
    """protocol.md, 2.1: stop P; fresh process, discover."""
    servers = FakeServers.modern()
    async with managing(servers) as manager:
        sessions = [await open_session(manager) for _ in range(3)]
        assert [servers.heard(child)[0] for child in servers.children] == ["initialize", "server/discover"]
        assert servers.children[0].exited.is_set()
        assert len({session.id for session in sessions}) == 3
        statistics = manager.statistics()
        assert (statistics.sessions, statistics.places, statistics.crashes) == (3, 1, 0)
        await open_session(manager, BERND)
        assert manager.statistics().places == 2


@pytest.mark.parametrize("code", [-32022, -32601, -32602])
@virtual
async def test_whichever_way_a_modern_server_refuses_initialize_it_is_found_out(code: int) -> None:
    """MCP 2026-07-28, basic/versioning: it SHOULD name its versions; -32601 says enough without."""
    message = "supported: 2026-07-28" if code == -32602 else "no"
    servers = FakeServers(initialize={"code": code, "message": message})
    async with managing(servers) as manager:
        assert isinstance((await open_session(manager)).bridge, LegacySession)


@virtual
async def test_a_refusal_that_names_no_version_is_the_clients() -> None:
    """Ours: a server may refuse what a client asks for."""
    servers = FakeServers(initialize={"code": -32602, "message": "no"})
    async with managing(servers) as manager:
        opened = await manager.open(ANNA, initialize())
        assert opened.session is None
        assert (await answer_on(opened.exchange))["error"]["message"] == "no"


@virtual
async def test_one_place_is_enough_for_a_session_and_its_child() -> None:
    """Ours: places bound processes, and this session has none."""
    servers = FakeServers.modern()
    async with managing(servers, settings=Settings(max_sessions=1)) as manager:
        session = await open_session(manager)
        assert isinstance(await problem_of(manager), LimitReached)
        manager.end(session, "the test says so")
        await asyncio.sleep(0.01)
        await open_session(manager)


@virtual
async def test_sessions_that_open_at_once_do_not_exceed_their_number() -> None:
    """Ours: `max_sessions`, also while their child is being started."""
    servers = FakeServers.modern()
    facts = ServerFacts(speaks_legacy=False)
    async with managing(servers, settings=Settings(max_sessions=2), facts=facts) as manager:
        servers.start_seconds = 1
        opened = await asyncio.gather(
            *(manager.open(ANNA, initialize()) for _ in range(5)), return_exceptions=True
        )
        assert sum(isinstance(one, LimitReached) for one in opened) == 3
        assert manager.statistics().sessions == 2
        assert len(servers.children) == 1


@virtual
async def test_a_drain_does_not_wait_for_changes_but_for_answers() -> None:
    """Ours: a stream of changes is no answer."""
    servers = FakeServers.modern()
    async with managing(servers) as manager:
        session = await open_session(manager)
        assert manager.leases.busy
        exchange = await session.bridge.call(request("tools/call", name="t"))
        began = asyncio.get_running_loop().time()
        draining = asyncio.create_task(manager.drain(100))
        await asyncio.sleep(5)
        assert not draining.done()
        calls = [json.loads(line) for line in servers.child.stdin.lines]
        (call,) = [one for one in calls if one["method"] == "tools/call"]
        await servers.child.says(answer_line(call["id"], {"content": []}))
        assert "result" in await answer_on(exchange)
        await draining
        assert asyncio.get_running_loop().time() - began < 6
        assert isinstance(await problem_of(manager), Draining)


@virtual
async def test_a_session_survives_its_child() -> None:
    """design.md, 6.6."""
    servers = FakeServers.modern()
    async with managing(servers) as manager:
        session = await open_session(manager)
        running = await session.bridge.call(request("tools/call", name="t"))
        await asyncio.sleep(0.01)
        servers.child.exit(ExitStatus(code=3, signal=None))
        assert (await answer_on(running))["error"]["data"]["exitCode"] == 3
        await asyncio.sleep(1)
        assert manager.find(ANNA, session.id) is session
        assert servers.heard() == ["server/discover", "subscriptions/listen"]
        assert manager.statistics().places == 1


@virtual
async def test_sessions_end_where_another_server_has_taken_the_place_of_theirs_and_new_ones_go_to_that() -> (
    None
):
    """protocol.md, 2.1: probe again when the assumption fails."""
    servers = FakeServers.modern()
    servers.discover = discover_result(capabilities={})  # so that nobody watches
    async with managing(servers) as manager:
        session = await open_session(manager)
        servers.become(FakeServers.legacy())
        servers.child.exit()
        await asyncio.sleep(1)
        exchange = await session.bridge.call(request("tools/call", name="t"))
        assert (await answer_on(exchange))["error"]["data"]["reason"] == "session ended"
        await asyncio.sleep(1)
        assert await exchange.receive(0) is not None
        with pytest.raises(StreamEnded):
            await exchange.receive(0)
        with pytest.raises(SessionNotFound):
            manager.find(ANNA, session.id)
        # Whoever comes second finds it ended.
        with pytest.raises(RemoteProtocolError):
            await manager._modern_child(session.id, ANNA)  # noqa: SLF001 -- tasks of it are cancelled
        session = await open_session(manager)
        assert own_child(session) is servers.child
        servers.become(FakeServers.modern())
        assert isinstance((await open_session(manager)).bridge, LegacySession)


@virtual
async def test_a_server_that_was_modern_is_asked_anew_when_it_is_not_any_more() -> None:
    """The same, in one `initialize`."""
    servers = FakeServers.legacy()
    async with managing(servers, facts=ServerFacts(speaks_legacy=False, speaks_modern=True)) as manager:
        assert own_child(await open_session(manager)) is servers.child


@virtual
async def test_a_server_that_speaks_neither_era_is_an_error_in_words() -> None:
    """Ours."""
    no = {"code": -32601, "message": "no"}
    for facts in (ServerFacts(), ServerFacts(speaks_legacy=False)):
        async with managing(FakeServers(discover=no, initialize=no), facts=facts) as manager:
            problem = await problem_of(manager)
            assert isinstance(problem, RemoteProtocolError)
            assert "server/discover" in str(problem)
            assert manager.statistics().sessions == 0


@virtual
async def test_a_server_of_a_later_revision_is_refused_by_name() -> None:
    """protocol.md, 2.1: -32022 with what it supports."""
    servers = FakeServers.modern()
    servers.discover = discover_result(["2099-01-01"])
    async with managing(servers) as manager:
        problem = await problem_of(manager)
        assert isinstance(problem, LocalProtocolError)
        assert b"2099-01-01" in (problem.data or b"")


@virtual
async def test_an_idle_session_and_then_its_idle_child_end() -> None:
    """protocol.md, D6: the stream of changes of a session is owed to it."""
    servers = FakeServers.modern()
    async with managing(servers, settings=Settings(idle_timeout=10, recovery="end")) as manager:
        await open_session(manager)
        await asyncio.sleep(9)
        assert manager.statistics().sessions == servers.alive == 1
        await asyncio.sleep(2)
        assert manager.statistics().sessions == 0
        await asyncio.sleep(11)
        assert servers.alive == manager.statistics().places == 0


@virtual
async def test_a_session_outlives_the_child_that_it_has_a_share_in() -> None:
    """Design, 6.6: idle → no child, the session is kept, and its next request starts one."""
    servers = FakeServers.modern()
    settings = Settings(idle_timeout=10, session_timeout=1000)
    async with managing(servers, settings=settings) as manager:
        session = await open_session(manager)
        listener = session.bridge.listen()
        await asyncio.sleep(25)
        assert (servers.alive, manager.statistics().places, len(manager.leases)) == (0, 0, 0)
        assert manager.statistics().sessions == 1
        before = len(servers.children)
        for woken in (1, 2):  # each time that it is idle, not once
            session = manager.find(ANNA, session.id)
            servers.results["tools/call"] = {"resultType": "complete", "content": []}
            exchange = await session.bridge.call(request("tools/call", name="t"))
            assert "result" in await answer_on(exchange)
            session.bridge.release(exchange)
            assert (len(servers.children) - before, servers.alive) == (woken, 1)
            await asyncio.sleep(35)
            assert servers.alive == 0
        assert listener.open
        await asyncio.sleep(1000)
        assert manager.statistics().sessions == 0


@virtual
async def test_a_session_that_is_told_of_changes_of_resources_keeps_its_child() -> None:
    """Ours: nobody would tell it."""
    servers = FakeServers.modern()
    async with managing(servers, settings=Settings(idle_timeout=10)) as manager:
        session = await open_session(manager)
        listener = session.bridge.listen()
        exchange = await session.bridge.call(request("resources/subscribe", uri="a:1"))
        assert "result" in await answer_on(exchange)
        session.bridge.release(exchange)
        await asyncio.sleep(100)
        assert servers.alive == 1
        session.bridge.release(listener)
        await asyncio.sleep(35)
        assert (servers.alive, manager.statistics().sessions) == (0, 1)


@virtual
async def test_a_client_that_gives_up_while_its_child_starts_leaves_no_session() -> None:
    """Ours."""
    servers = FakeServers.modern()
    async with managing(servers, facts=ServerFacts(speaks_legacy=False)) as manager:
        servers.start_seconds = 5
        opening = asyncio.create_task(manager.open(ANNA, initialize()))
        await asyncio.sleep(1)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await asyncio.sleep(5)
        assert (manager.statistics().sessions, manager.statistics().places) == (0, 1)


@virtual
async def test_leaving_the_manager_ends_what_just_began() -> None:
    """Ours: nothing hangs, whatever is under way."""
    servers = FakeServers.modern()
    async with managing(servers, facts=ServerFacts(speaks_legacy=False)) as manager:
        session = await open_session(manager)
        exchange = await session.bridge.call(request("tools/call", name="t"))
        servers.start_seconds = 5
        opening = asyncio.create_task(manager.open(BERND, initialize()))
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
    assert (await answer_on(exchange))["error"]["data"] == {"reason": "session ended", "retryable": False}
    with pytest.raises(Draining):
        await opening
    assert asyncio.get_running_loop().time() - began < 6
