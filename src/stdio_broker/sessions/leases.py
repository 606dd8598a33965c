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
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, cast

import msgspec

from ..bridge import LegacyChild, ModernChild, Owner, Seal, SharedExchange, invalid_state
from ..errors import BridgeBroken, BrokerError, ChildGone, Draining, ServerFailing
from ..protocol.modern import ModernRequest
from ..supervisor import Child, Supervisor
from .admission import Admission
from .eras import OtherEra, SharedChildOfEra, check_foreign, shake_hands
from .lease import Lease, LeaseEnded, LeaseKey, Tenant
from .principal import Principal
from .server import Launch
from .state import ServerState

__all__ = ["Leases"]

logger = logging.getLogger(__name__)


class Leases:
    """All children of a server that serve requests without a session.

    Use as an async context manager, and end all leases before it is left.

    Args:
        server: What to start, and within which bounds.
        supervisor: Starts the children.
        admission: Says whether one may be started.
        seal: Makes and opens states.
        on_change: Called when a child goes idle, and when a lease ends.
    """

    def __init__(
        self,
        server: ServerState,
        supervisor: Supervisor,
        admission: Admission,
        *,
        seal: Seal,
        on_change: Callable[[], None],
    ) -> None:
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._supervisor = supervisor
        self._admission = admission
        self._seal = seal
        self._leases: dict[LeaseKey, Lease] = {}
        self._retiring: set[Lease] = set()  # replaced, and not done with what they were asked
        self._successors: dict[LeaseKey, Lease] = {}  # being started, to replace those that are used
        self._tenants: dict[Principal, Tenant] = {}
        self._kept: set[Lease] = set()  # not over: forgotten ones, too, whose children take a while to end
        self._revocations = 0
        self._tasks = asyncio.TaskGroup()

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def revocations(self) -> int:
        """How often somebody was revoked so far: if more often than before a wait, it may be who waited."""
        return self._revocations

    async def __aenter__(self) -> Self:
        """Return the leases."""
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until no child is left."""
        await self._tasks.__aexit__(None, None, None)

    async def call(
        self,
        principal: Principal,
        request: ModernRequest,
        *,
        check: Callable[[SharedChildOfEra], Awaitable[None]] | None = None,
    ) -> SharedExchange:
        """Send a modern request to a child of its principal, which is started if there is none.

        Whoever reads the exchange must `release` it; without an answer on it that cancels the request.

        Args:
            principal: Whose.
            request: The request.
            check: Refuses what the child must not be asked; it may ask the child first.

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
        revocations = self._revocations
        child = await self.child(principal, request)
        try:
            if check is not None:
                await check(child)
            return await child.call(request)
        except (BridgeBroken, ChildGone):
            if self._revocations != revocations:  # maybe this principal's: then there must be no other one
                raise
            # It has ended since. Nothing was sent to it, so another one may be asked; once.
            child = await self.child(principal, request)
        try:
            return await child.call(request)
        except ChildGone:
            raise BridgeBroken("the server does not read its requests") from None

    def call_nowait(
        self, principal: Principal, request: ModernRequest, fields: Sequence[tuple[bytes, bytes]]
    ) -> SharedExchange | None:
        """Do as `call` if that needs no waiting; None if it does, or has to be refused for what is in it.

        Args:
            principal: Whose.
            request: The request.
            fields: All header fields of its POST.

        Raises:
            Draining: We are shutting down.
            LimitReached: Calls are too many, or messages hold all the bytes that they may.
        """
        if request.request_state is not None or request.input_responses is not None:
            return None
        self._admission.check()
        fingerprint = request.capabilities if self._server.facts.speaks_modern is False else None
        child = self._child_nowait(LeaseKey(principal, fingerprint))
        return None if child is None else child.call_nowait(request, fields)

    async def child(self, principal: Principal, request: ModernRequest) -> SharedChildOfEra:
        """Return the child that answers a request. Raises as `call` does."""
        if request.request_state is not None:
            return self._child_of_state(principal, request)
        modern, legacy = LeaseKey(principal, None), LeaseKey(principal, request.capabilities)
        first, second = (legacy, modern) if self._server.facts.speaks_modern is False else (modern, legacy)
        revocations = self._revocations
        try:
            return await self._join(first, request.version)
        except OtherEra:
            self.check_not_revoked(revocations)
            return await self._join(second, request.version)

    def check_not_revoked(self, revocations: int) -> None:
        """Go on after a wait, unless it may be for somebody who may have nothing any more.

        Args:
            revocations: How many there were before the wait.

        Raises:
            BridgeBroken: There was another one.
        """
        if self._revocations != revocations:
            raise BridgeBroken("somebody's access has ended meanwhile; try again", reason="server stopped")

    async def modern_child(self, principal: Principal) -> ModernChild:
        """Return the modern child of a principal, for its sessions. Raises as `call` does.

        Raises:
            OtherEra: The server is not modern.
        """
        # Of the kind that `_shared` makes for such a key.
        return cast("ModernChild", await self._join(LeaseKey(principal, None), None))

    def modern_child_nowait(self, principal: Principal) -> ModernChild | None:
        """Return the modern child of a principal, for its sessions, if there is one that can be used."""
        return cast("ModernChild | None", self._child_nowait(LeaseKey(principal, None)))  # as above

    def _child_nowait(self, key: LeaseKey) -> SharedChildOfEra | None:
        """Return the child of a key, if it has shown what it is and can be used."""
        lease = self._leases.get(key)
        if lease is None or not lease.usable or not lease.started.done():
            return None
        lease.last_used = self._loop.time()
        return lease.shared

    @property
    def busy(self) -> bool:
        """Whether a client waits for an answer. Nobody does while a call waits for its client."""
        return any(lease.busy for lease in self._all())

    def end_listening(self) -> None:
        """End every stream of changes with the result that says so."""
        for lease in self._all():
            if lease.shared is not None:
                lease.shared.end_listening()

    def principals(self) -> set[Principal]:
        """Return who has a child, or may get another one for that."""
        return {lease.key.principal for lease in {*self._all(), *self._kept} if lease.ended is None}

    def renew(self, principal: Principal, generation: str) -> None:
        """Replace the children of a principal that were not started from this.

        Each is used until its successor has shown what it is; then it finishes what it was asked. Streams
        of changes go over to the successor.
        """
        for lease in list(self._leases.values()):
            outdated = lease.generation not in {None, generation}
            if lease.key.principal == principal and outdated and lease.key not in self._successors:
                successor = self._successors[lease.key] = Lease(lease.key, self._loop.time())
                successor.replaces = lease
                successor.task = self._tasks.create_task(self._keep(successor), name="lease")

    def revoke(self, principal: Principal, reason: str) -> None:
        """End all that a principal has, at once."""
        self._revocations += 1
        for lease in {*self._all(), *self._kept}:
            if lease.key.principal == principal:
                if lease.shared is not None:
                    lease.shared.end_listening()
                self._end(lease, reason, at_once=True)

    def end_all(self) -> None:
        """End every lease, for good: its child is stopped, its calls fail, and nothing starts any more."""
        self._admission.draining = True
        self.end_listening()
        for lease in self._all():
            self._end(lease, "the broker is shutting down")

    def _all(self) -> list[Lease]:
        return [*self._leases.values(), *self._successors.values(), *self._retiring]

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
        for lease in self._all():
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
            check_foreign(self._server.facts, self._loop.time(), requested)
            lease = self._leases[key] = Lease(key, self._loop.time())
            lease.task = self._tasks.create_task(self._keep(lease), name="lease")
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
            tenant = self._tenants[principal] = Tenant(
                Owner(binding, self._seal, private=self._server.recipe.per_principal)
            )
        return tenant

    # The life of a lease.

    async def _keep(self, lease: Lease) -> None:
        """See a lease through, from the start of its child until nothing of it is left."""
        self._kept.add(lease)
        try:
            recipe = self._server.recipe
            launch = await recipe.resolve(lease.key.principal)
            with self._admission.place(lease.key.principal):
                child, shared, running = await self._start(lease, launch)
                self._server.note_started(recipe)
                await self._serve(lease, child, shared, running)
            await self._hand_over(lease)
        except BrokerError as exc:
            with contextlib.suppress(asyncio.InvalidStateError):  # unless whoever ended it was first
                lease.started.set_exception(lease.ended or exc)
            if lease.replaces is not None:
                logger.warning("lease.not_renewed", extra={**self._facts_of(lease), "problem": str(exc)})
        except Exception:  # a lease's entry point: a mistake of ours must not end the others
            logger.exception("lease.failed", extra={"server": self._server.name})
            if not lease.started.done():
                lease.started.set_exception(BridgeBroken("the broker failed to start the server"))
            if lease.shared is not None:  # nobody reads it any more
                lease.shared.fail(BridgeBroken("the broker failed to read the server"))
        finally:
            self._kept.discard(lease)
            self._forget(lease)

    async def _start(
        self, lease: Lease, launch: Launch
    ) -> tuple[Child, SharedChildOfEra, asyncio.Task[None]]:
        """Start a child; return it, what its messages go through, and who reads it."""
        principal = lease.key.principal
        async with self._admission.start(principal) as start:
            start.secrets = launch.secrets
            began = self._loop.time()
            config = launch.config_for_log(lease=lease.name, principal=principal.subject)
            lease.generation = launch.generation
            _check_wanted(lease)
            child = lease.child = await self._supervisor.start(config)
            shared = lease.shared = self._shared(lease, child)
            running = asyncio.create_task(shared.run())
            try:
                self._admission.check()  # it may have come after everything was ended
                _check_wanted(lease)
                await shake_hands(
                    shared,
                    self._server.facts,
                    began=began,
                    start_timeout=self._server.settings.start_timeout,
                    foreign_interval=self._server.settings.retry_after,
                )
            except BaseException:
                self._forget(lease)
                await child.stop()
                await running
                _check_wanted(lease)  # what went wrong was our doing, then, and not the server's
                raise
            start.answered()
            return child, shared, running

    async def _serve(
        self, lease: Lease, child: Child, shared: SharedChildOfEra, running: asyncio.Task[None]
    ) -> None:
        """Let a child be used until it ends."""
        facts = {**self._facts_of(lease), "pid": child.pid}
        logger.info("lease.started", extra=facts)
        self._take_place(lease)
        lease.started.set_result(shared)
        self._check_idle(lease, shared)
        try:
            await running
        finally:
            self._forget(lease)
            await child.stop()
            reason = "" if shared.ending is None else shared.ending.reason
            seconds = round(self._loop.time() - lease.began, 3)
            logger.info(
                "lease.ended", extra={**facts, "reason": reason, "seconds": seconds, **shared.uncrossed()}
            )

    def _take_place(self, lease: Lease) -> None:
        """Let a lease that was started to replace another be used instead of it."""
        earlier, lease.replaces = lease.replaces, None
        if earlier is None:
            return
        self._successors.pop(lease.key, None)
        current = self._leases.get(lease.key)
        # Where a third one has come meanwhile, this one is of no use.
        outdated = lease if current not in {None, earlier} else current
        if outdated is not lease:
            self._leases[lease.key] = lease
        if outdated is not None:
            outdated.retired = True
            self._retiring.add(outdated)
            self._tasks.create_task(self._drain(outdated), name="retire lease")

    async def _drain(self, lease: Lease) -> None:
        """Let a child finish what it was asked, and stop it."""
        if lease.shared is not None and lease.child is not None:
            try:
                async with asyncio.timeout(self._server.settings.drain_timeout):
                    await lease.shared.wait_settled()
            except TimeoutError:
                logger.warning("lease.not_drained", extra=self._facts_of(lease))
            await lease.child.stop()

    def _facts_of(self, lease: Lease) -> dict[str, object]:
        return {
            "lease": lease.name,
            "principal": lease.key.principal.subject,
            "server": self._server.name,
        }

    def _shared(self, lease: Lease, child: Child) -> SharedChildOfEra:
        tenant = self._tenant(lease.key.principal)
        on_idle = functools.partial(self._went_idle, lease)
        budget = self._admission.quotas.budget(lease.key.principal)
        if lease.key.fingerprint is None:
            return ModernChild(child, self._server.bridge, tenant.owner, budget=budget, on_idle=on_idle)
        return LegacyChild(
            child,
            self._server.bridge,
            tenant.owner,
            lease.key.fingerprint,
            tenant.changes,
            budget=budget,
            takes_turns=self._server.facts.asks,
            on_idle=on_idle,
            on_asked=self._note_that_it_asks,
        )

    def _note_that_it_asks(self) -> None:
        self._server.facts.asks = True

    async def _hand_over(self, lease: Lease) -> None:
        """Let another child go on with the streams of changes that one has left open by its end."""
        orphans = [] if lease.shared is None else [one for one in lease.shared.orphans if one.exchange.open]
        if not orphans:
            return
        try:
            _check_wanted(lease)
            child = await self._successor(lease)
            while orphans:
                if orphans[-1].exchange.open:  # its client may have gone since
                    await child.adopt(orphans[-1])  # type: ignore[arg-type] # the same key, so the same kind
                orphans.pop()
        except BrokerError as exc:
            if lease.ended is None:
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
        policy = self._server.settings.breaker
        early = not lease.retired and self._loop.time() - lease.began < policy.stable_after
        crashes = lease.crashes + 1 if early else 0
        if crashes > policy.max_restarts:
            raise ServerFailing(retry_after=self._server.settings.retry_after)
        return await self._join(lease.key, None, crashes)

    def _forget(self, lease: Lease) -> None:
        """Let nobody else have it."""
        self._retiring.discard(lease)
        if self._successors.get(lease.key) is lease:
            del self._successors[lease.key]
        if self._leases.get(lease.key) is lease:
            del self._leases[lease.key]
            if lease.key.fingerprint is not None:
                self._server.facts.doubt_silence()
        if not any(other.key.principal == lease.key.principal for other in self._all()):
            self._tenants.pop(lease.key.principal, None)
        if lease.timer is not None:
            lease.timer.cancel()
        self._on_change()

    def _retire(self, lease: Lease, *, at_once: bool = False) -> None:
        """Let another one take its place; who waits for its child learns how that ends."""
        self._forget(lease)
        if lease.child is not None:
            stopping = lease.child.stop(eof_grace=0, stop_grace=0) if at_once else lease.child.stop()
            self._tasks.create_task(stopping, name="stop child")

    def _end(self, lease: Lease, reason: str, *, at_once: bool = False) -> None:
        ending = BridgeBroken(f"the server was stopped: {reason}", reason="server stopped")
        lease.ended = Draining() if self._admission.draining else ending
        if lease.shared is not None:
            lease.shared.fail(ending)
        if lease.child is None and lease.task is not None and not lease.started.done():
            lease.started.set_exception(lease.ended)
            lease.task.cancel()  # nobody needs any more what it waits for
        self._retire(lease, at_once=at_once)

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
        due = lease.last_used + self._server.settings.idle_timeout
        if due <= now:
            self._end(lease, "idle")
        else:
            lease.timer = self._loop.call_at(due, self._check_idle, lease, shared)


def _check_wanted(lease: Lease) -> None:
    """Go on with a start, unless it was for somebody who may have nothing any more.

    Raises:
        LeaseEnded: We have ended it meanwhile.
    """
    if lease.ended is not None:
        raise LeaseEnded from None
