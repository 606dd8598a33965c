"""A modern client's request on its way through a modern child, and its stream of changes.

Source: MCP 2026-07-28, basic/patterns/{mrtr,subscriptions}; protocol matrix, section 6.1.
"""

from typing import TYPE_CHECKING

import msgspec

from ..errors import BridgeBroken, LocalProtocolError
from ..protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    Members,
    Notification,
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
    ModernRequest,
    encode_with,
    string_elements,
)
from ..protocol.revisions import offered
from ..protocol.to_modern import fill_result
from .messages import changes, child_ended, listened_for, slow_client, state_too_long
from .modern_request import kept
from .seal import MAX_STATE_CHARS, digest
from .shared_child import SharedExchange, error_code

if TYPE_CHECKING:
    from .modern_child import ModernChild

__all__ = ["Listener", "Relay"]

#: Notifications about one request, which no stream of changes carries (MCP 2026-07-28,
#: basic/transports/streamable-http, "Receiving Messages").
OF_REQUESTS = frozenset({"notifications/message", "notifications/progress"})

#: Longest params of a stream of changes, which are kept as long as it is open. A thousand URIs fit.
MAX_LISTEN_BYTES = 256 * 1024


class Relay:
    """One modern request of a client, on its way through a modern child (`Caller`).

    Attributes:
        child: Who answers it.
        child_id: The id that the child knows it by.
        request: What was asked, without what is long.
        exchange: Where the answer goes.
    """

    __slots__ = ("_digest", "_task_id", "child", "child_id", "exchange", "request")

    outlives = False

    def __init__(self, child: "ModernChild", request: ModernRequest, exchange: SharedExchange) -> None:
        self.child = child
        self.child_id = b""
        self.request = kept(request)
        # Of what is kept whole it can be had when it is needed, and nearly no call needs it.
        self._digest = b"" if self.request is request or request.method not in MAY_ASK else digest(request)
        of_task = request.method.startswith("tasks/")
        self._task_id = string_member(request.params, "taskId") if of_task else None
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
        members = response.members
        code = error_code(members) if "error" in members else None
        result = object_members(members.get("result"))
        if result is None:
            self.answer(encode({**members, "id": msgspec.Raw(self.request.id)}), code)
            return
        state = self._sealed(result) if "requestState" in result else None
        if state is not None and len(state) > MAX_STATE_CHARS:
            self.answer(state_too_long(self.request.id, len(state)), INTERNAL_ERROR)
            return
        if state is not None:
            result["requestState"] = raw(state)
        self.answer(encode_with(members, self.request.id, "result", self.finish(result)), code)

    def _sealed(self, result: Members) -> str | None:
        """Return what the client gets instead of the server's own state; None if there is none."""
        state = string_member(result, "requestState")
        asks = self.request.method in MAY_ASK and string_member(result, "resultType") == INPUT_REQUIRED
        if not asks or state is None:
            return None
        return self.child.seal(self._digest or digest(self.request), state)

    def finish(self, result: Members) -> Members:
        """Return a result as the client gets it."""
        if self._task_id is not None or "taskId" in result:
            self.child.note_task(self.request.method, self._task_id, result)
        if self.request.method == DISCOVER:
            versions = string_elements(result.get("supportedVersions")) or ()
            # What the child speaks beyond that, this endpoint would refuse.
            if len(offered(versions)) != len(versions):
                result["supportedVersions"] = raw(offered(versions))
        if "cacheScope" in result and self.child.private and string_member(result, "cacheScope") == "public":
            # A server on stdio does not know that others have another one.
            result["cacheScope"] = raw("private")
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

    __slots__ = ("_acknowledged", "_begun", "_filter", "_wanted", "whole")

    outlives = True

    def __init__(self, child: "ModernChild", request: ModernRequest, exchange: SharedExchange) -> None:
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
