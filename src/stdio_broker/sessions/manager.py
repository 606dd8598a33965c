"""All sessions of a node: opened within bounds, found by their owner only, ended whole.

A session holds a child from its `initialize` to its end, whatever ends it: the client's DELETE,
idleness, the child's own end, or our shutdown. Each session has one task, which sees its child
through to the last byte; so a place is free again only when the process is really gone.
"""

import asyncio
import contextlib
import functools
import logging
import random
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

from ..bridge import Bridge, LegacyClient, LegacySession, ModernChild, Seal
from ..bridge import Settings as BridgeSettings
from ..errors import BridgeBroken, ChildGone, Draining, LimitReached, SessionNotFound, StartTimeout
from ..protocol.handshake import Agreement, agree, clamp_request
from ..protocol.jsonrpc import Request, object_members, parse_line, result_response, string_member
from ..protocol.modern import Discovery
from ..protocol.revisions import LATEST
from ..protocol.to_legacy import initialize_result
from ..supervisor import Supervisor
from ..supervisor.restart import Attempt
from .admission import Admission
from .eras import OtherEra
from .facts import ServerFacts, refuses_for_being_modern
from .ids import SessionIds
from .leases import Leases
from .principal import Principal
from .server import ServerRecipe
from .session import Opened, Session, SessionStatistics, log_name
from .settings import Settings

__all__ = ["SessionManager"]

logger = logging.getLogger(__name__)

#: Why a session ended that nobody ended.
SERVER_ENDED = "the server ended"


class SessionManager:
    """Open, find and end sessions.

    Use as an async context manager: leaving it ends every session.

    A client of a server that takes `initialize` has a child of its own. A server that does not take it
    is modern, and its sessions are state of ours over the child that a lease of their principal has.

    Args:
        server: What to start for each session.
        supervisor: Starts the children.
        settings: Bounds.
        bridge_settings: Bounds of each bridge.
        ids: Mints the ids.
        facts: What is known of the server already; None if nothing is.
        uniform: Draws the back-off of the breaker.

    Attributes:
        leases: Children for requests without a session.
    """

    def __init__(
        self,
        server: ServerRecipe,
        supervisor: Supervisor,
        *,
        settings: Settings,
        bridge_settings: BridgeSettings,
        ids: SessionIds,
        facts: ServerFacts | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._supervisor = supervisor
        self._settings = settings
        self._bridge_settings = bridge_settings
        self._ids = ids
        self._sessions: dict[str, Session] = {}
        self._admission = Admission(server, settings, uniform=uniform)
        self._facts = facts or ServerFacts()
        self._crashes = 0
        self._changed = asyncio.Event()  # a bridge went idle, or a session ended
        self._tasks = asyncio.TaskGroup()
        self.leases = Leases(
            server,
            supervisor,
            self._admission,
            self._facts,
            settings=settings,
            bridge_settings=bridge_settings,
            seal=Seal(),
            on_change=self._changed.set,
        )

    async def __aenter__(self) -> Self:
        """Return the manager."""
        await self._tasks.__aenter__()
        await self.leases.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every session and wait until no child is left."""
        self.end_all("the broker is shutting down")
        # Not told of an error in the block: it would cancel the tasks that see the children through.
        await self.leases.__aexit__(None, None, None)
        await self._tasks.__aexit__(None, None, None)

    async def open(self, principal: Principal, request: Request) -> Opened:
        """Open a session, in answer to `initialize`, if the server agrees.

        Cancelling it (the client has gone) stops a child that was started for it.

        Raises:
            Draining: We are shutting down.
            LimitReached: There is no place, or no turn to start came in time.
            ServerFailing: The server keeps failing, and was not started.
            LocalProtocolError: The request is no valid `initialize`.
            RemoteProtocolError: The server chose a version that we do not speak.
            SpawnError: The command cannot be started.
            StartTimeout: The server did not answer in time.
            BridgeBroken: The server ended before it read the request.
        """
        clamp_request(request)
        self.check_accepting()
        asked = self._facts.speaks_legacy is not False
        opened = await self._open_with_child(principal, request) if asked else None
        if opened is None:
            try:
                opened = await self._open_over_lease(principal, request)
            except OtherEra:
                # It was modern; another server may be there by now.
                opened = None if asked else await self._open_with_child(principal, request)
                if opened is None:
                    raise
        return opened

    def check_accepting(self) -> None:
        """Let a new call through, or refuse it.

        Raises:
            Draining: We are shutting down: calls in flight may finish, but nothing starts.
        """
        self._admission.check()

    def find(self, principal: Principal, session_id: str) -> Session:
        """Return a living session of this principal, and note that it is used.

        Raises:
            SessionNotFound: It is unknown, has ended, or is somebody else's.
        """
        session = self._sessions.get(session_id)
        if session is None or session.principal != principal:
            raise SessionNotFound
        session.last_used = self._loop.time()
        return session

    def has(self, principal: Principal, session_id: str) -> bool:
        """Tell whether `find` would find it; it does not count as used."""
        session = self._sessions.get(session_id)
        return session is not None and session.principal == principal

    def end(self, session: Session, reason: str) -> None:
        """End a session: unknown from now on, its calls failed, its child stopped behind our back."""
        if session.ended is None:
            del self._sessions[session.id]
            session.end(reason)
            logger.info("session.ended", extra={"session": log_name(session.id), "reason": reason})
            if session.child is not None:
                self._tasks.create_task(session.child.stop(), name="stop child")

    def end_all(self, reason: str) -> None:
        """End every session and every lease, for good."""
        for session in list(self._sessions.values()):
            self.end(session, reason)
        self.leases.end_all()

    async def drain(self, grace: float) -> None:
        """Open nothing new, and wait until no client waits for an answer, at most `grace` seconds."""
        self._admission.draining = True
        self.leases.end_listening()
        for session in self._sessions.values():
            if isinstance(session.bridge, LegacySession):
                session.bridge.end_watching()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self.leases.busy or any(session.bridge.busy for session in self._sessions.values()):
                    self._changed.clear()
                    await self._changed.wait()

    def statistics(self) -> SessionStatistics:
        """Return a snapshot."""
        return SessionStatistics(
            sessions=len(self._sessions),
            places=self._admission.places,
            max_sessions=self._settings.max_sessions,
            draining=self._admission.draining,
            breaker=self._admission.breaker_statistics(),
            crashes=self._crashes,
        )

    async def _open_with_child(self, principal: Principal, request: Request) -> Opened | None:
        """Start a child and pass `initialize` to it; None if the server is modern, and takes none."""
        with self._admission.place() as place:
            async with self._admission.start() as attempt:
                began = self._loop.time()
                session = await self._start(principal)
                place.pop_all()  # from here on the session's own task gives it back
                opened = await self._initialize(session, request, attempt)
                if opened.session is not None:
                    self._facts.speaks_legacy = True
                    self._facts.handshake_seconds = self._loop.time() - began
                elif await _refuses_for_being_modern(opened):
                    self._facts.speaks_legacy = False
                    opened.bridge.release(opened.exchange)
                    # Not two processes where there may be place for one only.
                    await session.wait_child()
                    return None
                return opened

    async def _open_over_lease(self, principal: Principal, request: Request) -> Opened:
        """Open a session over the modern child of its principal. It has no process, so it takes no place."""
        self._check_room()
        child = await self.leases.modern_child(principal)
        self._check_room()
        discovery = cast("Discovery", child.discovery)  # its start is over only when it has told it
        params = object_members(request.members.get("params"))
        result = initialize_result(discovery, string_member(params, "protocolVersion") or LATEST)
        answer = result_response(request.id, result)
        agreement = cast("Agreement", agree(answer))  # with ourselves
        session_id = self._ids.mint()
        bridge = LegacySession(
            LegacyClient.read(request, agreement.revision),
            functools.partial(self._modern_child, session_id, principal),
            self._bridge_settings,
            spawn=self._tasks.create_task,
            on_idle=functools.partial(self._went_idle, session_id),
        )
        session = Session(session_id, principal, None, bridge, self._loop.time())
        session.agreement = agreement
        self._add(session)
        return Opened(session, bridge, bridge.greet(answer))

    def _check_room(self) -> None:
        if len(self._sessions) >= self._settings.max_sessions:
            raise LimitReached(
                f"all {self._settings.max_sessions} sessions are in use",
                retry_after=self._settings.retry_after,
            )

    async def _modern_child(self, session_id: str, principal: Principal) -> ModernChild:
        """Return the child for a session over a lease."""
        try:
            return await self.leases.modern_child(principal)
        except OtherEra:
            # Another server is there by now. Its client shall open a session with that one.
            session = self._sessions.get(session_id)
            if session is not None:
                self.end(session, "the server does not speak this revision any more")
            raise

    def _answered(self, session: Session, attempt: Attempt) -> None:
        """Tell the breaker about an answer to `initialize`: the server's, or the bridge's for it."""
        child = session.child
        if session.ended is None:
            self._admission.answered()
        elif session.ended == SERVER_ENDED and child is not None:
            how = child.exit_status() if child.done.is_set() else "closed its output"
            self._admission.failed(attempt, f"the server process {how} before it answered `initialize`")

    async def _start(self, principal: Principal) -> Session:
        session_id = self._ids.mint()
        config = self._server.config_of(session=log_name(session_id))
        child = await self._supervisor.start(config)
        if self._admission.draining:
            await child.stop(eof_grace=0, stop_grace=0)
            raise Draining
        on_idle = functools.partial(self._went_idle, session_id)
        bridge = Bridge(child, self._bridge_settings, on_idle=on_idle)
        session = Session(session_id, principal, child, bridge, self._loop.time())
        self._add(session)
        return session

    def _add(self, session: Session) -> None:
        self._sessions[session.id] = session
        self._tasks.create_task(self._serve(session), name=f"session {log_name(session.id)}")
        pid = None if session.child is None else session.child.pid
        logger.info(
            "session.started",
            extra={"session": log_name(session.id), "server": self._server.name, "pid": pid},
        )

    async def _initialize(self, session: Session, request: Request, attempt: Attempt) -> Opened:
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                exchange = await session.bridge.call(request)
                answer = await exchange.wait_answered()
            self._answered(session, attempt)
            session.agreement = agree(answer)
        except TimeoutError:
            self.end(session, "no answer to initialize")
            raise StartTimeout(self._settings.start_timeout) from None
        except ChildGone:
            self.end(session, SERVER_ENDED)
            raise BridgeBroken("the server process ended before it read `initialize`") from None
        except BaseException:
            self.end(session, "initialize failed")
            raise
        if session.agreement is None:
            self.end(session, "the server refused initialize")
            return Opened(None, session.bridge, exchange)
        return Opened(session, session.bridge, exchange)

    async def _serve(self, session: Session) -> None:
        """Run a session to its end; give its place back when nothing of its child is left."""
        self._check_idle(session)
        try:
            await session.bridge.run()
            self._crashes += session.ended is None and session.agreement is not None
        except Exception:  # a session's entry point: a mistake of ours must not end the others
            logger.exception("session.failed", extra={"session": log_name(session.id)})
        finally:
            self.end(session, SERVER_ENDED)
            await session.wait_child()
            if session.child is not None:
                self._admission.give_back()
            self._changed.set()

    def _went_idle(self, session_id: str) -> None:
        session = self._sessions.get(session_id)
        if session is not None:
            session.last_used = self._loop.time()
        self._changed.set()

    def _check_idle(self, session: Session) -> None:
        """End the session if it is idle; else look again when it could be at the earliest."""
        if session.ended is not None:
            return
        if session.bridge.busy:
            session.last_used = self._loop.time()
        due = session.last_used + self._settings.idle_timeout
        if due <= self._loop.time():
            self.end(session, "idle")
        else:
            session.idle_timer = self._loop.call_at(due, self._check_idle, session)


async def _refuses_for_being_modern(refused: Opened) -> bool:
    """Return whether a server has refused `initialize` because it is too new for it."""
    (answer,) = parse_line(await refused.exchange.wait_answered())
    error = object_members(answer.members.get("error"))
    return error is not None and refuses_for_being_modern(error)
