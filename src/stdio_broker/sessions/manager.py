"""All sessions of a node: opened within bounds, found by their owner only, ended whole.

A session holds a child from its `initialize` to its end, whatever ends it: the client's DELETE,
idleness, the child's own end, or our shutdown. Each session has one task, which sees its child
through to the last byte; so a place is free again only when the process is really gone.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ..bridge import Bridge, Exchange
from ..bridge import Settings as BridgeSettings
from ..errors import (
    BridgeBroken,
    CapacityError,
    ChildGone,
    Draining,
    LimitReached,
    ServerFailing,
    SessionNotFound,
    SpawnError,
    StartTimeout,
)
from ..protocol.handshake import agree, clamp_request
from ..protocol.jsonrpc import Request
from ..supervisor import Supervisor
from ..supervisor.restart import Attempt, Breaker, BreakerStatistics
from ..telemetry import redact
from .ids import SessionIds
from .principal import Principal
from .server import ServerRecipe
from .session import Session, log_name
from .settings import Settings

__all__ = ["Opened", "SessionManager", "SessionStatistics"]

logger = logging.getLogger(__name__)

#: Why a session ended that nobody ended.
SERVER_ENDED = "the server ended"


@dataclass(frozen=True, slots=True)
class Opened:
    """What came of an `initialize`.

    Attributes:
        session: The new session; None if the server refused.
        bridge: Its bridge, to release the exchange.
        exchange: The server's answer is on it, behind what the server said before.
    """

    session: Session | None
    bridge: Bridge
    exchange: Exchange


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """A snapshot.

    Attributes:
        sessions: Sessions that clients can use.
        places: Places taken, those included whose child is being started or stopped.
        max_sessions: Places there are.
        draining: Whether the node is shutting down.
        breaker: Whether the server can be started, as far as is known.
        crashes: Sessions so far whose server ended by itself after its answer to `initialize`.
    """

    sessions: int
    places: int
    max_sessions: int
    draining: bool
    breaker: BreakerStatistics
    crashes: int


class SessionManager:
    """Open, find and end sessions.

    Use as an async context manager: leaving it ends every session.

    A server that keeps failing is left alone: a breaker refuses to start it for a while, then lets
    one client try. A failure is a child that cannot be started, ends before it answers
    `initialize`, or does not answer in time. Any answer is a success, and at once: it shows that the
    server starts, and a trial that took `stable_after` would keep everybody out for as long. So a
    refusal is a success too: what one user asks for must not shut out the others. For the same
    reason the end of a server *after* its answer is no failure, however early: from then on it does
    what one user tells it, and an agent repeats the call that crashed it. Such ends are counted
    (`SessionStatistics.crashes`). Nor are failures what we cause: a limit of this machine, a client
    that goes away, our shutdown.

    Args:
        server: What to start for each session.
        supervisor: Starts the children.
        settings: Bounds.
        bridge_settings: Bounds of each bridge.
        ids: Mints the ids.
        uniform: Draws the back-off of the breaker.
    """

    def __init__(
        self,
        server: ServerRecipe,
        supervisor: Supervisor,
        *,
        settings: Settings,
        bridge_settings: BridgeSettings,
        ids: SessionIds,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._supervisor = supervisor
        self._settings = settings
        self._bridge_settings = bridge_settings
        self._ids = ids
        self._sessions: dict[str, Session] = {}
        self._places = 0
        self._breaker = Breaker(settings.breaker, uniform=uniform)
        self._crashes = 0
        self._start_slots = asyncio.Semaphore(settings.max_starting)
        self._draining = False
        self._changed = asyncio.Event()  # a bridge went idle, or a session ended
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Return the manager."""
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every session and wait until no child is left."""
        self._draining = True
        self.end_all("the broker is shutting down")
        # Not told of an error in the block: it would cancel the tasks that see the children through.
        await self._tasks.__aexit__(None, None, None)

    async def open(self, principal: Principal, request: Request) -> Opened:
        """Start a child, pass `initialize` to it, and open a session if it agrees.

        Cancelling it (the client has gone) stops the child again.

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
        if not self._breaker.admits(self._loop.time()):
            raise self._refusal()  # without a wait for a turn that would be refused
        with self._place() as place:
            async with self._start_turn():
                self.check_accepting()  # again: the turn may have come after the drain
                with self._attempt() as attempt:
                    session = await self._start(principal)
                    place.pop_all()  # from here on the session's own task gives it back
                    return await self._initialize(session, request, attempt)

    def check_accepting(self) -> None:
        """Let a new call through, or refuse it.

        Raises:
            Draining: We are shutting down: calls in flight may finish, but nothing starts.
        """
        if self._draining:
            raise Draining

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

    def end(self, session: Session, reason: str) -> None:
        """End a session: unknown from now on, its calls failed, its child stopped behind our back."""
        if session.ended is None:
            del self._sessions[session.id]
            session.end(reason)
            logger.info("session.ended", extra={"session": log_name(session.id), "reason": reason})
            self._tasks.create_task(session.child.stop(), name="stop child")

    def end_all(self, reason: str) -> None:
        """End every session."""
        for session in list(self._sessions.values()):
            self.end(session, reason)

    async def drain(self, grace: float) -> None:
        """Open nothing new, and wait until no client waits for an answer, at most `grace` seconds."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while any(session.bridge.busy for session in self._sessions.values()):
                    self._changed.clear()
                    await self._changed.wait()

    def statistics(self) -> SessionStatistics:
        """Return a snapshot."""
        return SessionStatistics(
            sessions=len(self._sessions),
            places=self._places,
            max_sessions=self._settings.max_sessions,
            draining=self._draining,
            breaker=self._breaker.statistics(self._loop.time()),
            crashes=self._crashes,
        )

    @contextlib.contextmanager
    def _place(self) -> Iterator[contextlib.ExitStack]:
        if self._places >= self._settings.max_sessions:
            raise LimitReached(
                f"all {self._settings.max_sessions} sessions are in use",
                retry_after=self._settings.retry_after,
            )
        self._places += 1
        with contextlib.ExitStack() as place:
            place.callback(self._give_back)
            yield place

    def _give_back(self) -> None:
        self._places -= 1
        self._changed.set()

    @contextlib.asynccontextmanager
    async def _start_turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._settings.queue_timeout):
                await self._start_slots.acquire()
        except TimeoutError:
            raise LimitReached(
                f"{self._settings.max_starting} servers are being started already",
                retry_after=self._settings.retry_after,
            ) from None
        try:
            yield
        finally:
            self._start_slots.release()

    @contextlib.contextmanager
    def _attempt(self) -> Iterator[Attempt]:
        """Start something in this block if the breaker lets it through.

        What fails with an error is told to the breaker here; who gets an answer tells it himself.
        """
        attempt = self._breaker.try_start(self._loop.time())
        if attempt is None:
            raise self._refusal()
        try:
            yield attempt
        except CapacityError:  # ours, not the server's
            raise
        except (SpawnError, StartTimeout, BridgeBroken) as exc:
            self._failed(attempt, str(exc))
            raise
        finally:
            self._breaker.abandoned(attempt)  # unless its outcome was told

    def _refusal(self) -> ServerFailing:
        # While a trial is under way nobody knows how long that takes.
        left = self._breaker.statistics(self._loop.time()).retry_after
        return ServerFailing(retry_after=left or self._settings.retry_after)

    def _failed(self, attempt: Attempt, reason: str) -> None:
        if self._draining:  # it ended because we end everything
            return
        now = self._loop.time()
        reason = redact(reason, self._server.secrets)
        if self._breaker.failed(attempt, now, reason):
            facts = {"server": self._server.name, "reason": reason, "retry_after": self._breaker.backoff(now)}
            logger.warning("server.breaker_opened", extra=facts)

    def _answered(self, session: Session, attempt: Attempt) -> None:
        """Tell the breaker about an answer to `initialize`: the server's, or the bridge's for it."""
        if session.ended is None:
            if self._breaker.succeeded():
                logger.warning("server.breaker_closed", extra={"server": self._server.name})
        elif session.ended == SERVER_ENDED:
            how = session.child.exit_status() if session.child.done.is_set() else "closed its output"
            self._failed(attempt, f"the server process {how} before it answered `initialize`")

    async def _start(self, principal: Principal) -> Session:
        session_id = self._ids.mint()
        config = self._server.config
        if logger.isEnabledFor(logging.DEBUG):
            config = dataclasses.replace(config, on_stderr=functools.partial(self._log_stderr, session_id))
        child = await self._supervisor.start(config)
        if self._draining:
            await child.stop(eof_grace=0, stop_grace=0)
            raise Draining
        on_idle = functools.partial(self._went_idle, session_id)
        bridge = Bridge(child, self._bridge_settings, on_idle=on_idle)
        session = Session(session_id, principal, child, bridge, self._loop.time())
        self._sessions[session.id] = session
        self._tasks.create_task(self._serve(session), name=f"session {log_name(session.id)}")
        logger.info(
            "session.started",
            extra={"session": log_name(session.id), "server": self._server.name, "pid": child.pid},
        )
        return session

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
            await session.child.wait()
            self._give_back()

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

    def _log_stderr(self, session_id: str, line: str) -> None:
        text = redact(line, self._server.secrets)
        logger.debug("child.stderr", extra={"session": log_name(session_id), "line": text})
