"""A legacy client's session over a modern child: state of ours, no process of its own.

What the client says once, in `initialize`, goes with every request; what the child asks in its
results becomes requests on the stream of the client's own POST; what the client subscribes to is one
`subscriptions/listen`. The child may end and be replaced under it: the session has all there is.

Source: protocol matrix, sections 5 and 13.9; MCP 2025-11-25; MCP 2026-07-28, basic/patterns.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine

import msgspec

from ..errors import (
    BridgeBroken,
    BrokerError,
    CapacityError,
    ChildGone,
    LimitReached,
    ProtocolError,
    SpawnError,
    Unavailable,
)
from ..protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    REQUEST_CANCELLED,
    Members,
    Notification,
    Request,
    Response,
    encode,
    error_response,
    object_members,
    params_of,
    result_response,
    string_member,
)
from ..protocol.modern import (
    COMPLETE,
    DISCOVER,
    INPUT_REQUIRED,
    LISTEN,
    LOG_LEVELS,
    RESERVED_PREFIX,
    with_meta,
)
from ..protocol.to_legacy import read_input_required, result_for_legacy, result_kind, retry_params
from .bridge import BridgeStatistics
from .budget import Budget
from .client_streams import ClientSide, ClientStreams
from .legacy_client import ChildEnded, ClientQuestions, LegacyClient, Refused
from .messages import child_ended, slow_client
from .modern_child import ModernChild
from .settings import Settings
from .streams import Exchange, MessageStream
from .watching import Watching

__all__ = ["LegacySession"]

logger = logging.getLogger(__name__)

#: Seconds between two looks at a server that wants to be asked again, without a question: the first
#: and the longest.
POLL_INTERVALS = (0.05, 0.25)

#: What the modern revision has and no older one: no legacy server answers them.
_MODERN_METHODS = frozenset({DISCOVER, LISTEN})

_WATCHING_METHODS = frozenset({"resources/subscribe", "resources/unsubscribe"})

#: Why a child is told to give a call up.
_NOBODY_WAITS = "the client waits for this no more"


class LegacySession(ClientSide):
    """The messages of one legacy client, over a modern child. It has the face of a `Bridge`.

    Args:
        client: What the client said of itself.
        acquire: Returns the child, and starts it if need be.
        acquire_nowait: Returns the child if there is one already that can be used; None: never.
        settings: Bounds.
        spawn: Starts a task; whoever gives it waits for the task's end. All end with the session.
        budget: Bounds what its messages and others hold together; None if nothing does.
        on_idle: Called whenever no client waits for an answer any more; sometimes twice.
    """

    def __init__(
        self,
        client: LegacyClient,
        acquire: Callable[[], Awaitable[ModernChild]],
        settings: Settings,
        *,
        spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
        acquire_nowait: Callable[[], ModernChild | None] = lambda: None,
        budget: Budget | None = None,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self.client = client
        self._budget = budget or Budget()
        self._acquire = acquire
        self._acquire_nowait = acquire_nowait
        self._settings = settings
        self._spawn = spawn
        self._streams = ClientStreams(
            settings,
            on_idle=on_idle,
            on_slow=self._give_up,
            on_lost=self._refuse_questions,
            budget=self._budget,
        )
        self._questions = ClientQuestions(client, self._streams, settings)
        self._watching = Watching(client, acquire, settings, spawn=spawn, tell=self._streams.send_unrelated)
        self._calls: dict[Exchange, _Call] = {}
        self._by_client_id: dict[bytes, _Call] = {}
        self._log_level: str | None = None
        self._metas: dict[str | None, msgspec.Raw] = {}  # by log level
        self._ending: BridgeBroken | None = None

    def statistics(self) -> BridgeStatistics:
        """Return a snapshot. Lines are counted where they are read: at the child, which others share."""
        return BridgeStatistics(
            calls=len(self._calls),
            questions=len(self._questions),
            bad_lines=0,
            repaired_lines=0,
            oversize_lines=0,
            dropped_messages=self._streams.lost_messages,
        )

    def listen(self) -> MessageStream:
        """Open the stream of a GET; see `ClientStreams.listen`."""
        stream = super().listen()
        self._watching.go_on()
        return stream

    def resume(self, event_id: bytes) -> MessageStream:
        """Go on with the stream that an event was on; see `ClientStreams.resume`.

        Raises:
            LocalProtocolError: This is no id of an event.
            EventsLost: The stream cannot be resumed there.
        """
        stream = super().resume(event_id)
        self._watching.go_on()
        return stream

    # From the client.

    def greet(self, answer: bytes) -> Exchange:
        """Return an exchange with the answer to `initialize` on it."""
        exchange = self._streams.open(refusable=False)
        self._streams.answer(exchange, answer)
        return exchange

    async def call(self, request: Request) -> Exchange:
        """Do as `call_nowait`: as on a `Bridge`, which may have to wait."""
        return self.call_nowait(request)

    def call_nowait(self, request: Request) -> Exchange:
        """Answer a request; the answer, and what comes before, arrive on the exchange.

        Whoever reads the exchange must `release` it.

        Raises:
            BridgeBroken: The session has ended.
            LimitReached: Too many calls are in flight, or messages hold all the bytes that they may.
        """
        if self._ending is not None:
            raise self._ending.again()
        if len(self._calls) >= self._settings.max_calls:
            raise LimitReached(
                f"{self._settings.max_calls} calls of this session are in flight already", retry_after=1.0
            )
        exchange = self._streams.open()
        if request.method == "ping":
            self._streams.answer(exchange, result_response(request.id, {}))
            return exchange
        if request.method == "logging/setLevel":
            # At once: it counts for all calls that come after it.
            self._streams.answer(exchange, self._set_log_level(request))
            return exchange
        # Kept until the answer: it is repeated with the answers to the child's questions.
        self._budget.add(len(request.source))
        call = _Call(request, exchange)
        self._calls[exchange] = self._by_client_id[request.id] = call
        if not self._begin(call):
            call.task = self._spawn(self._serve(call))
        return exchange

    async def notify(self, notification: Notification) -> None:
        """Take a notification. Only two mean anything here: a modern child knows no others."""
        if notification.method == "notifications/initialized":
            self._watching.begin()
        elif notification.method == "notifications/cancelled":
            params = object_members(notification.members.get("params")) or {}
            call = self._by_client_id.get(bytes(params.get("requestId", b"")))
            if call is not None:
                # The child must not answer any more, so we do: the client's POST wants an end.
                text = "the client cancelled this request"
                self._end(call, error_response(call.request.id, REQUEST_CANCELLED, text))

    async def reply(self, response: Response) -> None:
        """Take the client's answer to a question; an answer to nothing is dropped."""
        self._questions.reply(response)

    @property
    def subscriptions(self) -> int:
        """How many resources the client is subscribed to."""
        return self._watching.subscriptions

    def doze(self) -> None:
        """Need no child until the next call: what is watched at one is watched again then."""
        self._watching.pause()

    def end_watching(self) -> None:
        """Tell of no changes any more, so that the child owes us answers only."""
        self._watching.end()

    def fail(self, ending: BridgeBroken) -> None:
        """Answer every open call with an error, end every stream, and refuse what comes."""
        self._ending = ending
        self._watching.end()
        for call in list(self._calls.values()):
            self._end(call, child_ended(call.request.id, ending))
        self._streams.end()

    # One call.

    def _begin(self, call: "_Call") -> bool:
        """Send a call to the child, if that needs no waiting. It has no task until something does."""
        if _is_special(call.request.method):
            return False
        child = self._acquire_nowait()
        if child is None or not child.ready:
            return False
        self._watching.look_at(child)
        call.child = child
        call.child_id = child.open(_Round(self._streams, call, functools.partial(self._take_first, call)))
        params = self._modern_params(child, call)
        child.send_nowait(call.child_id, call.request.members, _with_token(params, call, call.child_id))
        call.sent = True
        return True

    def _take_first(self, call: "_Call", outcome: Response | BridgeBroken) -> None:
        """Take what the child says to a call without a task. Nearly always that is the last word."""
        if isinstance(outcome, BridgeBroken):
            self._finish(call, child_ended(call.request.id, outcome))
            return
        answer = _last_word(call.request, outcome)
        if answer is not None:
            self._finish(call, answer)
        else:
            call.task = self._spawn(self._serve(call, outcome))

    async def _serve(self, call: "_Call", first: Response | None = None) -> None:
        """See a call through.

        Args:
            call: Which.
            first: What its child has answered, if it was sent already.
        """
        try:
            if call.child is not None and first is not None:
                answer = await self._converse(call.child, call, first)
            else:
                answer = await self._answer_to(call)
        except (BrokerError, Refused, ChildEnded) as exc:
            answer = _error_answer(call.request.id, exc)
        except Exception:  # a call's entry point: a mistake of ours must not end the others
            logger.exception("call.failed", extra={"method": call.request.method[:80]})
            answer = error_response(call.request.id, INTERNAL_ERROR, "the broker failed to answer this")
        self._finish(call, answer)

    async def _answer_to(self, call: "_Call") -> bytes:
        request = call.request
        if request.method in _WATCHING_METHODS:
            return await self._subscribe(request)
        if _is_special(request.method):
            text = f"the server has no method {request.method[:80]!r} in this revision"
            return error_response(request.id, METHOD_NOT_FOUND, text)
        child = await self._child()
        try:
            return await self._converse(child, call)
        except (ChildEnded, ChildGone):
            if call.sent:
                raise
            # It has ended since. Nothing was sent to it, so another one may be asked; once.
            child = await self._child()
        return await self._converse(child, call)

    async def _child(self) -> ModernChild:
        child = await self._acquire()
        self._watching.look_at(child)
        return child

    def _set_log_level(self, request: Request) -> bytes:
        level = string_member(object_members(request.members.get("params")), "level")
        if level not in LOG_LEVELS:
            text = f"expected level to be one of {', '.join(LOG_LEVELS)}"
            return error_response(request.id, INVALID_PARAMS, text)
        self._log_level = level
        return result_response(request.id, {})

    async def _subscribe(self, request: Request) -> bytes:
        uri = string_member(object_members(request.members.get("params")), "uri")
        if uri is None:
            return error_response(request.id, INVALID_PARAMS, "expected a string as uri")
        if request.method == "resources/subscribe":
            await self._watching.subscribe(uri)
        else:
            await self._watching.unsubscribe(uri)
        return result_response(request.id, {})

    async def _converse(self, child: ModernChild, call: "_Call", first: Response | None = None) -> bytes:
        """Send the request as often as the child has questions; once less if it has answered it already."""
        params = self._modern_params(child, call)
        asked, polled = 0, 0.0
        response = first or await self._ask_child(child, call, params)
        while (answer := _last_word(call.request, response)) is None:
            result = object_members(response.members["result"]) or {}
            kind = result_kind(result)
            if kind != INPUT_REQUIRED:
                text = f"the server's answer is of a kind that this revision does not know: {kind[:80]!r}"
                raise Refused(text, "unknown kind of result")
            round_ = read_input_required(result)
            if asked == self._settings.max_rounds or polled > self._settings.park_timeout:
                text = "the server wants to be asked again and again, and gives no answer"
                raise Refused(text, "too many rounds")
            responses: dict[str, msgspec.Raw] = {}
            if round_.requests:
                asked += 1
                responses = await self._questions.ask(round_.requests, call.exchange)
            else:
                polled += await _pause_after(polled)
            params = retry_params(params, responses, round_.state)
            response = await self._ask_child(child, call, params)
        return answer

    def _modern_params(self, child: ModernChild, call: "_Call") -> Members:
        """Return params with what the client said in `initialize`, which a modern request says itself."""
        params = dict(params_of(call.request) or {})
        # Before the client says from which level on it wants logs, a server may choose.
        call.log_level = self._log_level or ("info" if child.logs else None)
        if "_meta" not in params:
            params["_meta"] = self._meta(call.log_level)
            return params
        theirs = object_members(params["_meta"]) or {}
        call.token = theirs.get("progressToken")
        kept = {name: value for name, value in theirs.items() if not name.startswith(RESERVED_PREFIX)}
        params["_meta"] = msgspec.Raw(encode({**kept, **self.client.meta(call.log_level)}))
        return params

    def _meta(self, log_level: str | None) -> msgspec.Raw:
        """Return the `_meta` of a request in which the client has none."""
        meta = self._metas.get(log_level)
        if meta is None:
            meta = self._metas[log_level] = msgspec.Raw(encode(self.client.meta(log_level)))
        return meta

    async def _ask_child(self, child: ModernChild, call: "_Call", params: Members) -> Response:
        if child.ending is not None:
            raise ChildEnded(child.ending)
        child.check_usable()
        answered: asyncio.Future[Response | BridgeBroken] = asyncio.get_running_loop().create_future()
        child_id = child.open(_Round(self._streams, call, functools.partial(_settle, answered)))
        try:
            await child.send(child_id, call.request.members, _with_token(params, call, child_id))
            call.sent = True
            outcome = await answered
        finally:
            # If it is answered this does nothing; if not, nobody waits any more.
            child.cancel(child_id, _NOBODY_WAITS)
        if isinstance(outcome, BridgeBroken):
            raise ChildEnded(outcome)
        return outcome

    # Ends of calls.

    def _give_up(self, exchange: Exchange) -> None:
        call = self._calls.get(exchange)
        if call is not None:
            self._end(call, slow_client(call.request.id))

    def _end(self, call: "_Call", answer: bytes) -> None:
        """Answer a call ourselves, and cancel it at the child; if it has a task, that does so."""
        if call.task is not None:
            call.task.cancel()
        elif call.child is not None:
            call.child.cancel(call.child_id, _NOBODY_WAITS)
        self._finish(call, answer)

    def _finish(self, call: "_Call", answer: bytes) -> None:
        """Answer a call, unless somebody has already."""
        if self._calls.pop(call.exchange, None) is None:
            return
        self._budget.remove(len(call.request.source))
        # A client that reused the id meanwhile has a newer call under it.
        if self._by_client_id.get(call.request.id) is call:
            del self._by_client_id[call.request.id]
        self._streams.answer(call.exchange, answer)

    def _refuse_questions(self, messages: list[bytes]) -> None:
        self._questions.refuse(messages)


class _Call:
    """One request of the client.

    Attributes:
        task: Sees it through, if that takes one.
        child: Who was asked without a task.
        child_id: What it knows the call by, then.
        token: What the client wants to be told of progress under, or None.
        log_level: From which level on log messages are wanted for it, or None.
        sent: Whether a child may have acted on it.
    """

    __slots__ = ("child", "child_id", "exchange", "log_level", "request", "sent", "task", "token")

    def __init__(self, request: Request, exchange: Exchange) -> None:
        self.request = request
        self.exchange = exchange
        self.task: asyncio.Task[None] | None = None
        self.child: ModernChild | None = None
        self.child_id = b""
        self.token: msgspec.Raw | None = None
        self.log_level: str | None = None
        self.sent = False


class _Round:
    """One try of a call at the child (`Caller`).

    Args:
        streams: Where it goes what the child says before.
        call: Of what.
        settle: Called with the answer, or with why there is none.
    """

    __slots__ = ("_call", "_settle", "_streams")

    outlives = False

    def __init__(
        self, streams: ClientStreams, call: _Call, settle: Callable[[Response | BridgeBroken], None]
    ) -> None:
        self._streams = streams
        self._call = call
        self._settle = settle

    @property
    def wants_logs(self) -> bool:
        return self._call.log_level is not None

    def told(self, notification: Notification) -> None:
        members = notification.members
        if notification.method == "notifications/progress":
            if self._call.token is None:
                return
            params = object_members(members["params"]) or {}
            params["progressToken"] = self._call.token
            members["params"] = msgspec.Raw(encode(params))
        self._streams.put(encode(members), self._call.exchange)

    def answered(self, response: Response) -> None:
        self._settle(response)

    def failed(self, ending: BridgeBroken) -> None:
        self._settle(ending)


def _settle(answered: asyncio.Future[Response | BridgeBroken], outcome: Response | BridgeBroken) -> None:
    if not answered.done():
        answered.set_result(outcome)


def _with_token(params: Members, call: _Call, child_id: bytes) -> Members:
    """Return params with a progress token of ours, if the client has one."""
    return params if call.token is None else with_meta(params, {"progressToken": msgspec.Raw(child_id)})


def _is_special(method: str) -> bool:
    """Tell whether a request is not for the child, as it is."""
    return method in _WATCHING_METHODS or method in _MODERN_METHODS or method.startswith("tasks/")


def _last_word(request: Request, response: Response) -> bytes | None:
    """Return a child's answer for the client; None if it is none yet, or of a kind that we do not know."""
    result = object_members(response.members.get("result"))
    if result is None:
        response.members["id"] = msgspec.Raw(request.id)
        return encode(response.members)
    if result_kind(result) != COMPLETE:
        return None
    return result_response(request.id, result_for_legacy(request.method, result))


def _error_answer(request_id: bytes, exc: Exception) -> bytes:
    """Return what a client is told when its call came to nothing."""
    if isinstance(exc, ChildEnded):
        return child_ended(request_id, exc.ending)
    if isinstance(exc, BridgeBroken):
        return child_ended(request_id, exc)
    # The command and its path are the operator's business.
    text = "the server could not be started" if isinstance(exc, SpawnError) else str(exc)
    code, facts = INTERNAL_ERROR, {"reason": "server failed", "retryable": False}
    if isinstance(exc, Refused):
        code, facts = exc.code, {"reason": exc.reason, "retryable": False}
    elif isinstance(exc, ProtocolError):
        code = exc.code
    elif isinstance(exc, Unavailable | CapacityError):
        facts = {"reason": "unavailable", "retryable": True}
    return error_response(request_id, code, text, facts)


async def _pause_after(polled: float) -> float:
    """Wait before a server is asked again that has no question, longer each time; return how long.

    Args:
        polled: Seconds waited so far.
    """
    shortest, longest = POLL_INTERVALS
    pause = min(shortest + polled, longest)
    await asyncio.sleep(pause)
    return pause
