"""One call at a legacy child, over as many requests of a modern client as its questions take.

              ┌──────── it has its turn ────────┐
    waiting ──┘▶ running ──the child asks──▶ parked ──the client brings the answers──▶ waiting
       └─────────────┴──────────────────────────┴──▶ over: the child has answered, the client is
                                                     gone, or the time for its answers is over

Whatever ends a call, each question of the child gets a reply and each request of the client one answer.

Source: MCP 2026-07-28, basic/patterns/mrtr; protocol matrix, sections 4.3 and 13.6.
"""

import asyncio
import enum
import secrets
from typing import TYPE_CHECKING, cast

import msgspec

from ..errors import BridgeBroken, LimitReached
from ..protocol.capabilities import ELICIT
from ..protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    Members,
    Notification,
    Request,
    Response,
    encode,
    error_response,
    object_members,
    result_response,
)
from ..protocol.modern import MAY_ASK, MISSING_CAPABILITY, ModernRequest, encode_with
from ..protocol.to_modern import (
    error_for_modern,
    input_request,
    input_required,
    result_for_modern,
    url_elicitations,
)
from .messages import child_ended, slow_client
from .modern_request import kept, without_bytes
from .seal import digest
from .shared_child import SharedExchange, error_code

if TYPE_CHECKING:
    from .legacy_child import LegacyChild

__all__ = ["LegacyCall"]


class _State(enum.Enum):
    """Where in its life a call is."""

    #: What it has to say to the child was not said yet.
    WAITING = enum.auto()
    #: The child works on it, and a client waits.
    RUNNING = enum.auto()
    #: The child waits for answers, and the client was asked for them.
    PARKED = enum.auto()
    #: Nobody waits.
    OVER = enum.auto()


# A member is looked up in Python code each time (3.11).
_WAITING, _RUNNING, _PARKED, _OVER = _State

_AT_WORK = frozenset({_RUNNING, _OVER})


class LegacyCall:
    """A call, as the child sees it (`Caller`).

    Args:
        child: Who answers it.
        request: What the client asked.
        exchange: Where the answer goes.

    Attributes:
        child_id: The id that the child knows it by.
        name: Unguessable, for the state that resumes it; empty before it is parked for the first time.
        request: Of the client's latest request for it, what is needed until the answer: its id, its token
            and its capabilities count. Not its arguments: a long one costs memory.
        round: How often the client was asked.
        open: What the client was asked, by the key of the answer.
        may_ask: Whether the child may ask something to answer it.
    """

    __slots__ = (
        "_answering",
        "_child",
        "_digest",
        "_exchange",
        "_finished",
        "_heard",
        "_held_bytes",
        "_pending",
        "_saying",
        "_state",
        "_timer",
        "_unsaid",
        "child_id",
        "may_ask",
        "name",
        "open",
        "request",
        "round",
    )

    outlives = False

    def __init__(self, child: "LegacyChild", request: ModernRequest, exchange: SharedExchange) -> None:
        self.child_id = b""
        self.name = ""
        self.request = kept(request)
        self.may_ask = request.method in MAY_ASK
        self._digest = b"" if self.request is request or not self.may_ask else digest(request)
        self.round = 0
        self.open: dict[str, Request] = {}
        self._child = child
        self._state = _WAITING
        self._exchange: SharedExchange | None = exchange
        self._unsaid: list[tuple[Request | None, bytes]] = []  # a line, and what it answers
        self._saying = False  # whether the child waits for one that it does not read
        self._answering: Request | None = None  # what that one answers
        self._heard = False  # whether the child was told of the call
        self._pending: list[Request] = []  # questions that the client was not asked yet
        self._finished: Response | None = None  # what the child has answered while nobody waited
        self._held_bytes = 0  # of questions and answer, charged to the budget
        self._timer: asyncio.TimerHandle | None = None
        exchange.on_abandoned = self.abandon

    @property
    def digest(self) -> bytes:
        """What a state has to know of the request."""
        # Of a request that is kept whole it can be had when it is needed, and nearly no call needs it.
        if self.may_ask and not self._digest:
            self._digest = digest(self.request)
        return self._digest

    @property
    def wants_logs(self) -> bool:
        """Whether log messages may go to it."""
        return self.request.log_level is not None

    @property
    def must_wait(self) -> bool:
        """Whether the child will do nothing for it before we have said something."""
        return bool(self._unsaid)

    @property
    def at_work(self) -> bool:
        """Whether the child works on it, for all we know.

        It runs, or waits for no answer any more; or it is over, and the child has not heard of that yet.
        """
        if self._state in _AT_WORK:
            return True
        waits = self._saying or self._unsaid or self.open or self._finished is not None
        return self._heard and not waits

    @property
    def parked(self) -> bool:
        """Whether the client was asked, and the child has not answered meanwhile."""
        return self._state is _PARKED and self._finished is None

    # From the child.

    def told(self, notification: Notification) -> None:
        """Pass on progress, under the token of the request that runs now."""
        if self.request.progress_token is None:
            return
        params = object_members(notification.members["params"]) or {}
        params["progressToken"] = self.request.progress_token
        self.put(encode({**notification.members, "params": msgspec.Raw(encode(params))}))

    def put(self, message: bytes) -> None:
        """Put a message on the stream, if there is one; end the call if its client does not read."""
        exchange = self._exchange
        if exchange is not None and not exchange.put(message) and exchange.cut:
            self._cancel("the client does not read its stream")
            self.reply(slow_client(self.request.id), INTERNAL_ERROR)

    def asked(self, question: Request) -> None:
        """Take a question of the child, and wait a moment for more: servers ask several things at once."""
        if self._state is _OVER:
            text = "the request that this belongs to was cancelled"
            self._child.say_soon(error_response(question.id, INVALID_REQUEST, text))
        elif len(self._pending) + len(self.open) >= self._child.settings.max_questions:
            text = "too many requests wait for the client's answer"
            self._child.say_soon(error_response(question.id, INTERNAL_ERROR, text))
        elif not self._child.budget.has_room_for(len(question.source)):
            text = "there is no room to keep this request until the client answers it"
            self._child.say_soon(error_response(question.id, INTERNAL_ERROR, text))
        else:
            self._pending.append(question)
            self._charge()
            self._ask_soon()

    def withdraw(self, question_id: bytes) -> None:
        """Forget a question that the child takes back. An answer to it is ignored."""
        self._pending = [question for question in self._pending if question.id != question_id]
        self._unsaid = [
            (question, line)
            for question, line in self._unsaid
            if question is None or question.id != question_id
        ]
        if self._answering is not None and self._answering.id == question_id:
            self._saying = False
        for key, question in list(self.open.items()):
            if question.id == question_id:
                del self.open[key]
        self._charge()

    def answered(self, response: Response) -> None:
        """Pass on the answer, or keep it for a client that will come back."""
        self._refuse_questions("the request was answered before this was")
        if self._state is _PARKED:
            self._finished = response
            self._charge()
        else:
            self._finish(response)

    def failed(self, ending: BridgeBroken) -> None:
        """Answer that the child has ended."""
        self.reply(child_ended(self.request.id, ending), INTERNAL_ERROR)
        self._over()

    # From the client.

    def prepare(self, child_id: bytes, line: bytes) -> None:
        """Note what the child shall know the call by, and what is to be said to start it."""
        self.child_id = child_id
        self._unsaid.append((None, line))

    def begin(self, child_id: bytes) -> None:
        """Note what the child knows the call by, and that it has heard of it."""
        self.child_id = child_id
        self._heard = True
        self._state = _RUNNING

    async def go_on(self) -> None:
        """Say to the child what starts the call, or lets it go on. What it asks is put to the client.

        Raises:
            ChildGone: The child is being stopped, or has ended.
        """
        while self._unsaid:
            question, line = self._unsaid.pop(0)
            self._saying, self._answering = True, question
            try:
                await self._child.say(line)
            except BaseException:
                self._unsaid.insert(0, (question, line))  # whoever stops waiting has not said it
                raise
            finally:
                self._saying = False
            self._heard = True
            self._run()
        self._run()

    def resume(self, request: ModernRequest, exchange: SharedExchange) -> bool:
        """Take a repetition of the request; return whether the call goes on when it is its turn.

        Else the repetition is answered: with the child's answer, or with what is still unanswered.
        """
        self._stop_timer()
        self.request = kept(request)
        self._exchange = exchange
        exchange.on_abandoned = self.abandon
        brought = (request.input_responses or {}).items()
        # Whatever else is in there is of no use to anybody.
        answered = [(self.open.pop(key), value) for key, value in brought if key in self.open]
        answers = [(question, _result(question.id, value)) for question, value in answered]
        self._charge()
        if self._finished is not None:
            self._finish(self._finished)
            return False
        if self.open:
            for _, line in answers:
                self._child.say_soon(line)
            self._ask()
            return False
        self._unsaid.extend(answers)
        self._state = _WAITING
        self._child.parking.discard(self)
        return True

    def abandon(self) -> None:
        """Cancel the call: its client is gone."""
        self._cancel("the client closed its stream")

    # Within.

    def _run(self) -> None:
        """Note that the child has heard enough to work on it, unless it is over meanwhile."""
        if self._state is _WAITING:
            self._state = _RUNNING
            self._ask_soon()

    def _ask_soon(self) -> None:
        if self._pending and self._state is _RUNNING and self._timer is None:
            window = self._child.settings.question_window
            self._timer = asyncio.get_running_loop().call_later(window, self._ask)

    def _ask(self) -> None:
        """Put the child's questions to the client, and park the call until it brings the answers."""
        self._timer = None
        if not self._pending and not self.open:
            return  # the child has taken back what it asked
        missing = self._missing_capabilities()
        if missing:
            self._cancel("the client does not have the capability for this")
            self._refuse_for_lack_of(missing, "the client has not declared what the server asks of it")
            return
        for question in self._pending:
            self.open[secrets.token_urlsafe(9)] = question
        self._pending.clear()
        self._park()

    def _missing_capabilities(self) -> dict[str, dict[str, object]]:
        """Return what the questions need and the request that runs now does not declare."""
        missing: dict[str, dict[str, object]] = {}
        for question in (*self._pending, *self.open.values()):
            params = object_members(question.members.get("params"))
            needed = self.request.capabilities.missing_for(question.method, params) or {}
            for name, parts in needed.items():
                missing.setdefault(name, {}).update(cast("dict[str, object]", parts))
        return missing

    def _park(self) -> None:
        try:
            self._child.parking.add(self)
        except LimitReached as exc:
            self._cancel(str(exc))
            facts: dict[str, object] = {"reason": "too many parked calls", "retryable": True}
            self.reply(error_response(self.request.id, INTERNAL_ERROR, str(exc), facts), INTERNAL_ERROR)
            return
        self.round += 1
        self._state = _PARKED
        questions = {key: input_request(question) for key, question in self.open.items()}
        result = input_required(questions, self._child.parking.state_of(self), self._child.server_info)
        self.reply(result_response(self.request.id, result), None)
        # The client may be long in coming back.
        self.request = without_bytes(self.request)
        self.request.log_level = self.request.progress_token = None
        self._timer = asyncio.get_running_loop().call_later(self._child.settings.park_timeout, self._expire)
        self._child.leave(self)

    def _expire(self) -> None:
        self._timer = None
        self._cancel("the client did not answer in time", action="cancel")

    def _finish(self, response: Response) -> None:
        members = response.members
        error = object_members(members.get("error"))
        result = object_members(members.get("result"))
        if error is not None:
            questions = url_elicitations(error)
            if questions is not None:
                self._finish_with_pages(questions)
                return
            members["error"] = msgspec.Raw(encode(error_for_modern(error)))
            members["id"] = msgspec.Raw(self.request.id)
            self.reply(encode(members), error_code(members))
        elif result is not None:
            filled = result_for_modern(self.request.method, result, self._child.server_info)
            self.reply(encode_with(members, self.request.id, "result", filled), None)
        else:
            members["id"] = msgspec.Raw(self.request.id)
            self.reply(encode(members), error_code(members))
        self._over()

    def _finish_with_pages(self, questions: list[Members]) -> None:
        """Send the user to the pages that the child names; the repetition is a call of its own."""
        if not self.request.capabilities.url:
            text = "the server sends its user to a page, which the client does not offer"
            self._refuse_for_lack_of({"elicitation": {"url": {}}}, text)
        else:
            requests = {secrets.token_urlsafe(9): question for question in questions}
            state = self._child.parking.state_to_repeat(self)
            result = input_required(requests, state, self._child.server_info)
            self.reply(result_response(self.request.id, result), None)
        self._over()

    def reply(self, message: bytes, code: int | None) -> None:
        """Answer the request that runs now, unless it has its answer."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.error_code = code
            exchange.answer(message)

    def _refuse_for_lack_of(self, missing: dict[str, dict[str, object]], text: str) -> None:
        data = {"requiredCapabilities": missing}
        self.reply(error_response(self.request.id, MISSING_CAPABILITY, text, data), MISSING_CAPABILITY)

    def _cancel(self, reason: str, *, action: str | None = None) -> None:
        """Give the call up, and tell the child: its questions are answered, and it need not go on."""
        self._refuse_questions(reason, action=action)
        if self._heard or self._saying:
            self._child.give_up(self, reason)
        else:
            self._child.close(self.child_id)
        self._over()

    def _refuse_questions(self, reason: str, *, action: str | None = None) -> None:
        if not (self._unsaid or self._pending or self.open):
            return  # nearly always
        unsaid = [question for question, _ in self._unsaid if question is not None]
        for question in (*unsaid, *self._pending, *self.open.values()):
            if action is not None and question.method == ELICIT:
                self._child.say_soon(result_response(question.id, {"action": action}))
            else:
                self._child.say_soon(error_response(question.id, INVALID_REQUEST, reason))
        self._unsaid.clear()
        self._pending.clear()
        self.open.clear()
        self._charge()

    def _over(self) -> None:
        self._state = _OVER
        self._unsaid.clear()
        self._pending.clear()
        self.open.clear()  # of a child that has ended, they stay here
        self._finished = None
        self._charge()
        self._stop_timer()
        self._child.parking.discard(self)
        self._child.leave(self)

    def _charge(self) -> None:
        """Charge what is kept for a client that will come back."""
        if not (self._pending or self.open or self._finished or self._held_bytes):
            return  # nearly always
        held = sum(len(question.source) for question in (*self._pending, *self.open.values()))
        if self._finished is not None:
            held += sum(map(len, self._finished.members.values()))
        self._child.budget.add(held - self._held_bytes)
        self._held_bytes = held

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _result(question_id: bytes, response: msgspec.Raw) -> bytes:
    return encode({"jsonrpc": msgspec.Raw(b'"2.0"'), "id": msgspec.Raw(question_id), "result": response})
