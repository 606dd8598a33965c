"""A child that speaks 2026-07-28, shared by the requests of one principal.

For modern clients it is a relay: ids, progress tokens and subscription ids are swapped, the server's
`requestState` is sealed into ours, what a sloppy server leaves out is filled in, and the rest crosses
as it is, extensions included. Sessions of older clients make their own calls (`legacy_session`).

Source: MCP 2026-07-28, basic/transports/stdio; protocol matrix, section 6.1.
"""

import logging
from collections.abc import Callable

import msgspec

from ..errors import BridgeBroken, LimitReached, LocalProtocolError
from ..protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    Members,
    Notification,
    Request,
    Response,
    encode,
    object_members,
    raw,
    string_member,
)
from ..protocol.listen import graceful_result, read_filter, tag, tag_result
from ..protocol.modern import (
    DISCOVER,
    INPUT_REQUIRED,
    LISTEN,
    MAY_ASK,
    META_SUBSCRIPTION_ID,
    Discovery,
    ModernRequest,
    discover_request,
    modern_meta,
    probe_outcome,
    string_elements,
    with_meta,
)
from ..protocol.revisions import MODERN_VERSION, offered
from ..protocol.to_modern import fill_result
from ..supervisor import Child
from .messages import changes, child_ended, listened_for, slow_client, state_too_long
from .modern_request import without_bytes
from .owner import Owner
from .seal import MAX_STATE_CHARS, Claims, digest, invalid_state
from .settings import Settings
from .shared_child import SharedChild, SharedExchange, error_code

__all__ = ["ModernChild"]

logger = logging.getLogger(__name__)

#: Notifications about one request, which no stream of changes carries (MCP 2026-07-28,
#: basic/transports/streamable-http, "Receiving Messages").
OF_REQUESTS = frozenset({"notifications/message", "notifications/progress"})

#: Unfinished tasks of one child that are kept in mind.
MAX_TASKS = 1024

#: Longest params of a stream of changes, which are kept as long as it is open. A thousand URIs fit.
MAX_LISTEN_BYTES = 256 * 1024

#: How a task ends (SEP-2663, "Task Status").
TERMINAL = frozenset({"cancelled", "completed", "failed"})


class ModernChild(SharedChild):
    """A modern child, and what modern clients ask of it.

    Args:
        child: Running, with its stdout unread.
        settings: Bounds.
        owner: Whose it is.
        on_idle: Called whenever the child owes nothing any more; sometimes twice.

    Attributes:
        discovery: What it tells of itself; None until it was asked.
        orphans: Streams of changes that its end left open, for a child that replaces it.
    """

    def __init__(
        self, child: Child, settings: Settings, owner: Owner, *, on_idle: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(child, settings, on_idle=on_idle)
        self.discovery: Discovery | None = None
        self.orphans: list[Listener] = []
        self._owner = owner
        self._client_info = msgspec.Raw(b"{}")
        self._unfinished: dict[str, float] = {}  # tasks, with the time until which they count, rising

    @property
    def busy(self) -> bool:
        """Whether the child owes anybody anything: an answer, or the end of a task."""
        until = next(reversed(self._unfinished.values()), 0.0)
        return super().busy or self._loop.time() < until

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
        self._client_info = raw({"name": client_name, "version": client_version})
        return outcome

    async def call(self, request: ModernRequest) -> SharedExchange:
        """Send a modern client's request; its answer, and what comes before, arrive on the exchange.

        Whoever reads the exchange must `release` it; without an answer on it that cancels the request.

        Raises:
            BridgeBroken: The child has ended.
            ChildGone: The child is being stopped.
            LimitReached: Too many calls are in flight, or streams of changes are open.
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

    async def adopt(self, listener: "Listener") -> None:
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

    def _listeners(self) -> "list[Listener]":
        return [caller for caller in self._callers.values() if isinstance(caller, Listener)]

    async def _start(self, relay: "Relay", request: ModernRequest, params: Members) -> SharedExchange:
        child_id = self.open(relay)
        relay.child_id = child_id
        if request.progress_token is not None:
            params = with_meta(params, {"progressToken": msgspec.Raw(child_id)})
        # What was read is what is sent: the parse, so that a member that stands twice cannot mean two things.
        await self.send(child_id, {**request.members, "params": msgspec.Raw(encode(params))})
        return relay.exchange

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


class Relay:
    """One modern request of a client, on its way through a modern child (`Caller`).

    Attributes:
        child: Who answers it.
        child_id: The id that the child knows it by.
        request: What was asked, without what is long.
        exchange: Where the answer goes.
    """

    def __init__(self, child: ModernChild, request: ModernRequest, exchange: SharedExchange) -> None:
        self.child = child
        self.child_id = b""
        self.request = without_bytes(request)
        self._digest = digest(request) if request.method in MAY_ASK else b""
        self._task_id = string_member(request.params, "taskId")
        self.exchange = exchange
        exchange.on_abandoned = self.abandon

    @property
    def wants_logs(self) -> bool:
        """Whether log messages may go to it."""
        return self.request.log_level is not None

    def abandon(self) -> None:
        """Cancel the request: its client is gone."""
        self.child.cancel(self.child_id, "the client closed its stream")

    def told(self, notification: Notification) -> None:
        """Pass on progress or a log message. Nothing else belongs to a request, whatever the child says."""
        members = notification.members
        if notification.method == "notifications/progress" and self.request.progress_token is not None:
            params = object_members(members["params"]) or {}
            params["progressToken"] = self.request.progress_token
            self.put(encode({**members, "params": msgspec.Raw(encode(params))}))
        elif notification.method == "notifications/message" and self.wants_logs:
            self.put(encode(members))
        else:
            self.child.unrelated_messages += 1

    def put(self, message: bytes) -> None:
        """Put a message on the stream, unless it has ended; end it if the client does not read."""
        if not self.exchange.open:
            return
        self.exchange.put(message)
        if self.exchange.cut:
            self.child.cancel(self.child_id, "the client does not read its stream")
            self.answer(slow_client(self.request.id), INTERNAL_ERROR)

    def answered(self, response: Response) -> None:
        """Pass on the answer, with what our revision asks for and a sloppy server leaves out."""
        members = {**response.members, "id": msgspec.Raw(self.request.id)}
        result = object_members(members.get("result"))
        if result is not None:
            state = self._sealed(result)
            if state is not None and len(state) > MAX_STATE_CHARS:
                self.answer(state_too_long(self.request.id, len(state)), INTERNAL_ERROR)
                return
            if state is not None:
                result["requestState"] = raw(state)
            members["result"] = msgspec.Raw(encode(self.finish(result)))
        self.answer(encode(members), error_code(members))

    def _sealed(self, result: Members) -> str | None:
        """Return what the client gets instead of the server's own state; None if there is none."""
        state = string_member(result, "requestState")
        asks = self.request.method in MAY_ASK and string_member(result, "resultType") == INPUT_REQUIRED
        return self.child.seal(self._digest, state) if asks and state is not None else None

    def finish(self, result: Members) -> Members:
        """Return a result as the client gets it."""
        self.child.note_task(self.request.method, self._task_id, result)
        if self.request.method == DISCOVER:
            versions = string_elements(result.get("supportedVersions")) or ()
            # What the child speaks beyond that, this endpoint would refuse.
            if len(offered(versions)) != len(versions):
                result["supportedVersions"] = raw(offered(versions))
        return fill_result(self.request.method, result, self.child.server_info)

    def failed(self, ending: BridgeBroken) -> None:
        """Answer that the child has ended."""
        self.answer(child_ended(self.request.id, ending), INTERNAL_ERROR)

    def answer(self, message: bytes, code: int | None) -> None:
        """Put the last message on the stream."""
        self.exchange.error_code = code
        self.exchange.answer(message)


class Listener(Relay):
    """A stream of changes: a request whose answer is its end. It outlives a child that crashes.

    Attributes:
        whole: The request with all that is in it, for another child.

    Raises:
        LocalProtocolError: The request does not say what to listen for, or is too long to be kept.
    """

    def __init__(self, child: ModernChild, request: ModernRequest, exchange: SharedExchange) -> None:
        super().__init__(child, request, exchange)
        if sum(map(len, request.params.values())) > MAX_LISTEN_BYTES:
            raise LocalProtocolError(
                f"expected at most {MAX_LISTEN_BYTES} bytes of params in {LISTEN}",
                code=INVALID_PARAMS,
                request_id=request.id,
            )
        self.whole = request
        self._filter = read_filter(request)
        self._wanted = listened_for(self._filter)
        self._begun = False
        self._acknowledged = False  # by the child that there is now

    @property
    def wants_logs(self) -> bool:
        """No stream of changes carries logs."""
        return False

    def told(self, notification: Notification) -> None:
        """Pass on a change, or the acknowledgement, under the client's own id; an end is an end."""
        if notification.method == "notifications/cancelled":
            self.child.close(self.child_id)
            self.end()
        elif notification.method == "notifications/subscriptions/acknowledged":
            self._acknowledge(notification)
        elif self._acknowledged and self._wants(notification.method):
            self.put(encode(tag(notification.members, self.request.id)))
        else:
            self.child.unrelated_messages += 1

    def _wants(self, method: str) -> bool:
        # What we do not know, an extension may have asked for. Whether a URI is meant, or a part of
        # it, the child knows best.
        return self._wanted.get(method, method not in OF_REQUESTS)

    def _acknowledge(self, notification: Notification) -> None:
        """Begin the stream, or go on with it: nobody knows what changed while there was no child."""
        if not self._begun:
            self.put(encode(tag(notification.members, self.request.id)))
        elif not self._acknowledged:
            for change in changes(self._filter):
                self.put(encode(tag(change, self.request.id)))
        self._begun = self._acknowledged = True

    def finish(self, result: Members) -> Members:
        """Return the result that ends the stream."""
        return tag_result(super().finish(result), self.request.id)

    def failed(self, ending: BridgeBroken) -> None:
        """Wait for another child, unless this one has not even taken the request."""
        if self._acknowledged and self.exchange.open:
            self._acknowledged = False
            self.child.orphans.append(self)
        else:
            super().failed(ending)

    def end(self) -> None:
        """End the stream with the result that says so."""
        self.answer(graceful_result(self.request.id, self.child.server_info), None)
