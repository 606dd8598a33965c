"""One call at a legacy child, over as many requests of a modern client as its questions take.

    running ──the child asks──▶ parked ──the client repeats the request with answers──▶ running …
       └──────── the child answers, the client goes, or its time is over ────────────▶ over

Source: MCP 2026-07-28, basic/patterns/mrtr; protocol matrix, sections 4.3 and 13.6.
"""

import asyncio
import secrets
from typing import TYPE_CHECKING

import msgspec

from ..errors import LimitReached
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
from ..protocol.modern import MISSING_CAPABILITY, ModernRequest
from ..protocol.to_modern import (
    error_for_modern,
    input_request,
    input_required,
    result_for_modern,
    url_elicitations,
)
from .channel import Ending
from .messages import child_ended, slow_client
from .shared_child import SharedExchange, error_code

if TYPE_CHECKING:
    from .legacy_child import LegacyChild

__all__ = ["LegacyCall"]


class LegacyCall:
    """A call, as the child sees it (`Caller`).

    Args:
        child: Who answers it.
        request: What the client asked.
        exchange: Where the answer goes.

    Attributes:
        child_id: The id that the child knows it by.
        name: Unguessable, for the state that resumes it.
        request: The client's latest request for it: its id, its token and its capabilities count.
        round: How often the client was asked.
        open: What the client was asked, by the key of the answer.
        finished: The child's answer, if it came while the call was parked.
    """

    def __init__(self, child: "LegacyChild", request: ModernRequest, exchange: SharedExchange) -> None:
        self.child_id = b""
        self.name = secrets.token_urlsafe(12)
        self.request = request
        self.round = 0
        self.open: dict[str, Request] = {}
        self.finished: Response | None = None
        self._child = child
        self._loop = asyncio.get_running_loop()
        self._exchange: SharedExchange | None = exchange
        self._pending: list[Request] = []  # questions that the client was not asked yet
        self._timer: asyncio.TimerHandle | None = None
        exchange.on_abandoned = self.abandon

    @property
    def wants_logs(self) -> bool:
        """Whether log messages may go to it."""
        return self.request.log_level is not None

    # From the child.

    def told(self, notification: Notification) -> None:
        """Pass on progress, under the token of the request that runs now."""
        if self._exchange is None or self.request.progress_token is None:
            return
        params = object_members(notification.members["params"]) or {}
        params["progressToken"] = self.request.progress_token
        self.put(encode({**notification.members, "params": msgspec.Raw(encode(params))}))

    def put(self, message: bytes) -> None:
        """Put a message on the stream; end the call if the client does not read."""
        exchange = self._exchange
        if exchange is not None and not exchange.put(message) and exchange.cut:
            self._cancel("the client does not read its stream")
            self.reply(slow_client(self.request.id), INTERNAL_ERROR)

    def asked(self, question: Request) -> None:
        """Take a question of the child, and wait a moment for more: servers ask several things at once."""
        if len(self._pending) + len(self.open) >= self._child.settings.max_questions:
            text = "too many requests wait for the client's answer"
            self._child.say_nowait(error_response(question.id, INTERNAL_ERROR, text))
            return
        self._pending.append(question)
        self.started()

    def withdraw(self, question_id: bytes) -> None:
        """Forget a question that the child takes back. An answer to it is ignored."""
        self._pending = [question for question in self._pending if question.id != question_id]
        for key, question in list(self.open.items()):
            if question.id == question_id:
                del self.open[key]

    def answered(self, response: Response) -> None:
        """Pass on the answer, or keep it for a client that will come back."""
        if self._exchange is None:
            self.finished = response
            return
        self._refuse_questions("the request was answered before this was")
        self._finish(response)

    def failed(self, ending: Ending) -> None:
        """Answer that the child has ended."""
        self.reply(child_ended(self.request.id, ending), INTERNAL_ERROR)
        self._over()

    # From the client.

    def started(self) -> None:
        """Note that the call runs: what the child has asked is put to the client soon."""
        if self._pending and self._exchange is not None and self._timer is None:
            self._timer = self._loop.call_later(self._child.settings.question_window, self._ask)

    def resume(self, request: ModernRequest, exchange: SharedExchange) -> list[bytes]:
        """Take a repetition of the request; return what to say to the child."""
        self._stop_timer()
        self.request = request
        self._exchange = exchange
        exchange.on_abandoned = self.abandon
        lines = []
        for key, response in (request.input_responses or {}).items():
            question = self.open.pop(key, None)
            # Whatever else is in there is of no use to anybody.
            if question is not None:
                lines.append(_result(question.id, response))
        return lines

    def settle(self) -> None:
        """Answer a repetition at once: with the child's answer, or with what is still unanswered."""
        if self.finished is not None:
            self._child.unpark(self)
            self._finish(self.finished)
        else:
            self._ask()

    def abandon(self) -> None:
        """Cancel the call: its client is gone."""
        self._cancel("the client closed its stream")

    def drop(self) -> None:
        """Forget the call; nobody is told."""
        self._child.close(self.child_id)
        self._over()

    # Within.

    def _ask(self) -> None:
        """Put the child's questions to the client, and park the call until it brings the answers."""
        self._timer = None
        missing = self._missing_capabilities()
        if missing:
            self._cancel("the client does not have the capability for this")
            text = "the request needs capabilities that its client has not declared"
            data = {"requiredCapabilities": missing}
            self.reply(error_response(self.request.id, MISSING_CAPABILITY, text, data), MISSING_CAPABILITY)
            return
        for question in self._pending:
            self.open[secrets.token_urlsafe(9)] = question
        self._pending.clear()
        self._park()

    def _missing_capabilities(self) -> dict[str, object]:
        missing: dict[str, object] = {}
        for question in self._pending:
            params = object_members(question.members.get("params"))
            missing.update(self.request.capabilities.missing_for(question.method, params) or {})
        return missing

    def _park(self) -> None:
        try:
            self._child.park(self)
        except LimitReached as exc:
            self._cancel(str(exc))
            facts: dict[str, object] = {"reason": "too many parked calls", "retryable": True}
            self.reply(error_response(self.request.id, INTERNAL_ERROR, str(exc), facts), INTERNAL_ERROR)
            return
        self.round += 1
        questions = {key: input_request(question) for key, question in self.open.items()}
        result = input_required(questions, self._child.state_of(self), self._child.server_info)
        self._timer = self._loop.call_later(self._child.settings.park_timeout, self._expire)
        self.reply(result_response(self.request.id, result), None)
        self._exchange = None
        self._child.leave(self)

    def _expire(self) -> None:
        self._timer = None
        self._cancel("the client did not answer in time", action="cancel")

    def _finish(self, response: Response) -> None:
        members = response.members
        members["id"] = msgspec.Raw(self.request.id)
        error = object_members(members.get("error"))
        if error is not None:
            questions = url_elicitations(error)
            if questions is not None:
                self._finish_with_pages(questions)
                return
            members["error"] = msgspec.Raw(encode(error_for_modern(error)))
        else:
            result = object_members(members.get("result"))
            if result is not None:
                filled = result_for_modern(self.request.method, result, self._child.server_info)
                members["result"] = msgspec.Raw(encode(filled))
        self.reply(encode(members), error_code(members))
        self._over()

    def _finish_with_pages(self, questions: list[Members]) -> None:
        """Send the user to the pages that the child names; the repetition is a call of its own."""
        if not self.request.capabilities.url:
            text = "the server sends its user to a page, which the client does not offer"
            missing: dict[str, object] = {"requiredCapabilities": {"elicitation": {"url": {}}}}
            self.reply(error_response(self.request.id, MISSING_CAPABILITY, text, missing), MISSING_CAPABILITY)
        else:
            requests = {secrets.token_urlsafe(9): question for question in questions}
            state = self._child.state_to_repeat(self.request)
            result = input_required(requests, state, self._child.server_info)
            self.reply(result_response(self.request.id, result), None)
        self._over()

    def reply(self, message: bytes, code: int | None) -> None:
        """Answer the request that runs now."""
        if self._exchange is not None:
            self._exchange.error_code = code
            self._exchange.answer(message)

    def _cancel(self, reason: str, *, action: str | None = None) -> None:
        """Give the call up, and tell the child: its questions are answered, and it need not go on."""
        self._refuse_questions(reason, action=action)
        self._child.cancel(self.child_id, reason)
        self._over()

    def _refuse_questions(self, reason: str, *, action: str | None = None) -> None:
        for question in (*self._pending, *self.open.values()):
            if action is not None and question.method == ELICIT:
                self._child.say_nowait(result_response(question.id, {"action": action}))
            else:
                self._child.say_nowait(error_response(question.id, INVALID_REQUEST, reason))
        self._pending.clear()
        self.open.clear()

    def _over(self) -> None:
        self._stop_timer()
        self._child.unpark(self)
        self._child.leave(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _result(question_id: bytes, response: msgspec.Raw) -> bytes:
    return encode({"jsonrpc": msgspec.Raw(b'"2.0"'), "id": msgspec.Raw(question_id), "result": response})
