"""A legacy client's session over a modern child: state of ours, no process of its own.

What the client says once, in `initialize`, goes with every request; what the child asks in its
results becomes requests on the stream of the client's own POST; what the client subscribes to is one
`subscriptions/listen`. The child may end and be replaced under it: the session has all there is.

Source: protocol matrix, sections 5 and 13.9; MCP 2025-11-25; MCP 2026-07-28, basic/patterns.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass

import msgspec

from ..errors import BridgeBroken, BrokerError, LimitReached, RemoteProtocolError, SpawnError
from ..protocol.capabilities import ClientCapabilities, modern_capabilities, read_legacy
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
    parse_line,
    result_response,
    string_member,
)
from ..protocol.modern import (
    COMPLETE,
    INPUT_REQUIRED,
    LISTEN,
    LOG_LEVELS,
    RESERVED_PREFIX,
    modern_meta,
)
from ..protocol.revisions import MODERN_VERSION, Revision
from ..protocol.to_legacy import (
    Question,
    can_ask,
    notification_for_legacy,
    question_for_client,
    read_input_required,
    result_for_legacy,
    result_kind,
    retry_params,
)
from ..protocol.to_modern import ListenFilter
from .bridge import BridgeStatistics
from .channel import Ending
from .client_streams import ClientStreams
from .messages import changes, child_ended, request_members, slow_client
from .modern_child import ModernChild
from .settings import Settings
from .streams import Exchange, MessageStream

__all__ = ["LegacyClient", "LegacySession"]

#: Seconds between two looks at a server that wants to be asked again, without a question: the first
#: and the longest.
POLL_INTERVALS = (0.05, 0.25)


@dataclass(frozen=True, slots=True)
class LegacyClient:
    """What a client said in `initialize`.

    Attributes:
        revision: What was agreed on with it.
        capabilities: What it can be asked.
        declared: The same, as a modern request declares it.
        info: Its name and version.
    """

    revision: Revision
    capabilities: ClientCapabilities
    declared: msgspec.Raw
    info: msgspec.Raw

    @classmethod
    def read(cls, initialize: Request, revision: Revision) -> "LegacyClient":
        """Read an `initialize`."""
        params = object_members(initialize.members.get("params")) or {}
        declared = params.get("capabilities", msgspec.Raw(b"{}"))
        info = params.get("clientInfo", msgspec.Raw(b'{"name":"unknown","version":"unknown"}'))
        # Copies: what was decoded is a view that would keep the whole request.
        return cls(
            revision, read_legacy(declared, revision), modern_capabilities(declared, revision), info.copy()
        )


class _Refused(Exception):
    """A call cannot be answered; says why."""


class LegacySession:
    """The messages of one legacy client, over a modern child. It has the face of a `Bridge`.

    Args:
        client: What the client said of itself.
        acquire: Returns the child, and starts it if need be.
        settings: Bounds.
        spawn: Starts a task; whoever gives it sees to the task's end.
        on_idle: Called whenever no client waits for an answer any more; sometimes twice.
    """

    def __init__(
        self,
        client: LegacyClient,
        acquire: Callable[[], Awaitable[ModernChild]],
        settings: Settings,
        *,
        spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self.client = client
        self._acquire = acquire
        self._settings = settings
        self._spawn = spawn
        self._streams = ClientStreams(
            settings, on_idle=on_idle, on_slow=self._give_up, on_lost=self._refuse_questions
        )
        self._calls: dict[Exchange, _Call] = {}
        self._by_client_id: dict[bytes, _Call] = {}
        self._questions: dict[bytes, asyncio.Future[Response]] = {}
        self._log_level: str | None = None
        self._uris: dict[str, None] = {}
        self._watch: _Watch | None = None
        self._watch_lost = False
        self._watch_turn = asyncio.Lock()
        self._ended = asyncio.Event()
        self._ending: Ending | None = None

    @property
    def busy(self) -> bool:
        """Whether a client that we can reach waits for an answer."""
        return self._streams.busy

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

    # From the client.

    def greet(self, answer: bytes) -> Exchange:
        """Return an exchange with the answer to `initialize` on it."""
        exchange = self._streams.open()
        self._streams.answer(exchange, answer)
        return exchange

    async def call(self, request: Request) -> Exchange:
        """Answer a request; the answer, and what comes before, arrive on the exchange.

        Whoever reads the exchange must `release` it.

        Raises:
            BridgeBroken: The session has ended.
            LimitReached: Too many calls are in flight.
        """
        if self._ending is not None:
            raise BridgeBroken(str(self._ending.error))
        if len(self._calls) >= self._settings.max_calls:
            raise LimitReached(
                f"{self._settings.max_calls} calls of this session are in flight already", retry_after=1.0
            )
        exchange = self._streams.open()
        if request.method == "ping":
            self._streams.answer(exchange, result_response(request.id, {}))
            return exchange
        call = _Call(request, exchange)
        self._calls[exchange] = self._by_client_id[request.id] = call
        call.task = self._spawn(self._serve(call))
        return exchange

    async def notify(self, notification: Notification) -> None:
        """Take a notification. Only two mean anything here: a modern child knows no others."""
        if notification.method == "notifications/initialized":
            self._spawn(self._begin_watching())
        elif notification.method == "notifications/cancelled":
            params = object_members(notification.members.get("params")) or {}
            call = self._by_client_id.get(bytes(params.get("requestId", b"")))
            if call is not None:
                # The child must not answer any more, so we do: the client's POST wants an end.
                text = "the client cancelled this request"
                self._end(call, error_response(call.request.id, REQUEST_CANCELLED, text))

    async def reply(self, response: Response) -> None:
        """Take the client's answer to a question; an answer to nothing is dropped."""
        waiting = self._questions.pop(response.id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(response)

    def listen(self) -> MessageStream:
        """Open the stream of a GET; see `ClientStreams.listen`."""
        return self._streams.listen()

    def release(self, stream: MessageStream) -> None:
        """Say that nobody reads a stream any more; see `ClientStreams.release`."""
        self._streams.release(stream)

    async def run(self) -> None:
        """Wait until the session is ended."""
        await self._ended.wait()

    def fail(self, error: BridgeBroken, *, reason: str) -> None:
        """Answer every open call with an error, end every stream, and refuse what comes.

        Args:
            error: What happened, in words and numbers.
            reason: The same as a constant that programs can compare.
        """
        self._ending = Ending(error, reason)
        for call in list(self._calls.values()):
            self._end(call, child_ended(call.request.id, self._ending))
        if self._watch is not None:
            self._watch.cancel()
        self._streams.end()
        self._ended.set()

    # One call.

    async def _serve(self, call: "_Call") -> None:
        try:
            answer = await self._answer_to(call)
        except BrokerError as exc:
            # The command and its path are the operator's business.
            text = "the server could not be started" if isinstance(exc, SpawnError) else str(exc)
            facts: dict[str, object] = {"reason": "server failed", "retryable": False}
            answer = error_response(call.request.id, INTERNAL_ERROR, text, facts)
        except _Refused as exc:
            answer = error_response(call.request.id, INTERNAL_ERROR, str(exc))
        self._forget(call)
        self._streams.answer(call.exchange, answer)

    async def _answer_to(self, call: "_Call") -> bytes:
        request = call.request
        if request.method == "logging/setLevel":
            return self._set_log_level(request)
        if request.method in {"resources/subscribe", "resources/unsubscribe"}:
            return await self._subscribe(request)
        if request.method.startswith("tasks/"):
            text = f"the server has no method {request.method[:80]!r} in this revision"
            return error_response(request.id, METHOD_NOT_FOUND, text)
        child = await self._acquire()
        if self._watch_lost:
            self._spawn(self._watch_after_loss())
        return await self._converse(child, call)

    async def _converse(self, child: ModernChild, call: "_Call") -> bytes:
        """Send the request as often as the child has questions."""
        params = object_members(call.request.members.get("params")) or {}
        call.token = (object_members(params.get("_meta")) or {}).get("progressToken")
        call.log_level = self._log_level_at(child)
        asked, polled = 0, 0.0
        while True:
            response = await self._ask_child(child, call, self._modern_params(params, call.log_level))
            result = object_members(response.members.get("result"))
            if result is None:
                response.members["id"] = msgspec.Raw(call.request.id)
                return encode(response.members)
            kind = result_kind(result)
            if kind == COMPLETE:
                legacy = result_for_legacy(call.request.method, result, self.client.revision)
                return result_response(call.request.id, legacy)
            if kind != INPUT_REQUIRED:
                raise _Refused(f"the server's answer is of a kind that MCP does not know: {kind[:80]!r}")
            round_ = read_input_required(result)
            responses: dict[str, msgspec.Raw] = {}
            if round_.requests:
                asked += 1
                responses = await self._ask_client(call, round_.requests)
            else:
                polled += await _pause_after(polled)
            if asked > self._settings.max_rounds or polled > self._settings.park_timeout:
                raise _Refused("the server wants to be asked again and again, and gives no answer")
            params = retry_params(params, responses, round_.state)

    async def _ask_child(self, child: ModernChild, call: "_Call", params: Members) -> Response:
        child.check_usable()
        round_ = _Round(self, call)
        child_id = child.open(round_)
        if call.token is not None:
            meta = object_members(params["_meta"]) or {}
            meta["progressToken"] = msgspec.Raw(child_id)
            params["_meta"] = msgspec.Raw(encode(meta))
        try:
            await child.send(child_id, {**call.request.members, "params": msgspec.Raw(encode(params))})
            return await round_.answer
        finally:
            # If it is answered this does nothing; if not, nobody waits any more.
            child.cancel(child_id, "the client cancelled this request")

    def _log_level_at(self, child: ModernChild) -> str | None:
        """Return from which level on logs are wanted; before the client says so, a server may choose."""
        declared = {} if child.discovery is None else object_members(child.discovery.capabilities) or {}
        return self._log_level or ("info" if "logging" in declared else None)

    def _modern_params(self, params: Members, log_level: str | None) -> Members:
        """Return params with what the client said in `initialize`, which a modern request says itself."""
        theirs = object_members(params.get("_meta")) or {}
        kept = {name: value for name, value in theirs.items() if not name.startswith(RESERVED_PREFIX)}
        ours = modern_meta(
            version=MODERN_VERSION,
            client_info=self.client.info,
            capabilities=self.client.declared,
            log_level=log_level,
        )
        return {**params, "_meta": msgspec.Raw(encode({**kept, **ours}))}

    async def _ask_client(self, call: "_Call", questions: dict[str, Question]) -> dict[str, msgspec.Raw]:
        """Put questions to the client, all at once; return its answers.

        Raises:
            _Refused: It cannot be asked, gives an error, or nothing at all in time.
        """
        for question in questions.values():
            reason = can_ask(question, self.client.capabilities, self.client.revision)
            if reason is not None:
                raise _Refused(f"the server asks for what this client cannot do: {reason}")
        waiting: dict[bytes, asyncio.Future[Response]] = {}
        try:
            for question in questions.values():
                question_id = msgspec.json.encode(secrets.token_urlsafe(16))
                waiting[question_id] = self._questions[question_id] = call.loop.create_future()
                self._put_question(call, question_id, question)
            async with asyncio.timeout(self._settings.park_timeout):
                answers = [await answer for answer in waiting.values()]
        except TimeoutError:
            raise _Refused("the client did not answer the server's questions in time") from None
        finally:
            for question_id in waiting:
                self._questions.pop(question_id, None)
        return {
            key: _result_of(question, answer)
            for (key, question), answer in zip(questions.items(), answers, strict=True)
        }

    def _put_question(self, call: "_Call", question_id: bytes, question: Question) -> None:
        members: Members = {
            "jsonrpc": msgspec.Raw(b'"2.0"'),
            "id": msgspec.Raw(question_id),
            **question_for_client(question, elicitation_id=secrets.token_urlsafe(16)),
        }
        if call.exchange.open:
            self._streams.put(encode(members), call.exchange)
        else:
            # The client has lost the stream of its POST; what it must answer still finds it.
            self._streams.send_related(encode(members))

    def _set_log_level(self, request: Request) -> bytes:
        level = string_member(object_members(request.members.get("params")), "level")
        if level not in LOG_LEVELS:
            text = f"expected level to be one of {', '.join(LOG_LEVELS)}"
            return error_response(request.id, INVALID_PARAMS, text)
        self._log_level = level
        return result_response(request.id, {})

    # Changes.

    async def _subscribe(self, request: Request) -> bytes:
        uri = string_member(object_members(request.members.get("params")), "uri")
        if uri is None:
            return error_response(request.id, INVALID_PARAMS, "expected a string as uri")
        if request.method == "resources/unsubscribe":
            self._uris.pop(uri, None)
        else:
            self._uris[uri] = None
        accepted = await self._watch_anew()
        if uri in self._uris and b"resourceSubscriptions" not in accepted:
            del self._uris[uri]
            text = "the server does not tell when this resource changes"
            return error_response(request.id, METHOD_NOT_FOUND, text)
        return result_response(request.id, {})

    async def _begin_watching(self) -> None:
        try:
            await self._watch_anew()
        except (BrokerError, _Refused):
            self._watch_lost = True

    async def _watch_after_loss(self) -> None:
        """Watch again on another child, and say that everything may have changed."""
        self._watch_lost = False
        await self._begin_watching()
        if not self._watch_lost:
            for change in changes(self._wanted(await self._acquire())):
                self._streams.send_unrelated(encode(change))

    async def _watch_anew(self) -> bytes:
        """Watch what is wanted now; return what the child has agreed to, as it said it.

        The new stream is open before the old one ends, so that no change falls in between.
        """
        async with self._watch_turn:
            child = await self._acquire()
            wanted = self._wanted(child).as_json()
            old, self._watch = self._watch, None
            accepted = b"{}"
            try:
                if wanted:
                    watch = _Watch(self, child)
                    accepted = await watch.begin(wanted)
                    self._watch = watch
            finally:
                if old is not None:
                    old.cancel()
            return accepted

    def _wanted(self, child: ModernChild) -> ListenFilter:
        declared = {} if child.discovery is None else object_members(child.discovery.capabilities) or {}

        def announces(feature: str) -> bool:
            return (object_members(declared.get(feature)) or {}).get("listChanged") == msgspec.Raw(b"true")

        return ListenFilter(
            announces("tools"), announces("prompts"), announces("resources"), tuple(self._uris)
        )

    def watched(self, notification: Notification) -> None:
        """Pass on a change."""
        self._streams.send_unrelated(notification_for_legacy(notification))

    def watch_ended(self, watch: "_Watch", *, child_ended: bool) -> None:
        """Note that the child tells no more changes; try again if that is because it has ended."""
        if watch is not self._watch:
            return
        self._watch = None
        if child_ended and self._ending is None:
            self._watch_lost = True
            self._spawn(self._watch_after_loss())

    # Streams.

    def put(self, message: bytes, call: "_Call") -> None:
        """Put a message on the stream of its call."""
        self._streams.put(message, call.exchange)

    def modern_meta_of_ours(self) -> Members:
        """Return the `_meta` of a request of the session's own."""
        return modern_meta(
            version=MODERN_VERSION,
            client_info=self.client.info,
            capabilities=self.client.declared,
            log_level=None,
        )

    @property
    def query_timeout(self) -> float:
        """Seconds that a child has to agree to a stream of changes."""
        return self._settings.query_timeout

    def _give_up(self, exchange: Exchange) -> None:
        call = self._calls.get(exchange)
        if call is not None:
            self._end(call, slow_client(call.request.id))

    def _end(self, call: "_Call", answer: bytes) -> None:
        """Answer a call ourselves; its task cancels it at the child."""
        self._forget(call)
        call.task.cancel()
        self._streams.answer(call.exchange, answer)

    def _forget(self, call: "_Call") -> None:
        self._calls.pop(call.exchange, None)
        # A client that reused the id meanwhile has a newer call under it.
        if self._by_client_id.get(call.request.id) is call:
            del self._by_client_id[call.request.id]

    def _refuse_questions(self, messages: list[bytes]) -> None:
        for message in messages:
            for question in parse_line(message):
                if isinstance(question, Request):
                    waiting = self._questions.pop(question.id, None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(_nobody_answered(question.id))


class _Call:
    """One request of the client."""

    task: asyncio.Task[None]

    def __init__(self, request: Request, exchange: Exchange) -> None:
        self.request = request
        self.exchange = exchange
        self.token: msgspec.Raw | None = None
        self.log_level: str | None = None
        self.loop = asyncio.get_running_loop()


class _Round:
    """One try of a call at the child (`Caller`)."""

    def __init__(self, session: LegacySession, call: _Call) -> None:
        self.answer: asyncio.Future[Response] = call.loop.create_future()
        self._session = session
        self._call = call

    @property
    def wants_logs(self) -> bool:
        return self._call.log_level is not None

    def told(self, notification: Notification) -> None:
        members = notification.members
        if notification.method == "notifications/progress":
            params = object_members(members["params"]) or {}
            if self._call.token is None:
                return
            params["progressToken"] = self._call.token
            members["params"] = msgspec.Raw(encode(params))
        self._session.put(encode(members), self._call)

    def answered(self, response: Response) -> None:
        if not self.answer.done():
            self.answer.set_result(response)

    def failed(self, ending: Ending) -> None:
        if not self.answer.done():
            self.answer.set_exception(BridgeBroken(str(ending.error), code=ending.error.code))


class _Watch:
    """A stream of changes at the child (`Caller`)."""

    wants_logs = False

    def __init__(self, session: LegacySession, child: ModernChild) -> None:
        self._session = session
        self._child = child
        self._child_id = b""
        self._accepted: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def begin(self, wanted: dict[str, object]) -> bytes:
        """Open it; return what the child has agreed to."""
        params: Members = {
            "_meta": msgspec.Raw(encode(self._session.modern_meta_of_ours())),
            "notifications": msgspec.Raw(msgspec.json.encode(wanted)),
        }
        self._child_id = self._child.open(self)
        try:
            async with asyncio.timeout(self._session.query_timeout):
                await self._child.send(self._child_id, request_members(LISTEN, params))
                return await self._accepted
        except TimeoutError:
            raise _Refused("the server did not agree in time to tell of changes") from None
        finally:
            if not self._agreed():
                self.cancel()

    def _agreed(self) -> bool:
        return self._accepted.done() and not self._accepted.cancelled()

    def cancel(self) -> None:
        self._child.cancel(self._child_id, "the client listens no more")

    def told(self, notification: Notification) -> None:
        if notification.method == "notifications/subscriptions/acknowledged":
            params = object_members(notification.members.get("params")) or {}
            if not self._accepted.done():
                self._accepted.set_result(bytes(params.get("notifications", b"{}")))
        elif notification.method == "notifications/cancelled":
            self._child.close(self._child_id)
            self._over(RemoteProtocolError("the server ends its stream of changes", code=INTERNAL_ERROR))
        else:
            self._session.watched(notification)

    def answered(self, response: Response) -> None:
        error = object_members(response.members.get("error"))
        text = string_member(error, "message") or "the server ends its stream of changes"
        self._over(RemoteProtocolError(text, code=INTERNAL_ERROR))

    def failed(self, ending: Ending) -> None:
        self._over(BridgeBroken(str(ending.error)), child_ended=True)

    def _over(self, error: BrokerError, *, child_ended: bool = False) -> None:
        if not self._accepted.done():
            self._accepted.set_exception(error)
        else:
            self._session.watch_ended(self, child_ended=child_ended)


def _result_of(question: Question, answer: Response) -> msgspec.Raw:
    """Return the result that a client gave.

    Raises:
        _Refused: It gave an error. There is no way to tell a modern server; the call ends here.
    """
    result = answer.members.get("result")
    if object_members(result) is not None and result is not None:
        return result
    error = object_members(answer.members.get("error"))
    text = string_member(error, "message") or "an error without a message"
    raise _Refused(f"the client did not answer {question.method}: {text}")


def _nobody_answered(question_id: bytes) -> Response:
    """Return the answer in place of a client's that could not be asked."""
    (refusal,) = parse_line(error_response(question_id, INTERNAL_ERROR, "no client took this request"))
    if not isinstance(refusal, Response):
        raise TypeError("expected a response")
    return refusal


async def _pause_after(polled: float) -> float:
    """Wait before a server is asked again that has no question, longer each time; return how long.

    Args:
        polled: Seconds waited so far.
    """
    shortest, longest = POLL_INTERVALS
    pause = min(shortest + polled, longest)
    await asyncio.sleep(pause)
    return pause
