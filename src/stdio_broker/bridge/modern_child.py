"""A child that speaks 2026-07-28, shared by the requests of one principal.

For modern clients it is a relay: ids, progress tokens and subscription ids are swapped, the server's
`requestState` is sealed into ours, what a sloppy server leaves out is filled in, and the rest crosses
as it is, extensions included. Sessions of older clients make their own calls (`legacy_session`).

Source: MCP 2026-07-28, basic/transports/stdio; protocol matrix, section 6.1.
"""

import logging
from collections.abc import Callable

import msgspec

from ..errors import LimitReached
from ..protocol.jsonrpc import (
    Members,
    Notification,
    Request,
    object_members,
    raw,
    string_member,
)
from ..protocol.modern import (
    LISTEN,
    META_SUBSCRIPTION_ID,
    Discovery,
    ModernRequest,
    discover_request,
    encode_with,
    modern_meta,
    probe_outcome,
    with_meta,
)
from ..protocol.revisions import MODERN_VERSION
from ..supervisor import Child
from .budget import Budget
from .owner import Owner
from .relay import Listener, Relay
from .seal import Claims, invalid_state
from .settings import Settings
from .shared_child import SharedChild, SharedExchange

__all__ = ["ModernChild"]

logger = logging.getLogger(__name__)

#: Unfinished tasks of one child that are kept in mind.
MAX_TASKS = 1024

#: How a task ends (SEP-2663, "Task Status").
TERMINAL = frozenset({"cancelled", "completed", "failed"})


class ModernChild(SharedChild):
    """A modern child, and what modern clients ask of it.

    Args:
        child: Running, with its stdout unread.
        settings: Bounds.
        owner: Whose it is.
        budget: Bounds what its exchanges and others hold together; None if nothing does.
        on_idle: Called whenever the child owes nothing any more; sometimes twice.

    Attributes:
        discovery: What it tells of itself; None until it was asked.
        logs: Whether it says there that it sends log messages.
        orphans: Streams of changes that its end left open, for a child that replaces it.
    """

    def __init__(
        self,
        child: Child,
        settings: Settings,
        owner: Owner,
        *,
        budget: Budget | None = None,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(child, settings, budget=budget, on_idle=on_idle)
        self.discovery: Discovery | None = None
        self.logs = False
        self.orphans: list[Listener] = []
        self._owner = owner
        self._client_info = msgspec.Raw(b"{}")
        self._unfinished: dict[str, float] = {}  # tasks, with the time until which they count, rising

    @property
    def private(self) -> bool:
        """Whether what it answers is for its principal only (identity reference, R16)."""
        return self._owner.private

    @property
    def busy(self) -> bool:
        """Whether the child owes anybody anything: an answer, or the end of a task."""
        if self._callers or not self._unfinished:
            return bool(self._callers)
        return self._loop.time() < next(reversed(self._unfinished.values()))

    @property
    def owed(self) -> int:
        """Requests, and tasks, that no other child could go on with."""
        now = self._loop.time()
        return super().owed + sum(now < until for until in self._unfinished.values())

    def note_task(self, method: str, task_id: str | None, result: Members) -> None:
        """Note from a result how a task stands, if it tells (SEP-2663): a child with one is not idle.

        Not for ever: its client may have forgotten it.

        Args:
            method: What it is the result of.
            task_id: Which task was asked about, if one was.
            result: What the child has answered.
        """
        if not method.startswith("tasks/"):
            task_id = (
                string_member(result, "taskId") if string_member(result, "resultType") == "task" else None
            )
        if task_id is None:
            return
        status = string_member(result, "status")
        if status in TERMINAL or method == "tasks/cancel":
            self._unfinished.pop(task_id, None)
            self._note_less()
        elif status is not None:
            self._unfinished.pop(task_id, None)
            if len(self._unfinished) >= MAX_TASKS:
                del self._unfinished[next(iter(self._unfinished))]
            self._unfinished[task_id] = self._loop.time() + self._settings.state_timeout

    async def discover(self, client_name: str, client_version: str) -> Discovery | tuple[str, ...] | None:
        """Ask what the child speaks; see `probe_outcome`. Nothing may be sent to it before.

        Raises:
            BridgeBroken: It has ended, or ends meanwhile.
            ChildGone: It is being stopped.
        """
        request = discover_request(client_name, client_version)
        params = object_members(request.members["params"])
        outcome = probe_outcome(await self.query(request.method, params))
        if isinstance(outcome, Discovery):
            self.discovery = outcome
            self.server_info = outcome.server_info
            self.logs = "logging" in (object_members(outcome.capabilities) or {})
        self._client_info = raw({"name": client_name, "version": client_version})
        return outcome

    async def call(self, request: ModernRequest) -> SharedExchange:
        """Send a modern client's request; its answer, and what comes before, arrive on the exchange.

        Whoever reads the exchange must `release` it; without an answer on it that cancels the request.

        Raises:
            BridgeBroken: The child has ended.
            ChildGone: The child is being stopped.
            LimitReached: Too many calls are in flight, or streams of changes are open, or messages hold
                all the bytes that they may.
            LocalProtocolError: The request brings a state that is not good (any more), or does not say
                what to listen for.
        """
        self.check_usable()
        params = request.params
        if request.request_state is not None:
            params = {**params, "requestState": raw(self._inner_state(request))}
        if request.method != LISTEN:
            return await self._start(Relay(self, request, self.new_exchange()), request, params)
        if len(self._listeners()) >= self._settings.max_listeners:
            raise LimitReached(
                f"{self._settings.max_listeners} streams of changes are open already", retry_after=5.0
            )
        return await self._start(Listener(self, request, self.new_exchange()), request, params)

    def _begin_nowait(self, request: ModernRequest) -> SharedExchange | None:
        relay = Relay(self, request, self.new_exchange())
        self._channel.try_send(self._line(relay, request, request.params))
        return relay.exchange

    async def adopt(self, listener: Listener) -> None:
        """Go on with a stream of changes that another child has left open.

        Raises:
            BridgeBroken: The child has ended.
            ChildGone: The child is being stopped.
            LimitReached: Too many calls are in flight.
        """
        self.check_usable()
        listener.child = self
        await self._start(listener, listener.whole, listener.whole.params)

    def end_listening(self) -> None:
        """End every stream of changes with the result that says so."""
        for listener in self._listeners():
            self.cancel(listener.child_id, "the broker ends the subscription")
            listener.end()

    def _listeners(self) -> list[Listener]:
        return [caller for caller in self._callers.values() if isinstance(caller, Listener)]

    async def _start(self, relay: Relay, request: ModernRequest, params: Members) -> SharedExchange:
        line = self._line(relay, request, params)
        try:
            await self._channel.send(line)
        except BaseException:
            self.close(relay.child_id)
            raise
        return relay.exchange

    def _line(self, relay: Relay, request: ModernRequest, params: Members) -> bytes:
        """Open a request, and return it as the child reads it.

        What was read is what is sent: the parse, so that a member that stands twice cannot mean two things.
        """
        child_id = relay.child_id = self.open(relay)
        if request.progress_token is not None:
            params = with_meta(params, {"progressToken": msgspec.Raw(child_id)})
        return encode_with(request.members, child_id, "params", params)

    def _asked(self, request: Request) -> None:
        # It must not ask in this era, and may not be answered.
        self.violations += 1
        if self.violations == 1:
            logger.warning("child.asked", extra={"pid": self._channel.pid, "method": request.method[:80]})

    def _told(self, notification: Notification) -> None:
        params = object_members(notification.members.get("params")) or {}
        meta = object_members(params.get("_meta")) or {}
        if META_SUBSCRIPTION_ID in meta:
            caller = self._callers.get(bytes(meta[META_SUBSCRIPTION_ID]))
        elif notification.method == "notifications/progress":
            self._progress(notification)
            return
        elif notification.method == "notifications/cancelled":
            caller = self._callers.get(bytes(params.get("requestId", b"")))
        elif notification.method == "notifications/message":
            caller = self._only_one_that_wants_logs()
        else:
            caller = None
        if caller is None:
            self.unrelated_messages += 1
        else:
            caller.told(notification)

    def _list_params(self) -> Members:
        meta = modern_meta(
            version=MODERN_VERSION,
            client_info=self._client_info,
            capabilities=msgspec.Raw(b"{}"),
            log_level=None,
        )
        return with_meta({}, meta)

    def seal(self, request: bytes, inner: str) -> str:
        """Return a state for a client that holds the server's own.

        It opens with the request of this `digest` and at this child only: servers keep the keys of their
        states in their process.
        """
        expires = self._loop.time() + self._settings.state_timeout
        claims = Claims(self.number, expires, inner=inner)
        return self._owner.seal.seal(claims, owner=self._owner.binding, request=request)

    def _inner_state(self, request: ModernRequest) -> str:
        claims = self._owner.seal.open(
            request.request_state or "", owner=self._owner.binding, request=request, now=self._loop.time()
        )
        if claims.child != self.number or claims.inner is None:
            raise invalid_state(request)
        return claims.inner
