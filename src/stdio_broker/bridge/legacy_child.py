"""A child that speaks a revision up to 2025-11-25, shared by the modern requests of one principal.

The child asks its client in requests of its own, and stdio has no field that says which call they
are about. A modern client is asked in the answer to its call (`input_required`), and brings what
was asked for with a repetition of the call. So the call is parked meanwhile: open at the child, with
nobody waiting, until its questions are answered or their time is over.

Which call a question belongs to is certain when one call runs that may ask. As long as a child has
asked nothing its calls run side by side; from its first question on they take turns, and a cancelled
one keeps its turn until the child has heard of that. A question that could belong to several calls is
refused to the child, in words. Lossy all the same: what a child asks for a parked call, long after its
first question and while another call runs, is taken for the other's.

Source: MCP 2026-07-28, basic/patterns/mrtr; protocol matrix, section 4; design decision 5.
"""

import asyncio
from collections.abc import Callable

import msgspec

from ..errors import BridgeBroken, ChildGone, LocalProtocolError
from ..protocol.capabilities import QUESTION_METHODS, ClientCapabilities
from ..protocol.handshake import Agreement, agree
from ..protocol.jsonrpc import (
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    Members,
    Notification,
    Request,
    cancellation,
    encode,
    error_response,
    object_members,
    raw,
    result_response,
    string_member,
)
from ..protocol.listen import read_filter, supported_by
from ..protocol.modern import DISCOVER, LISTEN, LOG_LEVELS, ModernRequest
from ..protocol.revisions import LATEST
from ..protocol.to_modern import discover_result
from ..supervisor import Child
from .budget import Budget
from .changes import LIST_CHANGED, UPDATED, Changes, LegacyListener
from .legacy_call import LegacyCall
from .listeners import Listeners
from .messages import request_members
from .modern_request import request_line
from .owner import Owner
from .parking import Parking
from .settings import Settings
from .shared_child import SharedChild, SharedExchange
from .turns import Turns

__all__ = ["LegacyChild"]

NOTHING = ClientCapabilities()

#: Lines of ours that wait until a child reads on; what it asks beyond that gets no answer.
MAX_UNSAID_LINES = 256


class LegacyChild(SharedChild):
    """A legacy child, and what modern clients with the same capabilities ask of it.

    Args:
        child: Running, with its stdout unread.
        settings: Bounds.
        owner: Whose it is.
        capabilities: What its clients can be asked.
        changes: Everybody of the owner who listens to the server.
        takes_turns: Whether a child of the server has asked something before.
        budget: Bounds what its exchanges and others hold together; None if nothing does.
        on_idle: Called whenever the child owes nothing any more; sometimes twice.
        on_asked: Called when it asks something for the first time.

    Attributes:
        agreement: What was agreed in `initialize`; None until then.
        settings: Bounds.
        turns: Its calls that run, or wait until they may, of those that may ask.
        parking: Its calls that wait for answers.
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
        budget: Budget | None = None,
        on_idle: Callable[[], None] = lambda: None,
        on_asked: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(child, settings, budget=budget, on_idle=on_idle)
        self.agreement: Agreement | None = None
        self.orphans: list[LegacyListener] = []
        self.ambiguous_questions = 0
        self.dropped_logs = 0
        self.settings = settings
        self.parking = Parking(owner, self.number, settings)
        self._capabilities = capabilities
        self._changes = changes
        self._on_asked = on_asked
        self._initialized: Members = {}
        self._server_capabilities: Members = {}
        self._log_level: str | None = None
        self._unsaid_lines = 0
        self.turns = Turns(self._start, taken=takes_turns, patience=settings.turn_patience)
        self._given_up: set[LegacyCall] = set()  # and the child may not have heard of it yet
        self._listeners = Listeners(
            changes,
            limit=settings.max_listeners,
            say=self._watch,
            spawn=self._spawn,
            on_left=self._check_idle,
        )

    @property
    def busy(self) -> bool:
        """Whether the child owes anybody anything: a call, an answer to its questions, a change."""
        return bool(self._callers or self.parking or self._listeners)

    @property
    def calls(self) -> int:
        """Requests that somebody waits for; nobody does while a call is parked."""
        return len(self._callers) - sum(call.parked for call in self.parking)

    @property
    def owed(self) -> int:
        """Requests that no other child could go on with: running, parked, or answered while parked."""
        return super().owed + sum(call.child_id not in self._callers for call in self.parking)

    async def initialize(self, client_name: str, client_version: str) -> Members | None:
        """Shake hands; return the error if the child refuses.

        Raises:
            BridgeBroken: It has ended, or ends meanwhile.
            ChildGone: It is being stopped.
            RemoteProtocolError: Its answer is no InitializeResult, or names a version we do not speak.
        """
        params = {
            "protocolVersion": raw(LATEST),
            "capabilities": raw(self._capabilities.for_initialize()),
            "clientInfo": raw({"name": client_name, "version": client_version}),
        }
        answer = await self.query("initialize", params)
        self.agreement = agree(encode(answer.members))
        if self.agreement is None:
            return object_members(answer.members["error"]) or {}
        self._initialized = object_members(answer.members["result"]) or {}
        self._server_capabilities = object_members(self._initialized.get("capabilities")) or {}
        self.server_info = self._listeners.server_info = self._initialized.get("serverInfo")
        await self._channel.send(encode(request_members("notifications/initialized", None)))
        return None

    async def call(self, request: ModernRequest) -> SharedExchange:
        """Send a modern client's request; its answer, and what comes before, arrive on the exchange.

        Whoever reads the exchange must `release` it; without an answer on it that cancels the request.

        Raises:
            BridgeBroken: The child has ended.
            ChildGone: The child is being stopped.
            LimitReached: Too many calls are in flight, or messages hold all the bytes that they may.
            LocalProtocolError: The request brings a state or answers that are not good, or its method
                is none of this revision's.
        """
        call = self.parking.find(request)
        if call is not None:
            return await self._resume(call, request)
        self.check_usable()
        if request.method == DISCOVER:
            exchange = self.new_exchange()
            exchange.answer(result_response(request.id, discover_result(self._initialized)))
            return exchange
        if request.method == LISTEN:
            exchange = self.new_exchange()
            wanted = supported_by(read_filter(request), self._server_capabilities)
            await self._listeners.listen(request, exchange, wanted)
            return exchange
        if request.method.startswith("tasks/"):
            # A legacy server's tasks are others than those of the extension.
            raise LocalProtocolError(
                f"the server has no method {request.method!r} in this revision",
                code=METHOD_NOT_FOUND,
                request_id=request.id,
            )
        return await self._begin(request)

    def _counts(self) -> dict[str, int]:
        return super()._counts() | {
            "ambiguous_questions": self.ambiguous_questions,
            "dropped_logs": self.dropped_logs,
        }

    async def adopt(self, listener: LegacyListener) -> None:
        """Go on with a stream of changes that another child has left open.

        Raises:
            BridgeBroken: The child has ended.
            ChildGone: It is being stopped.
            LimitReached: Too many calls are in flight.
        """
        self.check_usable()
        await self._listeners.adopt(listener)

    def end_listening(self) -> None:
        """End every stream of changes with the result that says so."""
        self._listeners.end_all()

    def fail(self, ending: BridgeBroken) -> None:
        """Tell everybody who waits that there will be no answer, and refuse what comes."""
        self.ending = self.ending or ending
        self.turns.clear()
        self._given_up.clear()
        self.orphans += self._listeners.abandon_all()
        super().fail(ending)
        for call in self.parking:  # which the child has answered
            call.failed(ending)

    # Calls.

    async def _begin(self, request: ModernRequest) -> SharedExchange:
        if self.agreement is None:
            raise RuntimeError("expected a child that was initialized")
        exchange = self.new_exchange()
        call = LegacyCall(self, request, exchange)
        child_id = self.open(call)
        call.prepare(child_id, request_line(request, child_id, self.agreement.revision))
        if not call.may_ask or self.turns.enter(call):
            await self._go_on(call)
        return exchange

    def _begin_nowait(self, request: ModernRequest) -> SharedExchange | None:
        if request.log_level is not None or request.method.startswith("tasks/") or self.agreement is None:
            return None
        exchange = self.new_exchange()
        call = LegacyCall(self, request, exchange)
        child_id = self.open(call)
        line = request_line(request, child_id, self.agreement.revision)
        if call.may_ask and not self.turns.enter(call):
            call.prepare(child_id, line)
        else:
            self._channel.try_send(line)
            call.begin(child_id)
        return exchange

    async def _resume(self, call: LegacyCall, request: ModernRequest) -> SharedExchange:
        exchange = self.new_exchange()
        if call.resume(request, exchange) and self.turns.enter_again(call, at_once=not call.must_wait):
            await self._go_on(call)
        return exchange

    async def _go_on(self, call: LegacyCall) -> None:
        try:
            await self._set_log_level(call.request)
            await call.go_on()
        except BaseException:
            call.abandon()
            raise

    def _start(self, call: LegacyCall) -> None:
        """Begin a call, or go on with it, that has waited for its turn."""
        self._spawn(self._go_on_later(call))

    async def _go_on_later(self, call: LegacyCall) -> None:
        try:
            await self._go_on(call)
        except ChildGone:
            text = "the server does not read any more"
            message = error_response(call.request.id, INTERNAL_ERROR, text, {"reason": "server is gone"})
            call.reply(message, INTERNAL_ERROR)

    def leave(self, call: LegacyCall) -> None:
        """Note that a call does not run (any more): it is parked or over. The next one has its turn."""
        if call not in self._given_up:
            self.turns.leave(call)
        self._check_idle()

    def give_up(self, call: LegacyCall, reason: str) -> None:
        """Cancel a call at the child; it keeps its turn until the child has heard of it."""
        if self.close(call.child_id):
            self._given_up.add(call)
            self._spawn(self._cancel(call, cancellation(call.child_id, reason)))

    async def _cancel(self, call: LegacyCall, line: bytes) -> None:
        """Tell the child to give up a call, and wait until it has heard.

        Until then it may ask something about it, and that must not be taken for the next one's. No
        answer says that it has heard, so we ask it for one: it reads in order.
        """
        try:
            await self._channel.send(line)
            if call.may_ask and self._capabilities != NOTHING:
                async with asyncio.timeout(self.settings.query_timeout):
                    await self.query("ping")
        except (BridgeBroken, ChildGone, TimeoutError):
            pass  # it will never be heard, or has been for long
        finally:
            self._given_up.discard(call)
            self.leave(call)

    def _check_idle(self) -> None:
        self._note_less()

    async def say(self, line: bytes) -> None:
        """Say something to the child; wait while it does not read.

        Raises:
            ChildGone: The child is being stopped, or has ended.
        """
        await self._channel.send(line)

    def say_soon(self, line: bytes) -> None:
        """Say something to the child as soon as it reads, and do not wait for that.

        One that asks and asks but does not read gets no answer any more, from `MAX_UNSAID_LINES` on.
        """
        if self._unsaid_lines >= MAX_UNSAID_LINES:
            self._channel.send_nowait(line)
        elif self.ending is None:
            self._unsaid_lines += 1
            self._spawn(self._say_unless_gone(line))

    async def _say_unless_gone(self, line: bytes) -> None:
        try:
            await self._channel.send(line)
        except ChildGone:
            pass
        finally:
            self._unsaid_lines -= 1

    # From the child.

    def _asked(self, request: Request) -> None:
        if request.method == "ping":
            self.say_soon(result_response(request.id, {}))
        elif request.method not in QUESTION_METHODS:
            text = f"this client has no method {request.method[:80]!r}"
            self.say_soon(error_response(request.id, METHOD_NOT_FOUND, text))
        else:
            self._question(request)

    def _question(self, request: Request) -> None:
        if not self.turns.taken:
            self.turns.taken = True
            self._on_asked()
        calls = [call for call in self._calls() if call.may_ask]
        # A child may go on asking for a call that waits for answers already; if it is the only one
        # there is, no other can be meant.
        candidates = [call for call in calls if call.at_work] or [call for call in calls if call.parked]
        if len(candidates) == 1:
            candidates[0].asked(request)
            return
        self.ambiguous_questions += 1
        text = "cannot tell which request this belongs to: ask while answering exactly one"
        self.say_soon(error_response(request.id, INTERNAL_ERROR, text))

    def _calls(self) -> list[LegacyCall]:
        """Return all calls that the child may be working on, or waits with for an answer."""
        open_calls = [caller for caller in self._callers.values() if isinstance(caller, LegacyCall)]
        return [*open_calls, *self._given_up]

    def _told(self, notification: Notification) -> None:
        method = notification.method
        if method == "notifications/progress":
            self._progress(notification)
        elif method in LIST_CHANGED or method == UPDATED:
            self._changes.publish(self._listeners, notification.members, method)
        elif method == "notifications/message":
            self._log(notification)
        elif method == "notifications/cancelled":
            params = object_members(notification.members.get("params")) or {}
            question_id = bytes(params.get("requestId", b""))
            for call in self._calls():
                call.withdraw(question_id)
        else:
            self.unrelated_messages += 1

    def _log(self, notification: Notification) -> None:
        """Pass a log message on to the one call that runs, if it wants it; there is no more to go by."""
        params = object_members(notification.members.get("params")) or {}
        running = [call for call in self._calls() if call.at_work]
        certain = len(running) == 1 and not self._given_up
        wanted = running[0].request.log_level if certain else None
        if wanted is None or _severity(string_member(params, "level")) < _severity(wanted):
            self.dropped_logs += 1
        else:
            running[0].put(encode(notification.members))

    def _list_params(self) -> Members:
        return {}

    async def _set_log_level(self, request: ModernRequest) -> None:
        level = request.log_level
        if level in LOG_LEVELS and level != self._log_level and "logging" in self._server_capabilities:
            await self._tell_child("logging/setLevel", "level", level)
            self._log_level = level

    async def _tell_child(self, method: str, name: str, value: str) -> None:
        """Send a request of ours whose answer changes nothing. So nobody waits for it, and it is not owed."""
        members = request_members(method, {name: raw(value)})
        self._last_id += 1
        members["id"] = msgspec.Raw(b"%d" % self._last_id)
        await self._channel.send(encode(members))

    async def _watch(self, method: str, uri: str) -> None:
        await self._tell_child(method, "uri", uri)


def _severity(level: str | None) -> int:
    """Return how severe a level is; one that nobody knows is the most severe."""
    return LOG_LEVELS.index(level) if level in LOG_LEVELS else len(LOG_LEVELS)
