"""Sessions of two principals in any order of events, with fake children and in virtual time.

Whatever comes: places are living children, every call is answered exactly once, and nothing is left.
`SESSION_SCHEDULES` is how many orders are tried; by default as many as the suite has time for.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stdio_broker.bridge import Exchange, MessageStream, StreamEnded
from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.errors import BrokerError, SessionNotFound
from stdio_broker.http.passing import call, tell
from stdio_broker.protocol.jsonrpc import Notification, Request, parse_body
from stdio_broker.sessions import Principal, Session, Settings
from stdio_broker.supervisor import ExitStatus
from stdio_broker.supervisor.restart import RestartPolicy
from stdio_broker.testing import FakeChild
from tests.support.clock import run_in_virtual_time
from tests.support.fake_servers import ENDS, INITIALIZE_RESULT, SILENCE, FakeServers, answer_line
from tests.support.fake_sessions import ANNA, BERND, CONFIG, FakeSessions, initialize, sessions_of
from tests.support.tokens import Tokens, recipe_with_token

Message = dict[str, Any]

#: Orders that are tried: more than 100 a second.
SCHEDULES = int(os.environ.get("SESSION_SCHEDULES", "600"))

MAX_CHILDREN = 4
SETTINGS = Settings(
    max_sessions=6,
    max_children=MAX_CHILDREN,
    start_timeout=20,
    idle_timeout=50,
    session_timeout=400,
    drain_timeout=30,
    refresh_interval=15,
    retry_after=3,
    breaker=RestartPolicy(max_restarts=2, window=60, first_backoff=1, max_backoff=8, stable_after=30),
)

PAUSES = {"turn": 0.0, "wait": 7.0, "wait long": 60.0}

EVENTS = (
    "open",
    "call",
    "call",
    "slow call",
    "slow call",
    "release",
    "cancel",
    "subscribe",
    "listen",
    "leave",
    "answer",
    "question",
    "crash",
    "close output",
    "stop reading",
    "rotate",
    "withdraw",
    "reconfigure",
    "end or replay",
    "another server",
    "hang",
    "start fails",
    "mend",
    "delete",
    "revoke",
    "turn",
    "wait",
    "wait long",
)

steps = st.lists(
    st.tuples(
        st.sampled_from(EVENTS),
        st.integers(0, 5),
        # None lets nothing happen between two events, and 0.0 what is due in this turn of the loop.
        st.sampled_from((None, None, 0.0, 0.0, 0.5, 3.0)),
    ),
    min_size=12,
    max_size=60,
)


@dataclass
class Call:
    """A call of a client, and what became of it.

    Attributes:
        task: Sends it, as the endpoint does.
        problem: Why it could not be sent; None if it could.
        exchange: Its answer arrives here.
        gone: Whether its client has gone away.
        name: Tells it apart from all others.
    """

    session: Session
    name: str
    task: asyncio.Task[None] | None = None
    problem: BrokerError | None = None
    exchange: Exchange | None = None
    gone: bool = False
    messages: list[Message] = field(default_factory=list)


class Servers(FakeServers):
    """A legacy server, whose children may close their output and live on.

    Attributes:
        closed: Those that have.
    """

    def __init__(self) -> None:
        super().__init__(discover={"code": -32601, "message": "no such method"})
        self.closed: list[FakeChild] = []

    def can_speak(self, child: FakeChild) -> bool:
        """Whether a child can say anything."""
        return child not in self.closed and not child.exited.is_set()

    def _answer(self, child: FakeChild, line: bytes) -> list[bytes]:
        return super()._answer(child, line) if self.can_speak(child) else []


class Schedule:
    """Clients that do what a list of events says.

    Attributes:
        calls: All that were ever sent.
    """

    def __init__(self, rig: FakeSessions, servers: Servers, tokens: Tokens) -> None:
        self.rig = rig
        self.servers = servers
        self.tokens = tokens
        self.sessions: list[Session] = []
        self.calls: list[Call] = []
        self.listeners: list[tuple[Session, MessageStream]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self._recipe = 0
        self._recovery = "replay"

    def do(self, event: str, number: int) -> None:
        """Let something happen; what takes a while goes on beside."""
        getattr(self, "_" + event.replace(" ", "_"))(number)

    def check(self) -> None:
        """Check what holds at any moment."""
        manager, servers = self.rig.manager, self.servers
        statistics, quotas = manager.statistics(), manager.quotas.statistics()
        # A place is taken from before the start until after the end.
        undone = sum(not child.done.is_set() for child in servers.children)
        assert undone <= statistics.places <= MAX_CHILDREN
        assert quotas.children == statistics.places
        assert quotas.sessions == statistics.sessions <= SETTINGS.max_sessions
        assert statistics.asleep <= statistics.sessions
        heard = [line for child in servers.children for line in child.stdin.lines if b'"tools/' in line]
        assert all(sum(one.name.encode() in line for line in heard) <= 1 for one in self.calls)

    async def settle(self) -> None:
        """Wait until nothing is under way any more, and check that every call has been answered once."""
        servers = self.servers
        servers.initialize, servers.start_error, servers.start_seconds = INITIALIZE_RESULT, None, 0.0
        for _ in range(4):  # what is slow may wait for a child first
            for child in list(servers.children):
                child.stdin.drain()
                self._answer_all(child)
            await asyncio.sleep(20)
        assert all(task.done() for task in self.tasks)
        for one in self.calls:
            if one.exchange is not None and not one.gone:
                await _read(one)
                answers = [message for message in one.messages if "method" not in message]
                assert len(answers) == 1, (one.name, one.messages)
                assert answers[0]["id"] == one.name
                one.session.bridge.release(one.exchange)
            else:
                assert one.gone or one.problem is not None
        for session in self.sessions:
            assert session.waking is None
            assert session.ended is not None or not session.busy
        # Whoever has no calls open sleeps in the end, but for those that are told of resources.
        for session, stream in self.listeners:
            if session.ended is None:
                assert stream.open or not stream.attached or stream.cut
                session.bridge.release(stream)
        await asyncio.sleep(2 * SETTINGS.idle_timeout + SETTINGS.drain_timeout)
        assert (servers.alive, self.rig.manager.statistics().places) == (0, 0)
        for session in self.sessions:
            if session.ended is None:
                with contextlib.suppress(SessionNotFound):  # it is another server by now
                    assert "result" in await self.rig.ask(session)
                await asyncio.sleep(SETTINGS.idle_timeout + 1)  # it sleeps, and leaves its place to the next

    # What clients do.

    def _spawn(self, work: Any) -> asyncio.Task[None]:  # noqa: ANN401
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        return task

    def _session(self, number: int) -> Session | None:
        return self.sessions[number % len(self.sessions)] if self.sessions else None

    def _open(self, number: int) -> None:
        self._spawn(self._do_open(ANNA if number % 2 else BERND))

    async def _do_open(self, principal: Principal) -> None:
        try:
            opened = await self.rig.manager.open(principal, initialize())
        except BrokerError:
            return
        await opened.exchange.wait_answered()
        opened.bridge.release(opened.exchange)
        if opened.session is None:
            return
        self.sessions.append(opened.session)
        message = parse_body(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
        assert isinstance(message, Notification)
        with contextlib.suppress(BrokerError):
            await tell(self.rig.manager, opened.session, message)

    def _call(self, number: int, method: str = "tools/call", **params: object) -> None:
        session = self._session(number)
        if session is None:
            return
        one = Call(session, f"call-{len(self.calls)}-")
        self.calls.append(one)
        one.task = self._spawn(self._do_call(one, method, **params))

    def _slow_call(self, number: int) -> None:
        self._call(number, "tools/slow")

    def _subscribe(self, number: int) -> None:
        self._call(number, "resources/subscribe", uri=f"a:{number}")

    async def _do_call(self, one: Call, method: str, **params: object) -> None:
        params["_meta"] = {"progressToken": 7, "name": one.name}
        body = {"jsonrpc": "2.0", "id": one.name, "method": method, "params": params}
        message = parse_body(json.dumps(body).encode())
        assert isinstance(message, Request)
        try:
            session = self.rig.manager.find(one.session.principal, one.session.id)
            self.rig.manager.check_accepting()
            one.exchange = await call(self.rig.manager, session, message)
        except BrokerError as exc:
            one.problem = exc
            return
        if one.gone:
            session.bridge.release(one.exchange)

    def _open_calls(self) -> list[Call]:
        return [one for one in self.calls if not one.gone and one.problem is None]

    def _release(self, number: int) -> None:
        calls = self._open_calls()
        if calls:
            one = calls[-1 - number % len(calls)]
            one.gone = True
            if one.exchange is not None:
                one.session.bridge.release(one.exchange)

    def _cancel(self, number: int) -> None:
        calls = self._open_calls()
        if calls:
            self._spawn(self._do_cancel(calls[-1 - number % len(calls)]))

    async def _do_cancel(self, one: Call) -> None:
        body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": one.name}}
        message = parse_body(json.dumps(body).encode())
        assert isinstance(message, Notification)
        durable = self.rig.manager.is_durable(one.session)
        try:
            await tell(self.rig.manager, one.session, message)
        except BrokerError:
            # Nothing that only tells may end a session that outlives its child.
            assert not durable or one.session.ended is not None

    def _listen(self, number: int) -> None:
        session = self._session(number)
        if session is not None and session.ended is None:
            self.listeners.append((session, session.bridge.listen()))

    def _leave(self, number: int) -> None:
        if self.listeners:
            session, stream = self.listeners.pop(number % len(self.listeners))
            session.bridge.release(stream)

    def _delete(self, number: int) -> None:
        session = self._session(number)
        if session is not None:
            self.rig.manager.end(session, "deleted")

    # What children do.

    def _child(self, number: int) -> FakeChild | None:
        alive = [child for child in self.servers.children if not child.exited.is_set()]
        return alive[number % len(alive)] if alive else None

    def _answer(self, number: int) -> None:
        child = self._child(number)
        if child is not None:
            self._answer_all(child)

    def _answer_all(self, child: FakeChild) -> None:
        """Let a child answer everything that it was slow with; what it has answered already again."""
        if not self.servers.can_speak(child):
            return
        for line in list(child.stdin.lines):
            message = json.loads(line)
            if message.get("method") == "tools/slow":
                child.stdout.feed(answer_line(message["id"], {"late": True}))

    def _question(self, number: int) -> None:
        child = self._child(number)
        if child is not None and self.servers.can_speak(child):
            child.stdout.feed(b'{"jsonrpc":"2.0","id":1,"method":"roots/list"}')

    def _crash(self, number: int) -> None:
        child = self._child(number)
        if child is not None:
            child.exit(ExitStatus(code=3, signal=None))

    def _close_output(self, number: int) -> None:
        child = self._child(number)
        if child is not None:
            self.servers.closed.append(child)
            child.stdout.end()

    def _stop_reading(self, number: int) -> None:
        child = self._child(number)
        if child is not None and not child.stdin.closed:
            child.stdin.fill()

    def _hang(self, number: int) -> None:
        self.servers.start_seconds = float(number)
        self.servers.initialize = SILENCE

    def _start_fails(self, number: int) -> None:  # noqa: ARG002
        self.servers.initialize = ENDS

    def _another_server(self, number: int) -> None:
        changed = {**INITIALIZE_RESULT, "serverInfo": {"name": "fake", "version": str(number)}}
        if number % 3 == 0:
            changed["capabilities"] = {"tools": {}}
        self.servers.initialize = changed

    def _mend(self, number: int) -> None:
        self.servers.start_seconds = float(number % 2)
        self.servers.initialize = INITIALIZE_RESULT

    # What operators do.

    def _rotate(self, number: int) -> None:
        self.tokens.tokens[ANNA if number % 2 else BERND] = f"token-{number}"

    def _withdraw(self, number: int) -> None:
        if number == 0:
            self.tokens.tokens.pop(ANNA, None)

    def _reconfigure(self, number: int) -> None:
        self._recipe = number % 3
        self._apply()

    def _end_or_replay(self, number: int) -> None:
        self._recovery = "replay" if number % 2 else "end"
        self._apply()

    def _apply(self) -> None:
        config = dataclasses.replace(CONFIG, cmd=[f"fake-{self._recipe}"])
        changed = dataclasses.replace(SETTINGS, recovery=self._recovery)  # type: ignore[arg-type] # one of them
        self.rig.manager.reconfigure(recipe_with_token(config, self.tokens), changed, BridgeSettings())

    def _revoke(self, number: int) -> None:
        self.rig.manager.revoke(ANNA if number % 2 else BERND, "revoked")

    # Time.

    def _turn(self, number: int) -> None:
        pass

    def _wait(self, number: int) -> None:
        pass

    def _wait_long(self, number: int) -> None:
        pass


async def _read(one: Call) -> None:
    assert one.exchange is not None
    with contextlib.suppress(StreamEnded):
        while not one.exchange.complete:
            message = await one.exchange.receive(0)
            assert message is not None, (one.name, "no answer")
            one.messages.append(json.loads(message))


@contextlib.asynccontextmanager
async def scheduled() -> AsyncIterator[Schedule]:
    """Have clients, a server and an operator until the block is left; fail if anything is left."""
    mistakes: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: mistakes.append(context))
    tokens = Tokens({ANNA: "a", BERND: "b"})
    fields = {one.name: getattr(SETTINGS, one.name) for one in dataclasses.fields(SETTINGS)}
    servers = Servers()
    async with sessions_of(servers, tokens=tokens, **fields) as rig:
        schedule = Schedule(rig, servers, tokens)
        yield schedule
    for session, stream in schedule.listeners:
        session.bridge.release(stream)
    assert not mistakes
    assert all(session.ended is not None for session in schedule.sessions)
    assert all(not session.keepers and session.waking is None for session in schedule.sessions)


async def _run(events: list[tuple[str, int, float | None]], *, drain: bool) -> None:
    async with scheduled() as schedule:
        for event, number, pause in [("open", 0, 1.0), ("open", 1, 1.0), *events]:
            schedule.do(event, number)
            seconds = PAUSES.get(event, pause)
            if seconds is not None:
                await asyncio.sleep(seconds)
            schedule.check()
        if drain:
            await schedule.rig.manager.drain(5)
            schedule.check()
            schedule.rig.manager.end_all("over")
            await asyncio.wait_for(asyncio.gather(*schedule.tasks), 100)
        else:
            await schedule.settle()


@settings(
    max_examples=SCHEDULES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(events=steps, drain=st.booleans())
def test_whatever_happens_every_call_is_answered_once_and_nothing_is_left(
    events: list[tuple[str, int, float | None]], *, drain: bool
) -> None:
    """Issue 5: limits count what there is; every call gets a result or a typed error, never two."""
    run_in_virtual_time(_run(events, drain=drain))
