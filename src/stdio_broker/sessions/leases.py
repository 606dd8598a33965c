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
from collections.abc import Callable
from types import TracebackType
from typing import Self, cast

import msgspec

from ..bridge import LegacyChild, ModernChild, Owner, Seal, SharedExchange, invalid_state
from ..bridge import Settings as BridgeSettings
from ..errors import BridgeBroken, BrokerError, ChildGone, ServerFailing
from ..protocol.modern import ModernRequest
from ..supervisor import Child, Supervisor
from .admission import Admission
from .eras import OtherEra, SharedChildOfEra, check_foreign, shake_hands
from .facts import ServerFacts
from .lease import Lease, LeaseKey, Tenant
from .principal import Principal
from .server import ServerRecipe
from .settings import Settings

__all__ = ["Leases"]

logger = logging.getLogger(__name__)


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
        self._leases: dict[LeaseKey, Lease] = {}
        self._tenants: dict[Principal, Tenant] = {}
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
        if request.request_state is None:
            self._admission.check()
        child = await self.child(principal, request)
        try:
            return await child.call(request)
        except (BridgeBroken, ChildGone):
            # It has ended since. Nothing was sent to it, so another one may be asked; once.
            child = await self.child(principal, request)
        try:
            return await child.call(request)
        except ChildGone:
            raise BridgeBroken("the server does not read its requests") from None

    async def child(self, principal: Principal, request: ModernRequest) -> SharedChildOfEra:
        """Return the child that answers a request. Raises as `call` does."""
        if request.request_state is not None:
            return self._child_of_state(principal, request)
        modern, legacy = LeaseKey(principal, None), LeaseKey(principal, request.capabilities)
        first, second = (legacy, modern) if self._facts.speaks_modern is False else (modern, legacy)
        try:
            return await self._join(first, request.version)
        except OtherEra:
            return await self._join(second, request.version)

    async def modern_child(self, principal: Principal) -> ModernChild:
        """Return the modern child of a principal, for its sessions. Raises as `call` does.

        Raises:
            OtherEra: The server is not modern.
        """
        # Of the kind that `_shared` makes for such a key.
        return cast("ModernChild", await self._join(LeaseKey(principal, None), None))

    @property
    def busy(self) -> bool:
        """Whether a client waits for an answer. Nobody does while a call waits for its client."""
        return any(lease.busy for lease in self._leases.values())

    def end_listening(self) -> None:
        """End every stream of changes with the result that says so."""
        for lease in self._leases.values():
            if lease.shared is not None:
                lease.shared.end_listening()

    def end_all(self) -> None:
        """End every lease, for good: its child is stopped, its calls fail, and nothing starts any more."""
        self._admission.draining = True
        self.end_listening()
        for lease in list(self._leases.values()):
            self._end(lease, "the broker is shutting down")

    def _child_of_state(self, principal: Principal, request: ModernRequest) -> SharedChildOfEra:
        """Return the child that a state was made for, whatever the client's capabilities are by now.

        Raises:
            LocalProtocolError: The state is no good, or its child has ended.
        """
        tenant = self._tenants.get(principal)
        if tenant is None:
            raise invalid_state(request)
        claims = tenant.owner.seal.open(
            request.request_state or "", owner=tenant.owner.binding, request=request, now=self._loop.time()
        )
        for lease in self._leases.values():
            if lease.shared is not None and lease.shared.number == claims.child:
                lease.last_used = self._loop.time()
                return lease.shared
        raise invalid_state(request)

    async def _join(self, key: LeaseKey, requested: str | None, crashes: int = 0) -> SharedChildOfEra:
        """Return the child of a key, which is started if there is none that can be used.

        Args:
            key: Whose, and what its clients can be asked.
            requested: The version of the request; None if there is none.
            crashes: How many before it have ended early.
        """
        lease = self._leases.get(key)
        if lease is not None and not lease.usable:
            self._retire(lease)
            lease = None
        if lease is None:
            self._admission.check()
            check_foreign(self._facts, self._loop.time(), requested)
            lease = self._leases[key] = Lease(key, self._loop.time())
            self._tasks.create_task(self._keep(lease), name="lease")
        lease.last_used = self._loop.time()
        lease.crashes = max(lease.crashes, crashes)
        if lease.started.done():  # nearly always, and a shield costs more than all of this
            return lease.started.result()
        # Who waits may go away; the start is everybody's.
        return await asyncio.shield(lease.started)

    def _tenant(self, principal: Principal) -> Tenant:
        tenant = self._tenants.get(principal)
        if tenant is None:
            binding = msgspec.json.encode([self._server.name, principal.issuer, principal.subject])
            tenant = self._tenants[principal] = Tenant(Owner(binding, self._seal))
        return tenant

    # The life of a lease.

    async def _keep(self, lease: Lease) -> None:
        """See a lease through, from the start of its child until nothing of it is left."""
        try:
            with self._admission.place():
                child, shared, running = await self._start(lease)
                await self._serve(lease, child, shared, running)
            await self._hand_over(lease)
        except BrokerError as exc:
            lease.started.set_exception(exc)
        except Exception:  # a lease's entry point: a mistake of ours must not end the others
            logger.exception("lease.failed", extra={"server": self._server.name})
            if not lease.started.done():
                lease.started.set_exception(BridgeBroken("the broker failed to start the server"))
        finally:
            self._forget(lease)

    async def _start(self, lease: Lease) -> tuple[Child, SharedChildOfEra, asyncio.Task[None]]:
        """Start a child; return it, what its messages go through, and who reads it."""
        async with self._admission.start():
            began = self._loop.time()
            child = lease.child = await self._supervisor.start(self._server.config_of(lease=lease.name))
            shared = lease.shared = self._shared(lease, child)
            running = asyncio.create_task(shared.run())
            try:
                self._admission.check()  # it may have come after everything was ended
                await shake_hands(
                    shared,
                    self._facts,
                    began=began,
                    start_timeout=self._settings.start_timeout,
                    foreign_interval=self._settings.retry_after,
                )
            except BaseException:
                self._forget(lease)
                await child.stop()
                await running
                raise
            self._admission.answered()
            return child, shared, running

    async def _serve(
        self, lease: Lease, child: Child, shared: SharedChildOfEra, running: asyncio.Task[None]
    ) -> None:
        """Let a child be used until it ends."""
        facts = {"lease": lease.name, "server": self._server.name, "pid": child.pid}
        logger.info("lease.started", extra=facts)
        lease.started.set_result(shared)
        self._check_idle(lease, shared)
        try:
            await running
        finally:
            self._forget(lease)
            await child.stop()
            reason = "" if shared.ending is None else shared.ending.reason
            logger.info("lease.ended", extra={**facts, "reason": reason, **shared.uncrossed()})

    def _shared(self, lease: Lease, child: Child) -> SharedChildOfEra:
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

    async def _hand_over(self, lease: Lease) -> None:
        """Let another child go on with the streams of changes that one has left open by its end."""
        orphans = [] if lease.shared is None else [one for one in lease.shared.orphans if one.exchange.open]
        if not orphans:
            return
        try:
            child = await self._successor(lease)
            while orphans:
                if orphans[-1].exchange.open:  # its client may have gone since
                    await child.adopt(orphans[-1])  # type: ignore[arg-type] # the same key, so the same kind
                orphans.pop()
        except BrokerError as exc:
            logger.warning("lease.streams_lost", extra={"server": self._server.name, "problem": str(exc)})
        for orphan in orphans:
            # Without a result: the client shall know that this is no graceful end.
            orphan.exchange.end()

    async def _successor(self, lease: Lease) -> SharedChildOfEra:
        """Return the child that takes the place of one that has ended.

        Raises:
            ServerFailing: The last ones ended early, too: maybe by what their listeners do when they
                learn of it, and that would go on for ever.
        """
        policy = self._settings.breaker
        early = self._loop.time() - lease.began < policy.stable_after
        crashes = lease.crashes + 1 if early else 0
        if crashes > policy.max_restarts:
            raise ServerFailing(retry_after=self._settings.retry_after)
        return await self._join(lease.key, None, crashes)

    def _forget(self, lease: Lease) -> None:
        """Let nobody else have it."""
        if self._leases.get(lease.key) is lease:
            del self._leases[lease.key]
            if lease.key.fingerprint is not None:
                self._facts.doubt_silence()
        if not any(key.principal == lease.key.principal for key in self._leases):
            self._tenants.pop(lease.key.principal, None)
        if lease.timer is not None:
            lease.timer.cancel()
        self._on_change()

    def _retire(self, lease: Lease) -> None:
        """Let another one take its place; who waits for its child learns how that ends."""
        self._forget(lease)
        if lease.child is not None:
            self._tasks.create_task(lease.child.stop(), name="stop child")

    def _end(self, lease: Lease, reason: str) -> None:
        if lease.shared is not None:
            lease.shared.fail(BridgeBroken(f"the server was stopped: {reason}", reason="server stopped"))
        self._retire(lease)

    def _went_idle(self, lease: Lease) -> None:
        lease.last_used = self._loop.time()
        self._on_change()

    def _check_idle(self, lease: Lease, shared: SharedChildOfEra) -> None:
        """End the lease if it is idle; else look again when it could be at the earliest."""
        if self._leases.get(lease.key) is not lease:
            return
        now = self._loop.time()
        if shared.busy:
            lease.last_used = now
        due = lease.last_used + self._settings.idle_timeout
        if due <= now:
            self._end(lease, "idle")
        else:
            lease.timer = self._loop.call_at(due, self._check_idle, lease, shared)
