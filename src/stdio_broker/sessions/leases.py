"""Children for requests without a session: one per principal, and per what its client can be asked.

A modern request brings all that is needed to answer it, so whose child answers is the only question.
One child of a modern server serves all requests of a principal, and the sessions of its older
clients. A legacy server is told once what its client can be asked, so there it is one child for each
set of capabilities. Never one child for two principals.

The table holds the start, not the started child: the first request starts it, the others wait for
the same start. A lease ends when nobody has used it for a while and its child owes nobody anything.

Source: protocol matrix, sections 0, 2.1 and 13.4; design decisions 3 and 4.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec

from .. import __version__
from ..bridge import (
    Changes,
    Ending,
    LegacyChild,
    ModernChild,
    Owner,
    Seal,
    SharedExchange,
    invalid_state,
)
from ..bridge import Settings as BridgeSettings
from ..errors import (
    BridgeBroken,
    BrokerError,
    ChildGone,
    LocalProtocolError,
    RemoteProtocolError,
    StartTimeout,
)
from ..protocol.capabilities import ClientCapabilities
from ..protocol.jsonrpc import INTERNAL_ERROR, UNSUPPORTED_PROTOCOL_VERSION, string_member
from ..protocol.modern import Discovery, ModernRequest
from ..protocol.param_headers import ParamHeaders
from ..supervisor import Child, Supervisor
from .admission import Admission
from .facts import ServerFacts, refuses_for_being_modern
from .principal import Principal
from .server import ServerRecipe
from .settings import Settings

__all__ = ["Leases"]

logger = logging.getLogger(__name__)

CLIENT_NAME = "stdio-broker"

SharedChildOfEra = ModernChild | LegacyChild


class _OtherEra(Exception):
    """The server does not speak the era that was tried; the facts know now."""


@dataclass(frozen=True, slots=True)
class _Key:
    """Who can share a child.

    Attributes:
        principal: Whose it is.
        fingerprint: What its clients can be asked; None at a modern child, where each request says so.
    """

    principal: Principal
    fingerprint: ClientCapabilities | None


class _Lease:
    """A child that is being started, or runs."""

    def __init__(self, key: _Key, now: float) -> None:
        self.key = key
        self.last_used = now
        self.started: asyncio.Future[SharedChildOfEra] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None
        self.child: Child | None = None
        self.shared: SharedChildOfEra | None = None
        self.running: asyncio.Task[None] | None = None


class _Tenant:
    """What the leases of one principal have in common."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.changes = Changes()


class Leases:
    """All children of a server that serve requests without a session.

    Use as an async context manager, and end all leases before it is left.

    Args:
        server: What to start.
        supervisor: Starts the children.
        admission: Says whether one may be started.
        facts: What is known of the server.
        settings: Bounds.
        bridge_settings: Bounds of each child.
        seal: Makes and opens states.
        on_change: Called when a child goes idle, and when a lease ends.
    """

    def __init__(
        self,
        server: ServerRecipe,
        supervisor: Supervisor,
        admission: Admission,
        facts: ServerFacts,
        *,
        settings: Settings,
        bridge_settings: BridgeSettings,
        seal: Seal,
        on_change: Callable[[], None],
    ) -> None:
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._supervisor = supervisor
        self._admission = admission
        self._facts = facts
        self._settings = settings
        self._bridge_settings = bridge_settings
        self._seal = seal
        self._leases: dict[_Key, _Lease] = {}
        self._tenants: dict[Principal, _Tenant] = {}
        self._tasks = asyncio.TaskGroup()

    def __len__(self) -> int:
        return len(self._leases)

    async def __aenter__(self) -> Self:
        """Return the leases."""
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until no child is left."""
        await self._tasks.__aexit__(None, None, None)

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Do something for as long as the leases are there."""
        return self._tasks.create_task(work)

    async def call(self, principal: Principal, request: ModernRequest) -> SharedExchange:
        """Send a modern request to a child of its principal, which is started if there is none.

        Whoever reads the exchange must `release` it; without an answer on it that cancels the request.

        Raises:
            Draining: We are shutting down.
            LimitReached: There is no place, no turn to start came in time, or calls are too many.
            LocalProtocolError: The request is not good for this server, or brings a bad state.
            RemoteProtocolError: The server speaks no revision of ours.
            ServerFailing: The server keeps failing, and was not started.
            SpawnError: The command cannot be started.
            StartTimeout: The server did not answer in time.
            BridgeBroken: The server ended before it read the request.
        """
        self._admission.check()
        while True:
            child = await self.child(principal, request)
            try:
                return await child.call(request)
            except BridgeBroken:
                # It has ended since; nothing was sent to it. Its lease goes as soon as it is looked at.
                if child.ending is None:
                    raise
                await asyncio.sleep(0)
            except ChildGone:
                raise BridgeBroken("the server does not read any more") from None

    async def param_headers(self, principal: Principal, request: ModernRequest) -> ParamHeaders:
        """Return which arguments of the server's tools are mirrored in headers. Raises as `call` does."""
        return await (await self.child(principal, request)).param_headers()

    async def child(self, principal: Principal, request: ModernRequest) -> SharedChildOfEra:
        """Return the child that answers a request. Raises as `call` does."""
        if request.request_state is not None:
            return self._child_of_state(principal, request)
        while True:
            try:
                if self._facts.speaks_modern is not False:
                    return await self._join(_Key(principal, None), request)
                return await self._join(_Key(principal, request.capabilities), request)
            except _OtherEra:
                self._check_eras()

    async def modern_child(self, principal: Principal) -> ModernChild:
        """Return the modern child of a principal, for its sessions. Raises as `call` does.

        Raises:
            RemoteProtocolError: The server is not modern.
        """
        try:
            child = await self._join(_Key(principal, None), None)
        except _OtherEra:
            child = None
        if not isinstance(child, ModernChild):
            raise RemoteProtocolError(
                "the server refuses `initialize`, and does not answer `server/discover` either",
                code=INTERNAL_ERROR,
            )
        return child

    @property
    def busy(self) -> bool:
        """Whether a client waits for an answer."""
        return any(lease.shared is not None and lease.shared.calls for lease in self._leases.values())

    def end_listening(self) -> None:
        """End every stream of changes with the result that says so."""
        for lease in self._leases.values():
            if lease.shared is not None:
                lease.shared.end_listening()

    def end_all(self) -> None:
        """End every lease: its child is stopped, its calls fail."""
        self.end_listening()
        for lease in list(self._leases.values()):
            self._end(lease, "the broker is shutting down")

    def _child_of_state(self, principal: Principal, request: ModernRequest) -> SharedChildOfEra:
        """Return the child that a state was made for, whatever the client's capabilities are by now.

        Raises:
            LocalProtocolError: The state is no good, or its child has ended.
        """
        owner = self._tenant(principal).owner
        claims = owner.seal.open(
            request.request_state or "", owner=owner.binding, request=request, now=self._loop.time()
        )
        for lease in self._leases.values():
            if lease.shared is not None and lease.shared.number == claims.child:
                lease.last_used = self._loop.time()
                return lease.shared
        raise invalid_state(request)

    def _check_eras(self) -> None:
        if self._facts.speaks_modern is False and self._facts.speaks_legacy is False:
            # One of the two was a mistake, or both: the next request finds out.
            self._facts.speaks_modern = self._facts.speaks_legacy = None
            raise RemoteProtocolError(
                "the server answers neither `server/discover` nor `initialize` as any revision of MCP asks",
                code=INTERNAL_ERROR,
            )

    async def _join(self, key: _Key, request: ModernRequest | None) -> SharedChildOfEra:
        if self._facts.foreign_versions:
            raise _unsupported(self._facts.foreign_versions, request)
        lease = self._leases.get(key)
        if lease is None:
            self._admission.check()
            lease = self._leases[key] = _Lease(key, self._loop.time())
            # Nobody may be left to hear that it failed.
            lease.started.add_done_callback(_take_note)
            self._tasks.create_task(self._keep(lease), name="lease")
        lease.last_used = self._loop.time()
        return await asyncio.shield(lease.started)

    def _tenant(self, principal: Principal) -> _Tenant:
        tenant = self._tenants.get(principal)
        if tenant is None:
            binding = msgspec.json.encode([self._server.name, principal.issuer, principal.subject])
            tenant = self._tenants[principal] = _Tenant(Owner(binding, self._seal))
        return tenant

    # The life of a lease.

    async def _keep(self, lease: _Lease) -> None:
        """See a lease through, from the start of its child until nothing of it is left."""
        try:
            with self._admission.place():
                await self._start(lease)
                await self._serve(lease)
            await self._hand_over(lease)
        except (BrokerError, _OtherEra) as exc:
            if not lease.started.done():
                lease.started.set_exception(exc)
        except Exception:  # a lease's entry point: a mistake of ours must not end the others
            logger.exception("lease.failed", extra={"server": self._server.name})
            if not lease.started.done():
                lease.started.set_exception(BridgeBroken("the broker failed to start the server"))
        finally:
            self._forget(lease)

    async def _start(self, lease: _Lease) -> None:
        async with self._admission.start():
            began = self._loop.time()
            lease.child = await self._supervisor.start(self._server.config)
            lease.shared = self._shared(lease, lease.child)
            lease.running = asyncio.create_task(lease.shared.run())
            try:
                self._admission.check()  # it may have come after everything was ended
                await self._shake_hands(lease.shared, began)
            except BaseException:
                self._forget(lease)
                await lease.child.stop()
                await lease.running
                raise
            self._admission.answered()

    async def _serve(self, lease: _Lease) -> None:
        if lease.child is None or lease.shared is None or lease.running is None:
            raise RuntimeError("expected a lease that has started")
        facts = {"server": self._server.name, "pid": lease.child.pid}
        logger.info("lease.started", extra=facts)
        lease.started.set_result(lease.shared)
        self._check_idle(lease)
        try:
            await lease.running
        finally:
            self._forget(lease)
            await lease.child.stop()
            logger.info("lease.ended", extra=facts)

    def _shared(self, lease: _Lease, child: Child) -> SharedChildOfEra:
        tenant = self._tenant(lease.key.principal)
        on_idle = functools.partial(self._went_idle, lease)
        if lease.key.fingerprint is None:
            return ModernChild(child, self._bridge_settings, tenant.owner, on_idle=on_idle)
        return LegacyChild(
            child,
            self._bridge_settings,
            tenant.owner,
            lease.key.fingerprint,
            tenant.changes,
            takes_turns=self._facts.asks,
            on_idle=on_idle,
            on_asked=self._note_that_it_asks,
        )

    def _note_that_it_asks(self) -> None:
        self._facts.asks = True

    async def _shake_hands(self, shared: SharedChildOfEra, began: float) -> None:
        """Find out what the child is, as its first request.

        Raises:
            _OtherEra: It does not speak the era that was tried.
            LocalProtocolError: It is modern, but speaks no version of ours.
            RemoteProtocolError: It refused, or gave nonsense.
            StartTimeout: It did not answer in time.
            BridgeBroken: It ended.
        """
        try:
            if isinstance(shared, ModernChild):
                await self._discover(shared, began)
            else:
                await self._initialize(shared, began)
        except ChildGone:
            raise BridgeBroken("the server process ended before it read its first request") from None

    async def _discover(self, shared: ModernChild, began: float) -> None:
        known = self._facts.speaks_modern is True
        timeout = (
            self._settings.start_timeout
            if known
            else self._facts.discover_timeout(self._settings.start_timeout)
        )
        try:
            async with asyncio.timeout_at(began + timeout):
                outcome = await shared.discover(CLIENT_NAME, __version__)
        except TimeoutError:
            if known:
                raise StartTimeout(timeout, "server/discover") from None
            outcome = None
        except (BridgeBroken, ChildGone):
            # A server may well end when the first that it hears is no `initialize`.
            if known:
                raise
            outcome = None
        if outcome is None:
            logger.info("server.is_legacy", extra={"server": self._server.name})
            self._facts.speaks_modern = False
            raise _OtherEra
        if not isinstance(outcome, Discovery):
            self._facts.foreign_versions = outcome or ("unknown",)
            raise _unsupported(self._facts.foreign_versions, None)
        self._facts.speaks_modern = True

    async def _initialize(self, shared: LegacyChild, began: float) -> None:
        timeout = self._settings.start_timeout
        try:
            async with asyncio.timeout_at(began + timeout):
                error = await shared.initialize(CLIENT_NAME, __version__)
        except TimeoutError:
            raise StartTimeout(timeout) from None
        if error is None:
            self._facts.speaks_legacy = True
            self._facts.handshake_seconds = self._loop.time() - began
            return
        if refuses_for_being_modern(error):
            self._facts.speaks_legacy = False
            raise _OtherEra
        text = string_member(error, "message") or "an error without a message"
        raise RemoteProtocolError(f"the server refused `initialize`: {text}", code=INTERNAL_ERROR)

    async def _hand_over(self, lease: _Lease) -> None:
        """Let another child go on with the streams of changes that one has left open by its end."""
        orphans = [] if lease.shared is None else [one for one in lease.shared.orphans if one.exchange.open]
        if not orphans:
            return
        try:
            self._admission.check()
            child = await self._join(lease.key, None)
            for orphan in orphans:
                await child.adopt(orphan)  # type: ignore[arg-type] # the same key, so the same kind
        except (BrokerError, _OtherEra) as exc:
            logger.warning("lease.streams_lost", extra={"server": self._server.name, "problem": str(exc)})
            for orphan in orphans:
                # Without a result: the client shall know that this is no graceful end.
                orphan.exchange.end()

    def _forget(self, lease: _Lease) -> None:
        if self._leases.get(lease.key) is lease:
            del self._leases[lease.key]
        if not any(key.principal == lease.key.principal for key in self._leases):
            self._tenants.pop(lease.key.principal, None)
        if lease.timer is not None:
            lease.timer.cancel()
        self._on_change()

    def _end(self, lease: _Lease, reason: str) -> None:
        self._forget(lease)
        if lease.shared is not None:
            error = BridgeBroken(f"the server was stopped: {reason}")
            lease.shared.fail(Ending(error, "server stopped"))
        if lease.child is not None:
            self._tasks.create_task(lease.child.stop(), name="stop child")

    def _went_idle(self, lease: _Lease) -> None:
        lease.last_used = self._loop.time()
        self._on_change()

    def _check_idle(self, lease: _Lease) -> None:
        """End the lease if it is idle; else look again when it could be at the earliest."""
        if lease.shared is None or self._leases.get(lease.key) is not lease:
            return
        now = self._loop.time()
        if lease.shared.busy:
            lease.last_used = now
        due = lease.last_used + self._settings.idle_timeout
        if due <= now:
            self._end(lease, "idle")
        else:
            lease.timer = self._loop.call_at(due, self._check_idle, lease)


def _unsupported(versions: tuple[str, ...], request: ModernRequest | None) -> LocalProtocolError:
    """Return the refusal of a version that the server does not speak."""
    requested = None if request is None else request.version
    return LocalProtocolError(
        f"the server speaks MCP {', '.join(versions)}; this broker does not",
        code=UNSUPPORTED_PROTOCOL_VERSION,
        data=msgspec.json.encode({"supported": versions, "requested": requested}),
    )


def _take_note(started: asyncio.Future[SharedChildOfEra]) -> None:
    if not started.cancelled():
        started.exception()
