"""A child that speaks a revision up to 2025-11-25, shared by the modern requests of one principal.

The child asks its client in requests of its own, and stdio has no field that says which call they
are about. A modern client is asked in the answer to its call (`input_required`), and brings what
was asked for with a repetition of the call. So the call is parked meanwhile: open at the child, with
nobody waiting, until its questions are answered or their time is over.

Which call a question belongs to is certain when one call runs that may ask. As long as a child has
asked nothing its calls run side by side; from its first question on they take turns. A question that
could belong to several calls is refused to the child, in words.

Source: MCP 2026-07-28, basic/patterns/mrtr; protocol matrix, section 4; design decision 5.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

import msgspec

from ..errors import ChildGone, LimitReached, LocalProtocolError
from ..protocol.capabilities import QUESTION_METHODS, ClientCapabilities
from ..protocol.handshake import Agreement, agree
from ..protocol.jsonrpc import (
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    Members,
    Notification,
    Request,
    Response,
    encode,
    error_response,
    object_members,
    result_response,
    string_member,
)
from ..protocol.modern import DISCOVER, LISTEN, LOG_LEVELS, MAY_ASK, ModernRequest
from ..protocol.revisions import LATEST, Revision
from ..protocol.to_modern import (
    check_input_responses,
    check_response,
    discover_result,
    params_for_child,
    read_filter,
    supported_by,
)
from ..supervisor import Child
from .changes import LIST_CHANGED, UPDATED, Changes, LegacyListener
from .channel import Ending
from .legacy_call import LegacyCall
from .messages import request_members
from .owner import Owner
from .seal import Claims, invalid_state
from .settings import Settings
from .shared_child import SharedChild, SharedExchange

__all__ = ["LegacyChild"]

logger = logging.getLogger(__name__)


class LegacyChild(SharedChild):
    """A legacy child, and what modern clients with the same capabilities ask of it.

    Args:
        child: Running, with its stdout unread.
        settings: Bounds.
        owner: Whose it is.
        capabilities: What its clients can be asked.
        changes: Everybody of the owner who listens to the server.
        takes_turns: Whether a child of the server has asked something before.
        on_idle: Called whenever the child owes nothing any more; sometimes twice.
        on_asked: Called when it asks something for the first time.

    Attributes:
        agreement: What was agreed in `initialize`; None until then.
        orphans: Streams of changes that its end left open, for a child that replaces it.
        ambiguous_questions: Questions that could have belonged to several calls, or to none.
        dropped_logs: Log messages that could not be told a request, or that nobody asked for.
    """

    def __init__(
        self,
        child: Child,
        settings: Settings,
        owner: Owner,
        capabilities: ClientCapabilities,
        changes: Changes,
        *,
        takes_turns: bool = False,
        on_idle: Callable[[], None] = lambda: None,
        on_asked: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(child, settings, on_idle=on_idle)
        self.agreement: Agreement | None = None
        self.orphans: list[LegacyListener] = []
        self.ambiguous_questions = 0
        self.dropped_logs = 0
        self.settings = settings
        self.owner = owner
        self._capabilities = capabilities
        self._changes = changes
        self._takes_turns = takes_turns
        self._on_asked = on_asked
        self._initialized: Members = {}
        self._server_capabilities: Members = {}
        self._log_level: str | None = None
        self._running: dict[LegacyCall, None] = {}  # of those that may ask, oldest first
        self._parked: dict[str, LegacyCall] = {}
        self._waiting: deque[_Turn] = deque()
        self._listeners: set[LegacyListener] = set()
        self._watched: dict[str, int] = {}

    @property
    def busy(self) -> bool:
        """Whether the child owes anybody anything: a call, an answer to its questions, a change."""
        return bool(self._callers or self._parked or self._listeners or self._waiting)

    async def initialize(self, client_name: str, client_version: str) -> Members | None:
        """Shake hands; return the error if the child refuses.

        Raises:
            BridgeBroken: It has ended, or ends meanwhile.
            ChildGone: It is being stopped.
            RemoteProtocolError: Its answer is no InitializeResult, or names a version we do not speak.
        """
        params: dict[str, object] = {
            "protocolVersion": LATEST,
            "capabilities": self._capabilities.for_initialize(),
            "clientInfo": {"name": client_name, "version": client_version},
        }
        raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in params.items()}
        answer = await self.query("initialize", raw)
        self.agreement = agree(encode(answer.members))
        if self.agreement is None:
            return object_members(answer.members["error"]) or {}
        self._initialized = object_members(answer.members["result"]) or {}
        self._server_capabilities = object_members(self._initialized.get("capabilities")) or {}
        self.server_info = self._initialized.get("serverInfo")
        # What an older revision cannot ask, it is not asked for.
        self._capabilities = self._capabilities.narrowed(self.agreement.revision)
        await self._channel.send(encode(request_members("notifications/initialized", None)))
        return None

    async def call(self, request: ModernRequest) -> SharedExchange:
        """Send a modern client's request; its answer, and what comes before, arrive on the exchange.

        Whoever reads the exchange must `release` it; without an answer on it that cancels the request.

        Raises:
            BridgeBroken: The child has ended.
            ChildGone: The child is being stopped.
            LimitReached: Too many calls are in flight.
            LocalProtocolError: The request brings a state or answers that are not good, or its method
                is none of this revision's.
        """
        self.check_usable()
        if request.method == DISCOVER:
            return self._answered_at_once(request, discover_result(self._initialized))
        if request.method == LISTEN:
            return self._listen(request)
        if request.method.startswith("tasks/"):
            # A legacy server's tasks are others than those of the extension.
            raise LocalProtocolError(
                f"the server has no method {request.method!r} in this revision",
                code=METHOD_NOT_FOUND,
                request_id=request.id,
            )
        call = self._resumed(request) if request.request_state is not None else None
        if call is not None:
            return await self._go_on(call, request)
        return await self._begin(request)

    async def adopt(self, listener: LegacyListener) -> None:
        """Go on with a stream of changes that another child has left open.

        Raises:
            BridgeBroken: The child has ended.
        """
        self.check_usable()
        listener.child = self
        self._watch(listener)
        listener.tell_all()

    def end_listening(self) -> None:
        """End every stream of changes with the result that says so."""
        for listener in list(self._listeners):
            listener.end()

    def fail(self, ending: Ending) -> None:
        """Tell everybody who waits that there will be no answer, and refuse what comes."""
        self.ending = self.ending or ending
        for turn in self._waiting:
            turn.cancel_timer()
        self._waiting.clear()
        for listener in list(self._listeners):
            self.stop_watching(listener)
            self.orphans.append(listener)
        for call in list(self._parked.values()):
            call.drop()
        super().fail(ending)

    # Calls.

    def _resumed(self, request: ModernRequest) -> LegacyCall | None:
        """Return the parked call that a request resumes; None if it is to be sent anew.

        Raises:
            LocalProtocolError: The state is not good (any more), or an answer has not the form it must have.
        """
        responses = request.input_responses or {}
        check_input_responses(responses)
        claims = self.owner.seal.open(
            request.request_state or "", owner=self.owner.binding, request=request, now=self._loop.time()
        )
        if claims.child != self.number:
            raise invalid_state(request)
        if not claims.call:
            return None
        call = self._parked.get(claims.call)
        if call is None or call.round != claims.round:
            raise invalid_state(request)
        for key, question in call.open.items():
            if key in responses:
                check_response(question.method, object_members(responses[key]) or {})
        return call

    async def _begin(self, request: ModernRequest) -> SharedExchange:
        exchange = self.new_exchange()
        call = LegacyCall(self, request, exchange)
        child_id = call.child_id = self.open(call)
        params = params_for_child(request, self._revision())
        if request.progress_token is not None:
            meta = object_members(params.get("_meta")) or {}
            meta["progressToken"] = msgspec.Raw(child_id)
            params["_meta"] = msgspec.Raw(encode(meta))
        members = {**request.members, "id": msgspec.Raw(child_id)}
        if "params" in members:
            members["params"] = msgspec.Raw(encode(params))
        await self._run_in_turn(_Turn(call, [encode(members)]))
        return exchange

    async def _go_on(self, call: LegacyCall, request: ModernRequest) -> SharedExchange:
        exchange = self.new_exchange()
        lines = call.resume(request, exchange)
        turn = _Turn(call, lines)
        if call.open or call.finished is not None:
            # Not all is answered, or the child has not waited: nothing more runs for now.
            await self._say(lines)
            call.settle()
        else:
            self.unpark(call)
            await self._run_in_turn(turn, patience=self.settings.turn_patience)
        return exchange

    async def _run_in_turn(self, turn: "_Turn", *, patience: float | None = None) -> None:
        """Say what starts a call, or lets it go on, now or when it is its turn."""
        call = turn.call
        if call.request.method not in MAY_ASK:
            await self._say_or_forget(turn)
        elif self._takes_turns and self._running:
            self._waiting.append(turn)
            if patience is not None:
                turn.timer = self._loop.call_later(patience, self._jump, turn)
        else:
            self._running[call] = None
            await self._say_or_forget(turn)

    async def _say_or_forget(self, turn: "_Turn") -> None:
        try:
            await self._set_log_level(turn.call.request)
            await self._say(turn.lines)
        except BaseException:
            turn.call.abandon()
            raise
        turn.call.started()

    async def _say(self, lines: list[bytes]) -> None:
        for line in lines:
            await self._channel.send(line)

    def leave(self, call: LegacyCall) -> None:
        """Note that a call does not run (any more): it is parked or over. The next one has its turn."""
        self._running.pop(call, None)
        for turn in [turn for turn in self._waiting if turn.call is call]:
            turn.cancel_timer()
            self._waiting.remove(turn)
        self._next_turn()
        if not self.busy:
            self._on_idle()

    def _next_turn(self) -> None:
        if self._waiting and not self._running:
            self._start_waiting(self._waiting.popleft())

    def _jump(self, turn: "_Turn") -> None:
        self._waiting.remove(turn)
        self._start_waiting(turn)

    def _start_waiting(self, turn: "_Turn") -> None:
        turn.cancel_timer()
        self._running[turn.call] = None
        self._spawn(self._start_later(turn))

    async def _start_later(self, turn: "_Turn") -> None:
        try:
            await self._say_or_forget(turn)
        except ChildGone:
            text = "the server does not read any more"
            message = error_response(turn.call.request.id, INTERNAL_ERROR, text, {"reason": "server is gone"})
            turn.call.reply(message, INTERNAL_ERROR)

    def park(self, call: LegacyCall) -> None:
        """Keep a call that waits for answers.

        Raises:
            LimitReached: Too many calls of the owner wait already.
        """
        if call.name not in self._parked:
            if self.owner.parked >= self.settings.max_parked:
                raise LimitReached(
                    f"{self.settings.max_parked} calls of this user wait for answers already", retry_after=5.0
                )
            self.owner.parked += 1
            self._parked[call.name] = call

    def unpark(self, call: LegacyCall) -> None:
        """Keep it no more."""
        if self._parked.pop(call.name, None) is not None:
            self.owner.parked -= 1

    def state_of(self, call: LegacyCall) -> str:
        """Return the state that resumes a parked call."""
        expires = self._loop.time() + self.settings.park_timeout
        claims = Claims(self.number, expires, call.name, call.round)
        return self.owner.seal.seal(claims, owner=self.owner.binding, request=call.request)

    def state_to_repeat(self, request: ModernRequest) -> str:
        """Return a state with which a request is sent to the child anew."""
        claims = Claims(self.number, self._loop.time() + self.settings.park_timeout)
        return self.owner.seal.seal(claims, owner=self.owner.binding, request=request)

    def say_nowait(self, line: bytes) -> None:
        """Say something to the child without waiting."""
        self._channel.send_nowait(line)

    def _answered_at_once(self, request: ModernRequest, result: Members) -> SharedExchange:
        exchange = self.new_exchange()
        exchange.answer(result_response(request.id, result))
        return exchange

    def _revision(self) -> Revision:
        if self.agreement is None:
            raise RuntimeError("expected a child that was initialized")
        return self.agreement.revision

    # From the child.

    def _asked(self, request: Request) -> None:
        if request.method == "ping":
            self._channel.send_nowait(result_response(request.id, {}))
        elif request.method not in QUESTION_METHODS:
            text = f"this client has no method {request.method[:80]!r}"
            self._channel.send_nowait(error_response(request.id, METHOD_NOT_FOUND, text))
        else:
            self._question(request)

    def _question(self, request: Request) -> None:
        if not self._takes_turns:
            self._takes_turns = True
            self._on_asked()
        # A child may go on asking for a call that waits for answers already; if it is the only one
        # there is, no other can be meant.
        candidates = list(self._running) or list(self._parked.values())
        if len(candidates) == 1:
            candidates[0].asked(request)
            return
        self.ambiguous_questions += 1
        text = "cannot tell which request this belongs to: ask while answering exactly one"
        self._channel.send_nowait(error_response(request.id, INTERNAL_ERROR, text))

    def _told(self, notification: Notification) -> None:
        method = notification.method
        if method == "notifications/progress":
            self._progress(notification)
        elif method in LIST_CHANGED or method == UPDATED:
            self._changes.publish(self, notification.members, method)
        elif method == "notifications/message":
            self._log(notification)
        elif method == "notifications/cancelled":
            params = object_members(notification.members.get("params")) or {}
            question_id = bytes(params.get("requestId", b""))
            for call in (*self._running, *self._parked.values()):
                call.withdraw(question_id)
        else:
            self.unrelated_messages += 1

    def _log(self, notification: Notification) -> None:
        """Pass a log message on to the one call that runs, if it wants it; there is no more to go by."""
        params = object_members(notification.members.get("params")) or {}
        still = {*self._parked.values(), *(turn.call for turn in self._waiting)}
        running = [
            caller
            for caller in self._callers.values()
            if isinstance(caller, LegacyCall) and caller not in still
        ]
        wanted = running[0].request.log_level if len(running) == 1 else None
        if wanted is None or _severity(string_member(params, "level")) < _severity(wanted):
            self.dropped_logs += 1
        else:
            running[0].put(encode(notification.members))

    def _list_params(self) -> Members:
        return {}

    async def _set_log_level(self, request: ModernRequest) -> None:
        level = request.log_level
        if level in LOG_LEVELS and level != self._log_level and "logging" in self._server_capabilities:
            self._log_level = level
            await self._tell_child("logging/setLevel", {"level": _raw(level)})

    async def _tell_child(self, method: str, params: Members) -> None:
        """Send a request of ours whose answer changes nothing."""
        forgotten = _Forgotten()
        await self.send(self.open(forgotten), request_members(method, params))

    # Changes.

    def _listen(self, request: ModernRequest) -> SharedExchange:
        if len(self._listeners) >= self.settings.max_listeners:
            raise LimitReached(
                f"{self.settings.max_listeners} streams of changes are open already", retry_after=5.0
            )
        wanted = supported_by(read_filter(request), self._server_capabilities)
        listener = LegacyListener(self, request, self.new_exchange(), wanted)
        self._watch(listener)
        return listener.exchange

    def _watch(self, listener: LegacyListener) -> None:
        self._listeners.add(listener)
        self._changes.add(listener)
        for uri in listener.filter.uris:
            self._watched[uri] = self._watched.get(uri, 0) + 1
            if self._watched[uri] == 1:
                self._subscribe("resources/subscribe", uri)

    def stop_watching(self, listener: LegacyListener) -> None:
        """Forget a listener, and what only it wanted to be told (`Watcher`)."""
        if listener not in self._listeners:
            return
        self._listeners.discard(listener)
        self._changes.discard(listener)
        for uri in listener.filter.uris:
            self._watched[uri] -= 1
            if self._watched[uri] == 0:
                del self._watched[uri]
                self._subscribe("resources/unsubscribe", uri)
        if not self.busy:
            self._on_idle()

    def _subscribe(self, method: str, uri: str) -> None:
        if self.ending is not None:
            return
        child_id = self.open(_Forgotten())
        members = request_members(method, {"uri": _raw(uri)})
        members["id"] = msgspec.Raw(child_id)
        self._channel.send_nowait(encode(members))


class _Turn:
    """What is said to the child when it is a call's turn."""

    def __init__(self, call: LegacyCall, lines: list[bytes]) -> None:
        self.call = call
        self.lines = lines
        self.timer: asyncio.TimerHandle | None = None

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class _Forgotten:
    """A request of ours whose answer changes nothing (`Caller`)."""

    wants_logs = False

    def told(self, notification: Notification) -> None:
        pass

    def answered(self, response: Response) -> None:
        pass

    def failed(self, ending: Ending) -> None:
        pass


def _severity(level: str | None) -> int:
    """Return how severe a level is; one that nobody knows is the most severe."""
    return LOG_LEVELS.index(level) if level in LOG_LEVELS else len(LOG_LEVELS)


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
