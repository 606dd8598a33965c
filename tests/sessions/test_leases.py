"""Children for requests without a session: one start for many, the era found out, never two principals."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

import pytest

from stdio_broker.bridge import LegacyChild, ModernChild, Seal, SharedExchange, StreamEnded
from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.errors import (
    BridgeBroken,
    BrokerError,
    Draining,
    LimitReached,
    LocalProtocolError,
    RemoteProtocolError,
    ServerFailing,
    SpawnError,
    StartTimeout,
)
from stdio_broker.protocol.modern import ModernRequest
from stdio_broker.sessions import (
    ANONYMOUS,
    Leases,
    Principal,
    Quotas,
    QuotaSettings,
    ServerFacts,
    ServerRecipe,
    Settings,
)
from stdio_broker.sessions.admission import Admission
from stdio_broker.sessions.facts import MAX_SILENCES, MIN_DISCOVER_TIMEOUT
from stdio_broker.sessions.state import ServerState
from stdio_broker.supervisor import Config, ExitStatus
from stdio_broker.supervisor.restart import BreakerState, RestartPolicy
from stdio_broker.testing import FakeChild
from tests.support.clock import run_in_virtual_time
from tests.support.edge import UNBOUNDED
from tests.support.fake_servers import (
    ENDS,
    INITIALIZE_RESULT,
    PREFIX,
    SILENCE,
    FakeServers,
    Message,
    answer_line,
    discover_result,
    modern_request,
    notice,
)
from tests.support.tokens import Tokens, recipe_with_token

#: What is told of a child that has ended, besides how.
ENDED = {"reason": "server process ended", "retryable": True}

ANNA = Principal(issuer="https://id.example.com", subject="anna")
BERND = Principal(issuer="https://id.example.com", subject="bernd")
CONFIG = Config(cmd=["fake"], eof_grace=0.1, stop_grace=0.1)
FORMS: Message = {"elicitation": {"form": {}}}


class _Rig:
    """Leases of a fake server."""

    def __init__(
        self, servers: FakeServers, server: ServerState, quotas: QuotaSettings, tokens: Tokens | None
    ) -> None:
        self.servers = servers
        self.server = server
        self.tokens = tokens
        self.changes = 0
        self.quotas = Quotas(quotas, now=asyncio.get_running_loop().time)
        self.admission = Admission(server, self.quotas, uniform=lambda _low, high: high)
        self.leases = Leases(server, servers, self.admission, seal=Seal(), on_change=self._changed)

    @property
    def facts(self) -> ServerFacts:
        return self.server.facts

    def _changed(self) -> None:
        self.changes += 1

    async def call(self, request: ModernRequest | None = None, principal: Principal = ANNA) -> SharedExchange:
        return await self.leases.call(principal, request or modern_request(name="t"))

    async def child(self, principal: Principal = ANNA, **capabilities: object) -> ModernChild | LegacyChild:
        return await self.leases.child(principal, modern_request(capabilities=capabilities))

    async def answers(self, exchange: SharedExchange, result: Message | None = None) -> Message:
        """Let the youngest child answer what it heard last."""
        heard = json.loads(self.servers.child.stdin.lines[-1])
        await self.servers.child.says(answer_line(heard["id"], result or {"content": []}))
        return await answer_on(exchange)

    async def crash(self) -> None:
        self.servers.child.exit(ExitStatus(code=3, signal=None))
        await settle()


@contextlib.asynccontextmanager
async def _leasing(
    servers: FakeServers | None = None,
    *,
    facts: ServerFacts | None = None,
    settings: Settings | None = None,
    bridge: BridgeSettings | None = None,
    quotas: QuotaSettings = UNBOUNDED,
    tokens: Tokens | None = None,
) -> AsyncIterator[_Rig]:
    recipe = ServerRecipe("fake", CONFIG) if tokens is None else recipe_with_token(CONFIG, tokens)
    server = ServerState(recipe, settings or Settings(), bridge or BridgeSettings(), facts or ServerFacts())
    rig = _Rig(servers or FakeServers.modern(), server, quotas, tokens)
    async with rig.leases:
        try:
            yield rig
        finally:
            rig.leases.end_all()
    assert (rig.servers.alive, len(rig.leases), rig.admission.places) == (0, 0, 0)
    assert (rig.quotas.statistics().children, rig.quotas.statistics().starting) == (0, 0)


def virtual(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run a test in virtual time."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


async def settle(seconds: float = 1.0) -> None:
    """Let everything happen that is due within a while; in virtual time."""
    await asyncio.sleep(seconds)


async def answer_on(exchange: SharedExchange) -> Message:
    """Return the answer on an exchange, and release it."""
    async with asyncio.timeout(10_000):
        message: Message = json.loads(await exchange.wait_answered())
    exchange.release()
    return message


async def all_on(exchange: SharedExchange) -> list[Message]:
    """Return what waits on an exchange."""
    messages: list[Message] = []
    with contextlib.suppress(StreamEnded):
        while (message := await exchange.receive(0.01)) is not None:
            messages.append(json.loads(message))
    return messages


async def problem_of(work: Awaitable[object]) -> BrokerError:
    """Return what some work fails with."""
    with pytest.raises(BrokerError) as caught:
        await work
    return caught.value


def now() -> float:
    return asyncio.get_running_loop().time()


# Starting.


@pytest.mark.parametrize("servers", [FakeServers.modern, FakeServers.legacy])
@virtual
async def test_many_first_requests_are_one_start(servers: Callable[[], FakeServers]) -> None:
    """protocol.md, 13.4; a legacy server costs one more, once, to find out."""
    async with _leasing(servers()) as rig:
        rig.servers.start_seconds = 1
        found = await asyncio.gather(*(rig.child() for _ in range(20)))
        assert len(set(found)) == 1
        assert len(rig.servers.children) == (2 if isinstance(found[0], LegacyChild) else 1)
        assert rig.servers.alive == rig.admission.places == len(rig.leases) == 1


@virtual
async def test_a_start_that_fails_fails_for_all_who_wait_and_for_nobody_else() -> None:
    """protocol.md, 13.4: a failed start must leave the table."""
    async with _leasing() as rig:
        rig.servers.start_seconds = 1
        rig.servers.start_error = SpawnError("fake", "not today")
        problems = await asyncio.gather(*(problem_of(rig.child()) for _ in range(5)))
        assert {type(problem) for problem in problems} == {SpawnError}
        rig.servers.start_error = None
        assert isinstance(await rig.child(), ModernChild)


@virtual
async def test_a_mistake_of_ours_in_a_start_is_an_error_for_those_who_wait_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ours: it must not end the other leases."""
    async with _leasing() as rig:
        other = await rig.child(BERND)
        rig.servers.start_error = ValueError("a mistake")
        assert isinstance(await problem_of(rig.child()), BridgeBroken)
        rig.servers.start_error = None
        assert await rig.child(BERND) is other
        assert isinstance(await rig.child(), ModernChild)
    assert [record.message for record in caplog.records] == ["lease.failed"]


@virtual
async def test_a_mistake_of_ours_at_the_end_of_a_lease_ends_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ours."""
    async with _leasing() as rig:
        other = await rig.child(BERND)
        await rig.child()
        stopping, stop = rig.servers.child, rig.servers.child.stop

        async def fail_to_stop(**_graces: float) -> ExitStatus:
            stopping.stop = stop  # type: ignore[method-assign]
            raise ValueError("a mistake")

        stopping.stop = fail_to_stop  # type: ignore[method-assign, assignment]
        await rig.crash()
        assert await rig.child(BERND) is other
        assert isinstance(await rig.child(), ModernChild)
    assert [record.message for record in caplog.records] == ["lease.failed"]


@virtual
async def test_a_first_request_that_goes_away_leaves_the_start_to_the_others() -> None:
    """protocol.md, 13.4: awaiting a shared task needs a shield."""
    async with _leasing() as rig:
        rig.servers.start_seconds = 1
        first = asyncio.create_task(rig.child())
        second = asyncio.create_task(rig.child())
        await asyncio.sleep(0.5)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert isinstance(await second, ModernChild)
        assert len(rig.servers.children) == 1


@virtual
async def test_a_child_is_there_at_once_from_its_start_to_its_end_and_for_its_principal_only() -> None:
    """Ours: a session that asks for it so does not wait, and starts nothing."""
    async with _leasing(settings=Settings(idle_timeout=100)) as rig:
        assert rig.leases.modern_child_nowait(ANNA) is None
        rig.servers.start_seconds = 1
        starting = asyncio.create_task(rig.leases.modern_child(ANNA))
        await settle(0.5)
        assert rig.leases.modern_child_nowait(ANNA) is None
        child = await starting
        assert rig.leases.modern_child_nowait(ANNA) is child
        assert rig.leases.modern_child_nowait(BERND) is None
        await settle(90)
        assert rig.leases.modern_child_nowait(ANNA) is child  # which is a use of it
        await settle(90)
        assert rig.servers.alive == 1
        rig.servers.child.stdin.shut()
        assert rig.leases.modern_child_nowait(ANNA) is None
        assert len(rig.servers.children) == 1


@virtual
async def test_a_child_whose_only_requester_went_away_is_there_for_the_next_and_ends_as_idle() -> None:
    """Ours: the start is paid for; a cancelled one does not poison the key."""
    async with _leasing(settings=Settings(idle_timeout=100)) as rig:
        rig.servers.start_seconds = 1
        first = asyncio.create_task(rig.child())
        await asyncio.sleep(0.5)
        first.cancel()
        await asyncio.sleep(1)
        await rig.child()
        assert len(rig.servers.children) == 1
        await settle(101)
        assert rig.servers.alive == len(rig.leases) == 0


@virtual
async def test_starts_queue_for_their_turn_and_for_places() -> None:
    """Ours: places and turns are shared with the sessions."""
    quotas = dataclasses.replace(UNBOUNDED, max_starting=1, queue_timeout=5)
    async with _leasing(settings=Settings(max_sessions=2), quotas=quotas) as rig:
        rig.servers.start_seconds = 10
        slow = asyncio.create_task(rig.child(ANNA))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(problem_of(rig.child(BERND)))
        await asyncio.sleep(1)
        # Two have places; a third is told at once.
        assert isinstance(await problem_of(rig.child(ANONYMOUS)), LimitReached)
        assert isinstance(await waiting, LimitReached)
        await slow
        rig.servers.start_seconds = 0
        await rig.child(BERND)
        assert isinstance(await problem_of(rig.child(ANONYMOUS)), LimitReached)


@virtual
async def test_a_server_that_keeps_failing_is_left_alone() -> None:
    """Ours: the breaker is shared with the sessions."""
    policy = RestartPolicy(max_restarts=1, first_backoff=10, max_backoff=10)
    async with _leasing(
        FakeServers(discover=ENDS, initialize=ENDS), settings=Settings(breaker=policy)
    ) as rig:
        assert isinstance(await problem_of(rig.child()), BridgeBroken)
        assert isinstance(await problem_of(rig.child()), BridgeBroken)
        assert rig.admission.breaker_statistics().state is BreakerState.OPEN
        started = len(rig.servers.children)
        assert isinstance(await problem_of(rig.child()), ServerFailing)
        assert len(rig.servers.children) == started
        rig.servers.become(FakeServers.modern())
        await settle(11)
        assert isinstance(await rig.child(), ModernChild)


# Eras.

REFUSALS: list[Message | str] = [
    {"code": -32601, "message": "no such method"},
    {"code": -32602, "message": "no such method"},
    {"code": -32600, "message": "before initialize"},
    {"code": -32000, "message": "?"},
    {"code": -32022, "message": "?", "data": {"supported": ["2025-11-25"]}},
    discover_result(["2025-11-25", "2025-06-18"]),
    discover_result([]),
    {"hello": "world"},
    SILENCE,
    ENDS,
]


@pytest.mark.parametrize("outcome", REFUSALS, ids=str)
@virtual
async def test_whatever_is_no_modern_answer_means_legacy_and_a_fresh_process(outcome: Message | str) -> None:
    """protocol.md, 2.1: a fallback MUST NOT key on one code, and never reuses the process."""
    async with _leasing(FakeServers(discover=outcome)) as rig:
        assert isinstance(await rig.child(), LegacyChild)
        probed, used = rig.servers.children
        assert rig.servers.heard(probed) == ["server/discover"]
        assert rig.servers.heard(used) == ["initialize", "notifications/initialized"]
        assert probed.exited.is_set()
        assert (rig.facts.speaks_modern, rig.facts.speaks_legacy) == (False, True)
        await rig.child(BERND)
        assert rig.servers.heard() == ["initialize", "notifications/initialized"]


@pytest.mark.parametrize(
    "outcome",
    [
        discover_result(),
        discover_result(["2025-11-25", "2026-07-28", "2099-01-01"]),
        {"supportedVersions": ["2026-07-28"]},
    ],
    ids=str,
)
@virtual
async def test_a_modern_answer_keeps_the_process(outcome: Message) -> None:
    """protocol.md, 2.1."""
    async with _leasing(FakeServers(discover=outcome)) as rig:
        assert isinstance(await rig.child(), ModernChild)
        assert (rig.facts.speaks_modern, rig.facts.speaks_legacy) == (True, None)
        assert len(rig.servers.children) == 1


@pytest.mark.parametrize(
    ("outcome", "supported"),
    [
        ({"code": -32022, "message": "?", "data": {"supported": ["2099-01-01"]}}, ["2099-01-01"]),
        ({"code": -32022, "message": "?"}, ["unknown"]),
        (discover_result(["2099-01-01"]), ["2099-01-01"]),
    ],
    ids=str,
)
@virtual
async def test_a_server_of_other_modern_versions_is_refused_by_name_and_asked_again_later(
    outcome: Message, supported: list[str]
) -> None:
    """protocol.md, 2.1: answer -32022; do not fall back."""
    async with _leasing(FakeServers(discover=outcome), settings=Settings(retry_after=5)) as rig:
        for _ in range(3):
            problem = await problem_of(rig.child())
            assert isinstance(problem, LocalProtocolError)
            assert problem.code == -32022
            assert json.loads(problem.data or b"")["supported"] == supported
        assert len(rig.servers.children) == 1
        assert rig.servers.heard() == ["server/discover"]
        rig.servers.become(FakeServers.modern())
        await settle(6)
        assert isinstance(await rig.child(), ModernChild)


@virtual
async def test_silence_costs_what_the_handshake_took_not_the_whole_start_timeout() -> None:
    """protocol.md, 2.1: silence is an answer where `initialize` is known to work."""
    facts = ServerFacts(speaks_legacy=True, handshake_seconds=0.1)
    async with _leasing(FakeServers(discover=SILENCE), facts=facts) as rig:
        assert isinstance(await rig.child(), LegacyChild)
        assert now() == pytest.approx(MIN_DISCOVER_TIMEOUT, abs=0.5)


@virtual
async def test_silence_is_doubted_a_few_times_and_a_slow_server_is_found_to_be_modern() -> None:
    """protocol.md, 2.1: no *for this start*; but a client pays for each doubt."""
    facts = ServerFacts(speaks_legacy=True, handshake_seconds=0.1)
    async with _leasing(FakeServers(discover=SILENCE), facts=facts) as rig:
        for _ in range(MAX_SILENCES):
            assert isinstance(await rig.child(), LegacyChild)
            await rig.crash()
        started = len(rig.servers.children)
        await rig.child()
        assert len(rig.servers.children) == started + 1  # now it is a fact
    facts = ServerFacts(speaks_legacy=True, handshake_seconds=0.1)
    async with _leasing(FakeServers(discover=SILENCE), facts=facts) as rig:
        assert isinstance(await rig.child(), LegacyChild)
        rig.servers.discover = discover_result()
        assert isinstance(await rig.child(), LegacyChild)
        await rig.crash()
        assert isinstance(await rig.child(), ModernChild)
        assert rig.facts.silences == 0


@virtual
async def test_a_server_that_is_replaced_while_we_run_is_found_out_again_and_again() -> None:
    """protocol.md, 2.1: probe again when the assumption fails. No request fails for it."""
    modern, legacy = FakeServers.modern(), FakeServers.legacy()
    async with _leasing(FakeServers.modern()) as rig:
        for server, kind in ((legacy, LegacyChild), (modern, ModernChild), (legacy, LegacyChild)):
            await rig.child()
            rig.servers.become(server)
            await rig.crash()
            assert isinstance(await rig.child(), kind)
            await settle()
            assert rig.servers.alive == 1


@pytest.mark.parametrize(("outcome", "error"), [(SILENCE, StartTimeout), (ENDS, BridgeBroken)])
@virtual
async def test_a_modern_server_that_does_not_answer_once_is_asked_again(
    outcome: str, error: type[BrokerError]
) -> None:
    """Ours: that may be a mishap, or a legacy server in its place; the next request finds out which."""
    async with _leasing(FakeServers.modern()) as rig:
        await rig.child()
        await rig.crash()
        rig.servers.discover = outcome
        assert isinstance(await problem_of(rig.child()), error)
        assert rig.facts.speaks_modern is None
        rig.servers.become(FakeServers.modern())
        assert isinstance(await rig.child(), ModernChild)
        await rig.crash()
        rig.servers.discover = outcome
        await problem_of(rig.child())
        rig.servers.become(FakeServers(discover=outcome))
        assert isinstance(await rig.child(), LegacyChild)


@virtual
async def test_a_server_that_speaks_neither_is_an_error_in_words_each_time() -> None:
    """protocol.md, 2.1."""
    async with _leasing(FakeServers(discover=REFUSALS[0], initialize=REFUSALS[0])) as rig:
        for _ in range(3):
            problem = await problem_of(rig.child())
            assert isinstance(problem, RemoteProtocolError)
            assert "does not answer" in str(problem)
        rig.servers.become(FakeServers.legacy())
        assert isinstance(await rig.child(), LegacyChild)


@pytest.mark.parametrize(
    ("initialize", "error", "words"),
    [
        ({"code": -32000, "message": "no database"}, RemoteProtocolError, "no database"),
        ({"code": -32000}, RemoteProtocolError, "without a message"),
        ({**INITIALIZE_RESULT, "protocolVersion": "1999-01-01"}, RemoteProtocolError, "1999-01-01"),
        (SILENCE, StartTimeout, "`initialize` within 7 s"),
        (ENDS, BridgeBroken, "exited"),
    ],
)
@virtual
async def test_a_legacy_server_that_cannot_be_initialized_says_why(
    initialize: Message | str, error: type[BrokerError], words: str
) -> None:
    """protocol.md, 4.1."""
    servers = FakeServers(discover=REFUSALS[0], initialize=initialize)
    async with _leasing(servers, settings=Settings(start_timeout=7)) as rig:
        problem = await problem_of(rig.child())
        assert type(problem) is error
        assert words in str(problem)
        await settle()
        assert rig.servers.alive == rig.admission.places == 0


@virtual
async def test_a_child_that_reads_nothing_at_all_has_ended_before_its_first_request() -> None:
    """Ours: a typed error, also where stdin was closed before anything was written."""
    async with _leasing(facts=ServerFacts(speaks_modern=True)) as rig:
        start = rig.servers.start

        async def start_dead(config: Config) -> object:
            child = await start(config)
            child.stdin.close()
            return child

        rig.servers.start = start_dead  # type: ignore[method-assign, assignment]
        assert "before it read" in str(await problem_of(rig.child()))


# Whose child.


@pytest.mark.parametrize("servers", [FakeServers.modern, FakeServers.legacy])
@virtual
async def test_two_principals_never_share_a_child(servers: Callable[[], FakeServers]) -> None:
    """design.md, 6.3."""
    async with _leasing(servers()) as rig:
        found = {await rig.child(principal) for principal in (ANNA, BERND, ANONYMOUS)}
        assert len(found) == 3
        assert {await rig.child(principal) for principal in (ANNA, BERND, ANONYMOUS)} == found


@virtual
async def test_capabilities_tell_the_children_of_a_legacy_server_apart_but_not_of_a_modern_one() -> None:
    """protocol.md, 4.1."""
    async with _leasing(FakeServers.modern()) as rig:
        assert await rig.child() is await rig.child(**FORMS)
    async with _leasing(FakeServers.legacy()) as rig:
        assert await rig.child() is not await rig.child(**FORMS)
        assert await rig.child(**FORMS) is await rig.child(elicitation={}, experimental={"x": {}})
        declared = [
            json.loads(child.stdin.lines[0])["params"].get("capabilities") for child in rig.servers.children
        ]
        assert declared[1:] == [{}, FORMS]


async def _parked(rig: _Rig) -> tuple[str, str]:
    """Park a call at a legacy child; return its state, and the key of its question."""
    exchange = await rig.call(modern_request(capabilities=FORMS, name="t"))
    ask = {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {}}}
    await rig.servers.child.says(json.dumps({"jsonrpc": "2.0", "id": "q", **ask}).encode())
    result = (await answer_on(exchange))["result"]
    assert result["resultType"] == "input_required"
    (key,) = result["inputRequests"]
    return result["requestState"], key


@virtual
async def test_a_retry_finds_its_child_by_the_state_whatever_it_declares() -> None:
    """protocol.md, 13.6: capabilities of the retry replace those of the first request."""
    async with _leasing(FakeServers.legacy()) as rig:
        state, _ = await _parked(rig)
        parking = rig.servers.child
        others = await rig.child(sampling={})
        retry = modern_request(capabilities={"sampling": {}}, name="t", requestState=state)
        found = await rig.leases.child(ANNA, retry)
        assert found is not others
        exchange = await rig.call(retry)
        assert len(parking.stdin.lines) == 3  # it is still open there
        exchange.release()


@virtual
async def test_a_state_of_somebody_else_or_of_a_child_that_has_ended_is_refused_alike() -> None:
    """protocol.md, 13.7: every failure has the same text. And nothing is kept for whoever tries."""
    async with _leasing(FakeServers.legacy()) as rig:
        state, _ = await _parked(rig)
        retry = modern_request(capabilities=FORMS, name="t", requestState=state)
        problems = [await problem_of(rig.call(retry, BERND))]
        await rig.child(BERND)
        problems.append(await problem_of(rig.call(retry, BERND)))
        await rig.child(sampling={})
        rig.servers.children[1].exit()
        await settle()
        problems.append(await problem_of(rig.call(retry)))
        assert len({(type(problem), str(problem)) for problem in problems}) == 1


@virtual
async def test_nothing_is_kept_of_principals_whose_children_have_ended() -> None:
    """Ours: tables do not grow."""
    async with _leasing(settings=Settings(idle_timeout=10)) as rig:
        for number in range(50):
            principal = Principal("https://id.example.com", str(number))
            await rig.child(principal)
            await problem_of(rig.call(modern_request(requestState="bogus"), principal))
            stranger = Principal("https://id.example.com", f"stranger {number}")
            await problem_of(rig.call(modern_request(requestState="bogus"), stranger))
        assert len(rig.leases) == 50
        await settle(11)
        assert len(rig.leases) == len(vars(rig.leases)["_tenants"]) == 0


# Idleness.


async def _running(rig: _Rig) -> SharedExchange:
    return await rig.call()


async def _listening(rig: _Rig) -> SharedExchange:
    return await rig.call(modern_request("subscriptions/listen", notifications={"toolsListChanged": True}))


@pytest.mark.parametrize("servers", [FakeServers.modern, FakeServers.legacy])
@pytest.mark.parametrize("occupy", [_running, _listening])
@virtual
async def test_a_child_that_owes_something_is_not_idle(
    servers: Callable[[], FakeServers], occupy: Callable[[_Rig], Awaitable[SharedExchange]]
) -> None:
    """protocol.md, D6."""
    async with _leasing(servers(), settings=Settings(idle_timeout=10)) as rig:
        exchange = await occupy(rig)
        await settle(100)
        assert rig.servers.alive == 1
        exchange.release()
        await settle(9)
        assert rig.servers.alive == 1
        await settle(12)
        assert rig.servers.alive == rig.admission.places == 0


@virtual
async def test_a_child_with_a_parked_call_is_not_idle() -> None:
    """protocol.md, D6."""
    bridge = BridgeSettings(park_timeout=50)
    async with _leasing(FakeServers.legacy(), settings=Settings(idle_timeout=10), bridge=bridge) as rig:
        await _parked(rig)
        await settle(49)
        assert rig.servers.alive == 1
        await settle(50)
        assert rig.servers.alive == 0


TASK: Message = {"resultType": "task", "taskId": "t1", "status": "working", "ttlMs": None}


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("tasks/get", {**TASK, "resultType": "complete", "status": "completed", "result": {}}),
        ("tasks/get", {**TASK, "resultType": "complete", "status": "failed"}),
        ("tasks/cancel", {"resultType": "complete"}),
        (None, {}),
    ],
)
@virtual
async def test_a_child_with_an_unfinished_task_is_not_idle_but_not_for_ever(
    method: str | None, result: Message
) -> None:
    """protocol.md, D6; SEP-2663. Its client may have forgotten it."""
    bridge = BridgeSettings(state_timeout=200)
    async with _leasing(settings=Settings(idle_timeout=10), bridge=bridge) as rig:
        await rig.answers(await rig.call(), TASK)
        await settle(50)
        update = {**TASK, "resultType": "complete", "status": "input_required"}
        await rig.answers(await rig.call(modern_request("tasks/get", taskId="t1")), update)
        await settle(199)
        assert rig.servers.alive == 1
        if method is not None:
            await rig.answers(await rig.call(modern_request("tasks/get", taskId="t1")), update)
            await settle(100)
            assert rig.servers.alive == 1
            await rig.answers(await rig.call(modern_request(method, taskId="t1")), result)
        await settle(21)
        assert rig.servers.alive == 0


# Ends of children.


@virtual
async def test_a_crash_fails_what_runs_at_once_and_the_next_request_has_another_child() -> None:
    """design.md, section 4: one error per open exchange, with the exit status."""
    async with _leasing() as rig:
        exchanges = [await rig.call() for _ in range(3)]
        rig.servers.child.exit(ExitStatus(code=3, signal=None))
        for exchange in exchanges:
            error = (await answer_on(exchange))["error"]
            assert error["data"] == {**ENDED, "exitCode": 3}
        # Not a tick later.
        await rig.answers(await rig.call())
        assert len(rig.servers.children) == 2


@pytest.mark.parametrize("servers", [FakeServers.modern, FakeServers.legacy])
@virtual
async def test_a_child_that_does_not_read_any_more_is_replaced(servers: Callable[[], FakeServers]) -> None:
    """Ours: it would refuse every request, and never be idle."""
    async with _leasing(servers()) as rig:
        running = await rig.call()
        deaf = rig.servers.child
        deaf.stdin.shut()
        await rig.answers(await rig.call())
        assert rig.servers.child is not deaf
        await settle()
        assert "ended" in (await answer_on(running))["error"]["data"]["reason"]
        assert rig.servers.alive == 1


@virtual
async def test_a_child_that_ends_as_the_request_comes_costs_it_nothing_but_time() -> None:
    """Ours: nothing was sent, so it may be sent to another one; once."""
    async with _leasing() as rig:
        child = await rig.child()
        refused: list[ModernRequest] = []

        async def refuse(request: ModernRequest) -> SharedExchange:
            refused.append(request)
            rig.servers.child.exit()
            raise BridgeBroken("gone")

        child.call = refuse  # type: ignore[method-assign]
        exchange = await rig.call()
        assert len(refused) == 1
        await rig.answers(exchange)


@virtual
async def test_a_server_that_reads_no_request_is_not_started_for_ever() -> None:
    """Ours: the second refusal is the client's."""
    original, calls = ModernChild.call, 0
    async with _leasing() as rig:

        async def call(self: ModernChild, request: ModernRequest) -> SharedExchange:
            nonlocal calls
            calls += 1
            rig.servers.child.stdin.shut()
            return await original(self, request)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ModernChild, "call", call)
            problem = await problem_of(rig.call())
        assert isinstance(problem, BridgeBroken)
        assert calls == len(rig.servers.children) == 2


@pytest.mark.parametrize("servers", [FakeServers.modern, FakeServers.legacy])
@virtual
async def test_streams_of_changes_go_on_at_another_child_and_are_told_what_may_have_changed(
    servers: Callable[[], FakeServers],
) -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions: re-listen; protocol.md, 2.2."""
    async with _leasing(servers()) as rig:
        exchange = await _listening(rig)
        await settle()
        gone = await rig.call(
            modern_request("subscriptions/listen", request_id=2, notifications={"toolsListChanged": True})
        )
        await settle()
        acknowledged = (await all_on(exchange))[0]
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        rig.servers.start_seconds = 5
        await rig.crash()
        gone.release()  # while there is no child
        await settle(6)
        assert [message["method"] for message in await all_on(exchange)] == [
            "notifications/tools/list_changed"
        ]
        assert len(rig.leases) == rig.servers.alive == 1
        for line in rig.servers.child.stdin.lines:
            message = json.loads(line)
            if message["method"] == "subscriptions/listen":
                await rig.servers.child.says(notice("notifications/tools/list_changed", message["id"]))
        if isinstance(await rig.child(), LegacyChild):
            await rig.servers.child.says(notice("notifications/tools/list_changed"))
        (changed,) = await all_on(exchange)
        assert changed["params"]["_meta"][f"{PREFIX}subscriptionId"] == 1
        exchange.release()
        assert not (await rig.child()).busy


@virtual
async def test_streams_of_changes_end_without_a_result_if_there_is_no_other_child() -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions: an end without a response is an unexpected one."""
    async with _leasing() as rig:
        exchange = await _listening(rig)
        await settle()
        await all_on(exchange)
        rig.servers.start_error = SpawnError("fake", "not today")
        await rig.crash()
        with pytest.raises(StreamEnded):
            await exchange.receive(1)
        assert not exchange.answered


@virtual
async def test_a_server_that_keeps_crashing_is_not_restarted_for_its_listeners_for_ever() -> None:
    """design.md, 6.6: restart intensity is bounded."""
    policy = RestartPolicy(max_restarts=2, stable_after=30)
    async with _leasing(settings=Settings(breaker=policy)) as rig:
        exchange = await _listening(rig)
        for _ in range(3):
            await settle()
            await rig.crash()
        assert len(rig.servers.children) == 3
        await all_on(exchange)
        with pytest.raises(StreamEnded):
            await exchange.receive(1)
        # One that lives long enough begins anew.
        exchange = await _listening(rig)
        for _ in range(5):
            await settle(31)
            await rig.crash()
        assert exchange.open
        exchange.release()


# Renewal.


async def _renew(rig: _Rig, token: str, principal: Principal = ANNA) -> None:
    """Rotate the token of a principal, and let its children be replaced."""
    assert rig.tokens is not None
    rig.tokens.tokens[principal] = token
    launch = await rig.server.recipe.resolve(principal)
    rig.leases.renew(principal, launch.generation)


async def _says_done(child: FakeChild) -> None:
    """Let a child answer the last call that it heard."""
    calls = [json.loads(line) for line in child.stdin.lines if b"tools/call" in line]
    await child.says(answer_line(calls[-1]["id"], {"content": []}))


@pytest.mark.parametrize("servers", [FakeServers.modern, FakeServers.legacy])
@virtual
async def test_a_child_with_an_old_credential_is_replaced_and_finishes_what_it_was_asked(
    servers: Callable[[], FakeServers],
) -> None:
    """Issue 5, "Done when" 3: zero failed calls, the old child gone, the new one has the new value."""
    async with _leasing(servers(), tokens=Tokens({ANNA: "old", BERND: "b"})) as rig:
        await rig.child(BERND)
        running = await rig.call()
        old = rig.servers.child
        rig.servers.start_seconds = 5
        await _renew(rig, "new")
        await _renew(rig, "new")  # it is under way already
        # Until its successor has shown what it is, it is used.
        await settle(4)
        assert not (await rig.call()).answered
        assert rig.servers.child is old
        await settle(20)
        quick = await rig.call()
        assert await rig.answers(quick) == {"jsonrpc": "2.0", "id": 1, "result": await _result_of(rig)}
        assert not old.exited.is_set()
        calls = [json.loads(line)["id"] for line in old.stdin.lines if b"tools/call" in line]
        for call in calls:
            await old.says(answer_line(call, {"content": []}))
        assert "result" in await answer_on(running)
        await settle()
        assert old.done.is_set()
        assert (len(rig.leases), rig.servers.alive, rig.admission.places) == (2, 2, 2)
        assert [config.env["TOKEN"] for config in rig.servers.configs][-1] == "new"
        started = len(rig.servers.children)
        await _renew(rig, "new")
        await settle(10)
        assert len(rig.servers.children) == started


async def _result_of(rig: _Rig) -> Message:
    """Return the result of `rig.answers`, as this kind of child has it translated."""
    exchange = await rig.call()
    result: Message = (await rig.answers(exchange))["result"]
    return result


@pytest.mark.parametrize("servers", [FakeServers.modern, FakeServers.legacy])
@virtual
async def test_streams_of_changes_go_over_to_the_successor(servers: Callable[[], FakeServers]) -> None:
    """Issue 5: the client notices nothing but that the lists may have changed."""
    async with _leasing(servers(), tokens=Tokens({ANNA: "old"})) as rig:
        listening = await _listening(rig)
        await settle()
        await all_on(listening)
        old = rig.servers.child
        await _renew(rig, "new")
        await settle()
        assert old.done.is_set()
        assert (rig.servers.alive, len(rig.leases)) == (1, 1)
        assert listening.open
        assert [message["method"] for message in await all_on(listening)] == [
            "notifications/tools/list_changed"
        ]
        for _ in range(5):  # each is its first life, whatever the breaker says of crashes
            await _renew(rig, f"even newer {now()}")
            await settle()
        assert listening.open
        assert rig.servers.alive == 1
        listening.release()


@virtual
async def test_a_child_that_does_not_finish_in_time_is_stopped_all_the_same() -> None:
    """Settings.drain_timeout."""
    settings = Settings(drain_timeout=60)
    async with _leasing(settings=settings, tokens=Tokens({ANNA: "old"})) as rig:
        running = await rig.call()
        old = rig.servers.child
        await _renew(rig, "new")
        await settle(59)
        assert not old.exited.is_set()
        assert "error" in await answer_on(running)
        assert 59 < now() < 62
        await settle()
        assert rig.servers.alive == 1


@virtual
async def test_a_successor_that_does_not_start_leaves_the_old_child_in_its_place() -> None:
    """Ours: what works is not taken away before there is something better."""
    async with _leasing(tokens=Tokens({ANNA: "old"})) as rig:
        await rig.child()
        rig.servers.start_error = SpawnError("fake", "not today")
        await _renew(rig, "new")
        await settle()
        exchange = await rig.call()
        assert "result" in await rig.answers(exchange)
        assert len(rig.servers.children) == 1
        rig.servers.start_error = None
        await _renew(rig, "new")
        await settle()
        assert (len(rig.servers.children), rig.servers.alive) == (2, 1)


@virtual
async def test_a_successor_that_comes_after_a_third_one_is_of_no_use() -> None:
    """Ours: the old child has crashed meanwhile, and somebody could not wait."""
    async with _leasing(tokens=Tokens({ANNA: "old"})) as rig:
        await rig.child()
        rig.servers.start_seconds = 5
        await _renew(rig, "new")
        await settle()
        await rig.crash()
        rig.servers.start_seconds = 0
        third = await rig.child()
        await settle(10)
        assert await rig.child() is third
        assert (len(rig.servers.children), rig.servers.alive, rig.admission.places) == (3, 1, 1)


@virtual
async def test_a_successor_takes_the_place_of_one_that_has_crashed() -> None:
    """Ours: nobody has asked meanwhile."""
    async with _leasing(tokens=Tokens({ANNA: "old"})) as rig:
        await rig.child()
        rig.servers.start_seconds = 5
        await _renew(rig, "new")
        await settle()
        await rig.crash()
        await settle(10)
        await rig.child()
        assert (len(rig.servers.children), rig.servers.alive) == (2, 1)


@virtual
async def test_a_call_that_is_parked_at_a_child_that_is_replaced_is_resumed_there() -> None:
    """Design, 6.5: a state belongs to its child."""
    async with _leasing(FakeServers.legacy(), tokens=Tokens({ANNA: "old"})) as rig:
        state, key = await _parked(rig)
        old = rig.servers.child
        await _renew(rig, "new")
        await settle()
        assert rig.servers.child is not old
        answers = {key: {"action": "accept", "content": {}}}
        retry = modern_request(capabilities=FORMS, name="t", requestState=state, inputResponses=answers)
        exchange = await rig.call(retry)
        await _says_done(old)
        assert (await answer_on(exchange))["result"]["resultType"] == "complete"
        await settle()
        assert old.done.is_set()


@pytest.mark.parametrize("seconds", [0.0, 5.0])
@virtual
async def test_whoever_is_revoked_while_its_child_is_replaced_has_none(seconds: float) -> None:
    """Issue 5: at once, the old one, the new one, and one that is still being started."""
    async with _leasing(tokens=Tokens({ANNA: "old", BERND: "b"})) as rig:
        await rig.child(BERND)
        running = await rig.call()
        rig.servers.start_seconds = seconds
        await _renew(rig, "new")
        await settle()
        rig.leases.revoke(ANNA, "the key was revoked")
        assert "revoked" in (await answer_on(running))["error"]["message"]
        await settle(10)
        assert (rig.servers.alive, len(rig.leases), rig.admission.places) == (1, 1, 1)


@virtual
async def test_shutting_down_while_a_child_is_replaced_leaves_nothing() -> None:
    """Ours: `_leasing` looks."""
    async with _leasing(tokens=Tokens({ANNA: "old"})) as rig:
        running = await rig.call()
        rig.servers.discover = SILENCE
        await _renew(rig, "new")
        await settle()
        assert rig.servers.alive == 2
    running.release()


# The end of all.


@virtual
async def test_a_drain_ends_streams_of_changes_gracefully_and_lets_calls_finish() -> None:
    """protocol.md, 4.4: the graceful result on drain."""
    async with _leasing() as rig:
        running, listening = await _running(rig), await _listening(rig)
        await settle()
        rig.admission.draining = True
        rig.leases.end_listening()
        assert (await all_on(listening))[-1]["result"]["resultType"] == "complete"
        assert rig.leases.busy
        assert isinstance(await problem_of(rig.call()), Draining)
        heard = [json.loads(line) for line in rig.servers.child.stdin.lines]
        call = next(message for message in heard if message["method"] == "tools/call")
        before = rig.changes
        await rig.servers.child.says(answer_line(call["id"], {"content": []}))
        assert "result" in await answer_on(running)
        assert rig.changes > before  # so whoever waits looks again
        await asyncio.sleep(0)
        assert not rig.leases.busy


@virtual
async def test_a_drain_does_not_wait_for_a_client_that_has_questions_but_takes_its_answers() -> None:
    """Ours: nobody waits for a parked call; its retry belongs to a call in flight."""
    async with _leasing(FakeServers.legacy()) as rig:
        state, _ = await _parked(rig)
        rig.admission.draining = True
        rig.leases.end_listening()
        assert not rig.leases.busy
        assert isinstance(await problem_of(rig.child(sampling={})), Draining)
        exchange = await rig.call(modern_request(capabilities=FORMS, name="t", requestState=state))
        exchange.release()


@pytest.mark.parametrize(
    ("discover", "seconds"),
    [(SILENCE, 0.0), (ENDS, 5.0), (None, 5.0)],
    ids=["handshake", "start", "start of a good one"],
)
@virtual
async def test_shutting_down_while_a_child_starts_does_not_wait_for_it(
    discover: str | None, seconds: float
) -> None:
    """Ours: it is stopped as soon as it is there."""
    async with _leasing(FakeServers(discover=discover)) as rig:
        rig.servers.start_seconds = seconds
        waiting = [asyncio.create_task(problem_of(rig.child(principal))) for principal in (ANNA, BERND)]
        await settle(2)
        began = now()
        rig.leases.end_all()
        problems = await asyncio.gather(*waiting)
        assert {type(problem) for problem in problems} == {Draining}
        assert isinstance(await problem_of(rig.child()), Draining)
    assert now() - began < 4


@virtual
async def test_shutting_down_while_starts_queue_for_their_turn_does_not_wait_for_the_queue() -> None:
    """Ours."""
    quotas = dataclasses.replace(UNBOUNDED, max_starting=1)
    async with _leasing(FakeServers(discover=SILENCE), quotas=quotas) as rig:
        waiting = [asyncio.create_task(problem_of(rig.child(principal))) for principal in (ANNA, BERND)]
        await settle(2)
        began = now()
        rig.leases.end_all()
        await asyncio.gather(*waiting)
    assert now() - began < 2


# At once.


def _at_once(
    rig: _Rig, request: ModernRequest | None = None, principal: Principal = ANNA
) -> SharedExchange | None:
    request = request or modern_request("resources/read", uri="a")
    return rig.leases.call_nowait(principal, request, [])


@pytest.mark.parametrize("servers", [FakeServers.modern, FakeServers.legacy])
@virtual
async def test_a_call_is_passed_on_at_once_to_a_child_that_runs_and_to_no_other(
    servers: Callable[[], FakeServers],
) -> None:
    """Ours: it starts nothing, and is answered alike; another principal's child is none."""
    async with _leasing(servers(), settings=Settings(idle_timeout=100)) as rig:
        assert _at_once(rig) is None
        rig.servers.start_seconds = 1
        starting = asyncio.create_task(rig.child())
        await settle(0.5)
        assert _at_once(rig) is None
        await starting
        started = len(rig.servers.children)
        waited = await rig.call(modern_request("resources/read", uri="a"))
        line = json.loads(rig.servers.child.stdin.lines[-1])
        await rig.answers(waited)
        await settle(90)
        exchange = _at_once(rig)
        assert exchange is not None
        await settle(90)  # a call is a use of the child
        assert rig.servers.alive == 1
        assert {**json.loads(rig.servers.child.stdin.lines[-1]), "id": line["id"]} == line
        assert "result" in await rig.answers(exchange)
        assert _at_once(rig, principal=BERND) is None
        assert len(rig.servers.children) == started


@virtual
async def test_a_call_goes_at_once_to_a_legacy_child_only_if_it_was_started_for_such_clients() -> None:
    """protocol.md, 13.4: what a client can be asked tells the children of a legacy server apart."""
    async with _leasing(FakeServers.legacy()) as rig:
        await rig.child(elicitation={"form": {}})
        assert _at_once(rig) is None
        exchange = _at_once(rig, modern_request("resources/read", capabilities=FORMS, uri="a"))
        assert exchange is not None
        exchange.release()


@pytest.mark.parametrize("what", ["a state", "answers"])
@virtual
async def test_a_retry_is_not_passed_on_at_once(what: str) -> None:
    """Ours: which child it belongs to is in its state, or it is refused."""
    async with _leasing() as rig:
        await rig.child()
        said: Message = {"requestState": "x"} if what == "a state" else {"inputResponses": {}}
        assert _at_once(rig, modern_request("resources/read", uri="a", **said)) is None
        assert not rig.leases.busy


@pytest.mark.parametrize("how", ["ends", "reads no more", "is full", "is revoked"])
@virtual
async def test_a_child_that_cannot_be_used_is_sent_nothing_at_once(how: str) -> None:
    """Ours: whoever waits gets another one, or waits for it."""
    async with _leasing() as rig:
        await rig.child()
        child = rig.servers.child
        if how == "ends":
            await rig.crash()
        elif how == "reads no more":
            child.stdin.shut()
        elif how == "is full":
            child.stdin.fill()
        else:
            rig.leases.revoke(ANNA, "it was revoked")
        before = len(child.stdin.lines)
        assert _at_once(rig) is None
        assert len(child.stdin.lines) == before
        if how == "is revoked":
            await settle()
            assert rig.servers.alive == 0
            assert _at_once(rig) is None


@virtual
async def test_a_drain_refuses_a_call_in_both_ways() -> None:
    """Ours: also if there is a child that could take it."""
    async with _leasing() as rig:
        await rig.child()
        rig.admission.draining = True
        with pytest.raises(Draining):
            _at_once(rig)
        assert isinstance(await problem_of(rig.call()), Draining)


@virtual
async def test_limits_refuse_a_call_in_both_ways() -> None:
    """Ours: `max_calls` of a child."""
    async with _leasing(bridge=BridgeSettings(max_calls=1)) as rig:
        await rig.child()
        first = _at_once(rig)
        assert first is not None
        with pytest.raises(LimitReached):
            _at_once(rig)
        assert isinstance(await problem_of(rig.call()), LimitReached)
        first.release()
