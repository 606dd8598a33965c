"""A child that speaks 2026-07-28, shared by the requests of one principal.

For modern clients it is a relay: ids, progress tokens and subscription ids are swapped, the server's
`requestState` is sealed into ours, what a sloppy server leaves out is filled in, and the rest crosses
as it is, extensions included. Sessions of older clients make their own calls (`legacy_session`).

Source: MCP 2026-07-28, basic/transports/stdio; protocol matrix, section 6.1.
"""

import logging
from collections.abc import Callable

import msgspec

from ..protocol.jsonrpc import (
    INTERNAL_ERROR,
    Members,
    Notification,
    Request,
    Response,
    encode,
    object_members,
    string_member,
)
from ..protocol.modern import (
    INPUT_REQUIRED,
    LISTEN,
    MAY_ASK,
    META_SUBSCRIPTION_ID,
    Discovery,
    ModernRequest,
    discover_request,
    modern_meta,
    probe_outcome,
    with_meta,
)
from ..protocol.revisions import MODERN_VERSION
from ..protocol.to_modern import fill_result, graceful_result, read_filter, tag, tag_result
from ..supervisor import Child
from .channel import Ending
from .messages import changes, child_ended, slow_client
from .owner import Owner
from .seal import Claims, invalid_state
from .settings import Settings
from .shared_child import SharedChild, SharedExchange, error_code

__all__ = ["ModernChild"]

logger = logging.getLogger(__name__)


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
        self._client_info = msgspec.Raw(msgspec.json.encode({"name": client_name, "version": client_version}))
        return outcome

    async def call(self, request: ModernRequest) -> SharedExchange:
        """Send a modern client's request; its answer, and what comes before, arrive on the exchange.

        Whoever reads the exchange must `release` it; without an answer on it that cancels the request.

        Raises:
            BridgeBroken: The child has ended.
            ChildGone: The child is being stopped.
            LimitReached: Too many calls are in flight.
            LocalProtocolError: The request brings a state that is not good (any more).
        """
        self.check_usable()
        params = request.params
        if request.request_state is not None:
            params = {**params, "requestState": _raw(self._inner_state(request))}
        relay = Relay(self, request, self.new_exchange()) if request.method != LISTEN else None
        return await self._start(relay or Listener(self, request, self.new_exchange()), params)

    async def adopt(self, listener: "Listener") -> None:
        """Go on with a stream of changes that another child has left open.

        Raises:
            BridgeBroken: The child has ended.
            ChildGone: The child is being stopped.
            LimitReached: Too many calls are in flight.
        """
        self.check_usable()
        listener.child = self
        await self._start(listener, listener.request.params)

    def end_listening(self) -> None:
        """End every stream of changes with the result that says so."""
        for child_id, caller in list(self._callers.items()):
            if isinstance(caller, Listener):
                self.cancel(child_id, "the broker ends the subscription")
                caller.end()

    async def _start(self, relay: "Relay", params: Members) -> SharedExchange:
        request = relay.request
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

    def seal(self, request: ModernRequest, inner: str) -> str:
        """Return a state for a client that holds the server's own."""
        expires = self._loop.time() + self._settings.state_timeout
        claims = Claims(self.number, expires, inner=inner)
        return self._owner.seal.seal(claims, owner=self._owner.binding, request=request)

    def _inner_state(self, request: ModernRequest) -> str:
        claims = self._owner.seal.open(
            request.request_state or "", owner=self._owner.binding, request=request, now=self._loop.time()
        )
        # Servers keep the keys of their states in their process.
        if claims.child != self.number or claims.inner is None:
            raise invalid_state(request)
        return claims.inner


class Relay:
    """One modern request of a client, on its way through a modern child (`Caller`).

    Attributes:
        child: Who answers it.
        child_id: The id that the child knows it by.
        request: What was asked.
        exchange: Where the answer goes.
    """

    def __init__(self, child: ModernChild, request: ModernRequest, exchange: SharedExchange) -> None:
        self.child = child
        self.child_id = b""
        self.request = request
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
        """Pass on progress or a log message."""
        members = notification.members
        if notification.method == "notifications/progress":
            if self.request.progress_token is None:
                return
            params = object_members(members["params"]) or {}
            params["progressToken"] = self.request.progress_token
            members["params"] = msgspec.Raw(encode(params))
        self.put(encode(members))

    def put(self, message: bytes) -> None:
        """Put a message on the stream; end the request if the client does not read."""
        if not self.exchange.put(message) and self.exchange.cut:
            self.child.cancel(self.child_id, "the client does not read its stream")
            self.answer(slow_client(self.request.id), INTERNAL_ERROR)

    def answered(self, response: Response) -> None:
        """Pass on the answer, with what our revision asks for and a sloppy server leaves out."""
        members = response.members
        members["id"] = msgspec.Raw(self.request.id)
        result = object_members(members.get("result"))
        if result is not None:
            members["result"] = msgspec.Raw(encode(self.finish(result)))
        self.answer(encode(members), error_code(members))

    def finish(self, result: Members) -> Members:
        """Return a result as the client gets it."""
        state = string_member(result, "requestState")
        if (
            state is not None
            and self.request.method in MAY_ASK
            and string_member(result, "resultType") == INPUT_REQUIRED
        ):
            result["requestState"] = _raw(self.child.seal(self.request, state))
        return fill_result(self.request.method, result, self.child.server_info)

    def failed(self, ending: Ending) -> None:
        """Answer that the child has ended."""
        self.answer(child_ended(self.request.id, ending), INTERNAL_ERROR)

    def answer(self, message: bytes, code: int | None) -> None:
        """Put the last message on the stream."""
        self.exchange.error_code = code
        self.exchange.answer(message)


class Listener(Relay):
    """A stream of changes: a request whose answer is its end. It outlives a child that crashes."""

    def __init__(self, child: ModernChild, request: ModernRequest, exchange: SharedExchange) -> None:
        super().__init__(child, request, exchange)
        self._filter = read_filter(request)
        self._acknowledged = False

    @property
    def wants_logs(self) -> bool:
        """No stream of changes carries logs."""
        return False

    def told(self, notification: Notification) -> None:
        """Pass on a change, or the acknowledgement, under the client's own id; an end is an end."""
        if notification.method == "notifications/cancelled":
            self.child.close(self.child_id)
            self.end()
        elif notification.method != "notifications/subscriptions/acknowledged":
            self.put(encode(tag(notification.members, self.request.id)))
        elif self._acknowledged:
            # A new child has taken over. Nobody knows what changed in between.
            for change in changes(self._filter):
                self.put(encode(tag(change, self.request.id)))
        else:
            self._acknowledged = True
            self.put(encode(tag(notification.members, self.request.id)))

    def finish(self, result: Members) -> Members:
        """Return the result that ends the stream."""
        return tag_result(super().finish(result), self.request.id)

    def failed(self, ending: Ending) -> None:
        """Wait for another child, if the stream had begun."""
        if self._acknowledged and self.exchange.open:
            self.child.orphans.append(self)
        else:
            super().failed(ending)

    def end(self) -> None:
        """End the stream with the result that says so."""
        self.answer(graceful_result(self.request.id, self.child.server_info), None)


def _raw(value: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
