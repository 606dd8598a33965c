"""All sessions of a server: opened within bounds, found by their owner only, ended whole.

A session lasts from its `initialize` to its end, whatever ends it: the client's DELETE, idleness,
a revoked principal, or our shutdown; and the end of its child, where it is not to outlive that
(`keeper`). A place is free again only when the process is really gone.
"""

import asyncio
import contextlib
import functools
import logging
import random
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

from ..bridge import Bridge, Budget, LegacyClient, LegacySession, Link, ModernChild, Seal
from ..bridge import Settings as BridgeSettings
from ..errors import (
    ChildGone,
    Draining,
    LimitReached,
    SessionNotFound,
    StartTimeout,
)
from ..protocol.handshake import Agreement, agree, clamp_request
from ..protocol.jsonrpc import Request, object_members, parse_line, result_response, string_member
from ..protocol.modern import Discovery
from ..protocol.revisions import LATEST
from ..protocol.to_legacy import initialize_result
from ..supervisor import Supervisor
from .admission import Admission, Start
from .eras import OtherEra
from .facts import ServerFacts, refuses_for_being_modern
from .ids import SessionIds
from .keeper import SERVER_ENDED, Keeper, ended_unread
from .leases import Leases
from .principal import Principal
from .quotas import Quotas, QuotaSettings
from .refresher import Refresher
from .server import Launch, ServerRecipe
from .session import Opened, Session, SessionBridge, SessionStatistics
from .settings import Settings
from .state import ServerState

__all__ = ["SessionManager"]

logger = logging.getLogger(__name__)


class SessionManager:
    """Open, find and end sessions of one server.

    Use as an async context manager: leaving it ends every session.

    A client of a server that takes `initialize` has a child of its own. A server that does not take it
    is modern, and its sessions are state of ours over the child that a lease of their principal has.

    Args:
        server: What to start for each session.
        supervisor: Starts the children.
        settings: Bounds.
        bridge_settings: Bounds of each bridge.
        ids: Mints the ids.
        quotas: What the node, and each principal on it, may have; None bounds the server only.
        facts: What is known of the server already; None if nothing is.
        uniform: Draws the back-off of breakers.

    Attributes:
        leases: Children for requests without a session.
        quotas: As above.
    """

    def __init__(
        self,
        server: ServerRecipe,
        supervisor: Supervisor,
        *,
        settings: Settings,
        bridge_settings: BridgeSettings,
        ids: SessionIds,
        quotas: Quotas | None = None,
        facts: ServerFacts | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = ServerState(server, settings, bridge_settings, facts or ServerFacts())
        self._ids = ids
        self._sessions: dict[str, Session] = {}
        self.quotas = quotas or Quotas(QuotaSettings(), now=self._loop.time)
        self._admission = Admission(self._server, self.quotas, uniform=uniform)
        self._changed = asyncio.Event()  # a bridge went idle, or a session ended
        self._tasks = asyncio.TaskGroup()
        self._keeper = Keeper(
            self._server,
            supervisor,
            self._admission,
            self._tasks,
            uniform=uniform,
            end=self.end,
            on_change=self._changed.set,
        )
        self.leases = Leases(
            self._server, supervisor, self._admission, seal=Seal(), on_change=self._changed.set
        )
        self._refresher = Refresher(
            self._server,
            holders=self._holders,
            renew=self._renew_all,
            withdrawn=lambda principal: self.revoke(principal, "the credential was withdrawn"),
        )

    @property
    def name(self) -> str:
        """What operators call the server."""
        return self._server.name

    @property
    def facts(self) -> ServerFacts:
        """What is known of the server."""
        return self._server.facts

    def note_trial(self, problem: str | None) -> None:
        """Note how a trial of the server went.

        Args:
            problem: Why it did not start, in words that may be shown; None if it did: then it need not be
                left alone any longer.
        """
        if problem is None:
            self._admission.works()
        else:
            self._server.problem = problem

    async def __aenter__(self) -> Self:
        """Return the manager."""
        await self._tasks.__aenter__()
        await self.leases.__aenter__()
        await self._refresher.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every session and wait until no child is left."""
        await self._refresher.__aexit__(None, None, None)
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
            CredentialMissing: The principal has no credential for the server.
            CredentialUnavailable: It cannot be had now.
            LocalProtocolError: The request is no valid `initialize`.
            RemoteProtocolError: The server chose a version that we do not speak.
            SpawnError: The command cannot be started.
            StartTimeout: The server did not answer in time.
            BridgeBroken: The server ended before it read the request.
        """
        clamp_request(request)
        self.check_accepting()
        self.quotas.budget(principal).check()
        asked = self._server.facts.speaks_legacy is not False
        revocations = self.leases.revocations
        opened = await self._open_with_child(principal, request) if asked else None
        if opened is None:
            self.leases.check_not_revoked(revocations)
            try:
                opened = await self._open_over_lease(principal, request)
            except OtherEra:
                self.leases.check_not_revoked(revocations)
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
        # To be the same object is the usual case, and to compare two is not cheap.
        if session is None or (session.principal is not principal and session.principal != principal):
            raise SessionNotFound
        session.last_used = self._loop.time()
        return session

    def has(self, principal: Principal, session_id: str) -> bool:
        """Tell whether `find` would find it; it does not count as used."""
        session = self._sessions.get(session_id)
        return session is not None and session.principal == principal

    def is_durable(self, session: Session) -> bool:
        """Whether a session outlives its child: that it is gone is no end."""
        return session.ended is None and self._keeper.is_durable(session)

    def end(self, session: Session, reason: str, *, at_once: bool = False) -> None:
        """End a session: unknown from now on, its calls failed, its children stopped behind our back.

        Args:
            session: Which.
            reason: Why, for its client and the log.
            at_once: Whether its children are killed, not asked.
        """
        if session.ended is not None:
            return
        self._sessions.pop(session.id, None)
        self.quotas.give_session(session.principal)
        links = session.bridge.links if isinstance(session.bridge, Bridge) else ()
        session.end(reason)
        if session.waking is not None and not session.waking.done():
            session.waking.set_exception(Draining() if self._admission.draining else SessionNotFound())
        seconds = round(self._loop.time() - session.began, 3)
        logger.info("session.ended", extra={**self._facts(session), "reason": reason, "seconds": seconds})
        for link in links:
            self._keeper.stop(link, at_once=at_once)
        self._changed.set()

    def end_all(self, reason: str) -> None:
        """End every session and every lease, for good."""
        self._admission.draining = True
        for session in list(self._sessions.values()):
            self.end(session, reason)
        self.leases.end_all()

    def principals(self) -> set[Principal]:
        """Return who has something here."""
        return {session.principal for session in self._sessions.values()} | self.leases.principals()

    def revoke(self, principal: Principal, reason: str) -> None:
        """End all that a principal has, at once: it may do nothing here any more."""
        for session in self._sessions_of(principal):
            self.end(session, reason, at_once=True)
        self.leases.revoke(principal, reason)

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

    # What is replaced under living sessions.

    def reconfigure(self, server: ServerRecipe, settings: Settings, bridge_settings: BridgeSettings) -> None:
        """Take another configuration: new children are started by it, and old ones replaced when idle."""
        self._server.replace(server, settings, bridge_settings)

    def _holders(self) -> set[Principal]:
        holders = {session.principal for session in self._sessions.values() if session.generation}
        return holders | self.leases.principals()

    def _renew_all(self, principal: Principal, launch: Launch, *, configured: bool) -> None:
        for session in self._sessions_of(principal):
            if session.generation is None:
                continue
            if session.generation == launch.generation:
                session.outdated = False  # it was for a while: there, and back
            elif configured:
                # Only the operator's wish: the client shall not even notice by the time that it takes.
                session.outdated = self._keeper.is_durable(session)
                self._keeper.rest_if_outdated(session)
            else:
                self._keeper.renew(session)
        self.leases.renew(principal, launch.generation)

    def statistics(self) -> SessionStatistics:
        """Return a snapshot."""
        settings = self._server.settings
        return SessionStatistics(
            sessions=len(self._sessions),
            asleep=sum(
                isinstance(session.bridge, Bridge) and session.link is None and session.agreement is not None
                for session in self._sessions.values()
            ),
            places=self._admission.places,
            max_places=settings.places,
            max_sessions=settings.max_sessions,
            node_full=self.quotas.full(),
            draining=self._admission.draining,
            problem=self._server.problem,
            breaker=self._admission.breaker_statistics(),
            keeps_failing=self._admission.keeps_failing(),
            crashes=self._keeper.crashes,
        )

    # Opening.

    async def _open_with_child(self, principal: Principal, request: Request) -> Opened | None:
        """Start a child and pass `initialize` to it; None if the server is modern, and takes none."""
        self._check_room(principal)
        session = self._new_session(principal)
        try:
            # From here on a principal that is revoked is found: asking for a credential may take a while.
            recipe = self._server.recipe
            launch = await recipe.resolve(principal)
            with self._admission.place(principal) as place:
                async with self._admission.start(principal) as start:
                    start.secrets = launch.secrets
                    began = self._loop.time()
                    link = await self._keeper.start(session, launch)
                    session.generation = launch.generation
                    place.pop_all()  # from here on the child's own task gives it back
                    opened = await self._initialize(session, link, request, start)
                    self._server.note_started(recipe)
        except BaseException:
            self.end(session, "its server was not started")
            raise
        return await self._learn(session, opened, self._loop.time() - began)

    async def _learn(self, session: Session, opened: Opened, seconds: float) -> Opened | None:
        """Note from its answer what the server speaks; None if that is not what was asked."""
        facts = self._server.facts
        if opened.session is not None:
            facts.speaks_legacy = True
            facts.handshake_seconds = seconds
        elif await _refuses_for_being_modern(opened):
            facts.speaks_legacy = False
            opened.bridge.release(opened.exchange)
            # Not two processes where there may be place for one only.
            await session.wait_children()
            return None
        return opened

    def _new_session(self, principal: Principal) -> Session:
        session_id = self._ids.mint()
        replays = self._server.settings.recovery == "replay"
        budget = self.quotas.budget(principal)
        bridge = Bridge(
            self._server.bridge,
            budget=budget,
            wake=functools.partial(self._wake, session_id) if replays else None,
            on_idle=functools.partial(self._went_idle, session_id),
            on_listening=functools.partial(self._listens, session_id),
        )
        return self._add(session_id, principal, bridge, budget)

    async def _open_over_lease(self, principal: Principal, request: Request) -> Opened:
        """Open a session over the modern child of its principal. It has no process, so it takes no place."""
        self._check_room(principal)
        revocations = self.leases.revocations
        child = await self.leases.modern_child(principal)
        self.leases.check_not_revoked(revocations)
        self._admission.check()  # everything may have been ended in the meantime
        self._check_room(principal)
        discovery = cast("Discovery", child.discovery)  # its start is over only when it has told it
        params = object_members(request.members.get("params"))
        result = initialize_result(discovery, string_member(params, "protocolVersion") or LATEST)
        answer = result_response(request.id, result)
        agreement = cast("Agreement", agree(answer))  # with ourselves
        session_id = self._ids.mint()
        budget = self.quotas.budget(principal)
        bridge = LegacySession(
            LegacyClient.read(request, agreement.revision),
            functools.partial(self._modern_child, session_id, principal),
            self._server.bridge,
            acquire_nowait=functools.partial(self.leases.modern_child_nowait, principal),
            budget=budget,
            spawn=self._tasks.create_task,
            on_idle=functools.partial(self._went_idle, session_id),
        )
        session = self._add(session_id, principal, bridge, budget)
        self._begin(session, agreement)
        return Opened(session, bridge, bridge.greet(answer))

    def _check_room(self, principal: Principal) -> None:
        settings = self._server.settings
        if len(self._sessions) >= settings.max_sessions and not self._make_room(principal):
            raise LimitReached(
                f"all {settings.max_sessions} sessions are in use", retry_after=settings.retry_after
            )

    def _make_room(self, principal: Principal) -> bool:
        """End the session of a principal that has slept longest, if one does; tell whether one did.

        Clients forget to end their sessions. What they have left behind must not keep them out; but
        nobody's session ends for somebody else.
        """
        asleep = [session for session in self._sessions_of(principal) if self._sleeps(session)]
        if not asleep:
            return False
        self.end(min(asleep, key=lambda session: session.last_used), "it slept, and made room for another")
        return True

    def _sleeps(self, session: Session) -> bool:
        if session.busy or session.bridge.listening or session.agreement is None:
            return False
        idle = self._loop.time() - session.last_used >= self._server.settings.idle_timeout
        return idle and session.link is None

    def _add(self, session_id: str, principal: Principal, bridge: SessionBridge, budget: Budget) -> Session:
        try:
            share = self.quotas.take_session(principal)
        except LimitReached:
            if not self._make_room(principal):
                raise
            share = self.quotas.take_session(principal)
        session = Session(session_id, principal, bridge, self._loop.time(), share=share, budget=budget)
        self._sessions[session_id] = session
        return session

    def _begin(self, session: Session, agreement: Agreement) -> None:
        session.agreement = agreement
        logger.info("session.started", extra=self._facts(session))
        self._check_idle(session)

    async def _initialize(self, session: Session, link: Link, request: Request, start: Start) -> Opened:
        bridge = cast("Bridge", session.bridge)
        bridge.use(link)
        try:
            async with asyncio.timeout(self._server.settings.start_timeout):
                exchange = await bridge.call(request)
                answer = await exchange.wait_answered()
            self._answered(session, link, start)
            agreement = agree(answer)
        except TimeoutError:
            self.end(session, "no answer to initialize")
            raise StartTimeout(self._server.settings.start_timeout) from None
        except ChildGone:
            problem = await ended_unread(link)
            self.end(session, SERVER_ENDED)
            raise problem from None
        except BaseException:
            self.end(session, "initialize failed")
            raise
        if agreement is None:
            self.end(session, "the server refused initialize")
            return Opened(None, bridge, exchange)
        self._begin(session, agreement)
        return Opened(session, bridge, exchange)

    def _answered(self, session: Session, link: Link, start: Start) -> None:
        """Tell the breaker about an answer to `initialize`: the server's, or the bridge's for it."""
        if session.ended is None:
            start.answered()
        elif session.ended == SERVER_ENDED:
            child = link.child
            how = child.exit_status() if child.done.is_set() else "closed its output"
            start.failed(f"the server process {how} before it answered `initialize`")

    # The life of a session.

    async def _wake(self, session_id: str) -> Link:
        session = self._sessions.get(session_id)
        if session is None:
            raise SessionNotFound
        if session.agreement is None:
            # No other child can answer its `initialize`.
            raise ChildGone("the server process ended before it read `initialize`")
        return await self._keeper.wake(session)

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

    def _went_idle(self, session_id: str) -> None:
        session = self._sessions.get(session_id)
        if session is not None:
            session.last_used = self._loop.time()
            if session.outdated:
                self._keeper.rest_if_outdated(session)
        self._changed.set()

    def _listens(self, session_id: str) -> None:
        session = self._sessions.get(session_id)
        if session is not None:
            self._keeper.wake_listener(session)

    def _check_idle(self, session: Session) -> None:
        """Let an idle session sleep, or end it; else look again when it could be at the earliest."""
        if session.ended is not None:
            return
        now, settings = self._loop.time(), self._server.settings
        if session.busy:
            session.last_used = now
        sleeps_at = ends_at = session.last_used + settings.idle_timeout
        if self._keeper.is_durable(session):
            ends_at = max(sleeps_at, session.last_used + settings.session_timeout)
        if ends_at <= now:
            self.end(session, "idle")
            return
        if sleeps_at <= now and self._keeper.may_sleep(session):
            self._keeper.rest(session, "idle")
        # Nobody tells when it is awake again, or its listener has gone: so look, as often as it may matter.
        due = sleeps_at if sleeps_at > now else min(ends_at, now + settings.idle_timeout)
        session.idle_timer = self._loop.call_at(due, self._check_idle, session)

    def _sessions_of(self, principal: Principal) -> list[Session]:
        return [session for session in self._sessions.values() if session.principal == principal]

    def _whose(self, principal: Principal) -> dict[str, object]:
        return {"principal": principal.subject, "server": self._server.name}

    def _facts(self, session: Session) -> dict[str, object]:
        return {"session": session.name, **self._whose(session.principal)}


async def _refuses_for_being_modern(refused: Opened) -> bool:
    """Return whether a server has refused `initialize` because it is too new for it."""
    (answer,) = parse_line(await refused.exchange.wait_answered())
    error = object_members(answer.members.get("error"))
    return error is not None and refuses_for_being_modern(error)
