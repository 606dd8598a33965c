"""A child that serves the requests of several clients of one principal, whichever era it speaks.

What both eras have in common: numbers for ids, one `Caller` behind each, requests of our own, and
the end of the child for everybody at once.
"""

import abc
import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol, TypeVar

import msgspec

from ..errors import BridgeBroken, LimitReached
from ..protocol.jsonrpc import (
    Members,
    Message,
    Notification,
    Request,
    Response,
    cancellation,
    encode,
    object_members,
    parse_line,
)
from ..protocol.modern import DISCOVER, LISTEN, ModernRequest, encode_with
from ..supervisor import Child
from .budget import Budget
from .channel import Channel
from .messages import answer_too_long, request_members
from .settings import Settings
from .streams import Exchange
from .tool_headers import ToolHeaders

__all__ = ["Caller", "SharedChild", "SharedExchange", "error_code"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Methods of which each era has its own way.
_RARE = frozenset({DISCOVER, LISTEN, "tasks/get", "tasks/update", "tasks/cancel"})

_numbers = itertools.count(1)


class SharedExchange(Exchange):
    """One modern request in flight.

    Attributes:
        error_code: JSON-RPC code of the answer, if it is an error.
        on_abandoned: Called when the client goes before the answer is here.
    """

    __slots__ = ("error_code", "on_abandoned")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, max_bytes: int, budget: Budget | None = None
    ) -> None:
        super().__init__(loop, max_bytes=max_bytes, budget=budget)
        self.error_code: int | None = None
        self.on_abandoned: Callable[[], None] | None = None

    @property
    def budget(self) -> Budget:
        """What its messages are charged to."""
        return self._budget

    def release(self) -> None:
        """Say that nobody reads it any more. Before the answer that means: cancel the request.

        Source: MCP 2026-07-28, basic/transports/streamable-http, "Cancellation".
        """
        # Who waits here knows its exchange, and a cycle would be left to the garbage collector.
        on_abandoned, self.on_abandoned = self.on_abandoned, None
        if self.complete:
            self.attached = False  # the hot path: nothing waits
            return
        self.detach()
        if not self.answered and on_abandoned is not None:
            on_abandoned()


class Caller(Protocol):
    """Who waits for what a child says to one request. It is called by the child's reader."""

    @property
    def wants_logs(self) -> bool:
        """Whether log messages that belong to its request may go to it."""

    @property
    def outlives(self) -> bool:
        """Whether another child can go on with it where this one stops."""

    def told(self, notification: Notification) -> None:
        """Take a notification that belongs to the request."""

    def answered(self, response: Response) -> None:
        """Take the answer, under the id that the child knows. Nothing comes after it."""

    def failed(self, ending: BridgeBroken) -> None:
        """Learn that there will be no answer. Nothing comes after it."""


class SharedChild(abc.ABC):
    """A child and the requests that it has not answered.

    Args:
        child: Running, with its stdout unread.
        settings: Bounds.
        budget: Bounds what its exchanges and others hold together; None if nothing does.
        on_idle: Called whenever the child owes nothing any more; sometimes twice.

    Attributes:
        budget: As above.
        number: Tells the children of this process apart, for good: pids come again.
        ending: How it ended; None while it can be used.
        server_info: What it says of itself, or None.
        unrelated_messages: Notifications that belonged to nobody.
        violations: Messages that its revision does not allow.
    """

    def __init__(
        self,
        child: Child,
        settings: Settings,
        *,
        budget: Budget | None = None,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self.budget = budget or Budget()
        self.number = next(_numbers)
        self.ending: BridgeBroken | None = None
        self.server_info: msgspec.Raw | None = None
        self.unrelated_messages = 0
        self.violations = 0
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._on_idle = on_idle
        self._channel = Channel(child, self)
        self._callers: dict[bytes, Caller] = {}
        self._last_id = 0
        self._tool_headers = ToolHeaders(self._list_tools, self._spawn, timeout=settings.query_timeout)
        self._tasks: set[asyncio.Task[object]] = set()
        self._settled: asyncio.Future[None] | None = None

    @property
    def first_bad_line(self) -> str | None:
        """The start of the first line that was no JSON-RPC: for operators only."""
        return self._channel.first_bad_line

    @property
    def calls(self) -> int:
        """Requests that the child has not answered, our own included."""
        return len(self._callers)

    @property
    def busy(self) -> bool:
        """Whether the child owes anybody anything."""
        return bool(self._callers)

    @property
    def owed(self) -> int:
        """Requests that no other child could go on with."""
        return sum(not caller.outlives for caller in self._callers.values())

    async def wait_settled(self) -> None:
        """Wait until it owes nothing that another child could not go on with, or has ended. One may wait."""
        if self.owed and self.ending is None:
            self._settled = self._loop.create_future()
            try:
                await self._settled
            finally:
                self._settled = None

    def uncrossed(self) -> dict[str, int]:
        """Return how much of what was said to or by the child could not be passed on; only what is not 0."""
        return {name: count for name, count in self._counts().items() if count}

    def _counts(self) -> dict[str, int]:
        return {
            "bad_lines": self._channel.bad_lines,
            "oversize_lines": self._channel.oversize_lines,
            "unsaid_lines": self._channel.unsaid_lines,
            "unrelated_messages": self.unrelated_messages,
            "violations": self.violations,
        }

    def check_usable(self) -> None:
        """Let a new request through, or refuse it.

        Raises:
            BridgeBroken: The child has ended.
            LimitReached: Too many calls are in flight.
        """
        if self.ending is not None:
            raise self.ending.again()
        if len(self._callers) >= self._settings.max_calls:
            raise LimitReached(
                f"{self._settings.max_calls} calls to this server are in flight already", retry_after=1.0
            )

    def open(self, caller: Caller) -> bytes:
        """Note who waits for the answer to a new request; return the id to send it under."""
        child_id = self.new_id()
        self._callers[child_id] = caller
        return child_id

    def new_id(self) -> bytes:
        """Return an id that the child has not seen. An answer to it is dropped, unless it was opened."""
        self._last_id += 1
        return b"%d" % self._last_id

    def close(self, child_id: bytes) -> bool:
        """Note that nobody waits for an answer any more; tell whether somebody did."""
        known = self._callers.pop(child_id, None) is not None
        self._note_less()
        return known

    def cancel(self, child_id: bytes, reason: str) -> None:
        """Forget a request and tell the child so (MCP 2026-07-28, stdio, "Cancellation")."""
        if self.close(child_id):
            self._channel.send_nowait(cancellation(child_id, reason))

    async def send(self, child_id: bytes, members: Members, params: Members | None = None) -> None:
        """Send a request that was opened; forget it if that fails.

        Args:
            child_id: What it was opened as.
            members: Of the request.
            params: In place of those that are in there; None leaves them.

        Raises:
            ChildGone: The child is being stopped, or has ended.
        """
        try:
            await self._channel.send(_request_line(child_id, members, params))
        except BaseException:
            self.close(child_id)
            raise

    def call_nowait(
        self, request: ModernRequest, fields: Sequence[tuple[bytes, bytes]]
    ) -> SharedExchange | None:
        """Do as `check_headers` and `call` if that needs no waiting; None if it does, or is refused.

        Whoever reads the exchange must `release` it; without an answer on it that cancels the request.

        Args:
            request: One without a state.
            fields: All header fields of its POST.

        Raises:
            LimitReached: Too many calls are in flight, or messages hold all the bytes that they may.
        """
        if self.ending is not None or request.method in _RARE or not self._channel.ready:
            return None
        if request.method == "tools/call" and not self._tool_headers.passes(request, fields):
            return None
        self.check_usable()
        return self._begin_nowait(request)

    @abc.abstractmethod
    def _begin_nowait(self, request: ModernRequest) -> SharedExchange | None:
        """Send a request that was let through, to a child that takes it at once; None if that needs more."""

    async def query(self, method: str, params: Members | None = None) -> Response:
        """Ask the child something ourselves. Bound the wait: it may never answer.

        Raises:
            BridgeBroken: The child has ended, or ends meanwhile.
            ChildGone: It is being stopped.
        """
        if self.ending is not None:
            raise self.ending.again()
        query = _Query(self._loop.create_future())
        child_id = self.open(query)
        try:
            await self.send(child_id, request_members(method, params))
            return await query.answer
        finally:
            self.close(child_id)

    @property
    def ready(self) -> bool:
        """Whether it takes a request at once."""
        full = len(self._callers) >= self._settings.max_calls
        return self.ending is None and not full and self._channel.ready

    def send_nowait(self, child_id: bytes, members: Members, params: Members) -> None:
        """Do as `send`, where the child is `ready`."""
        self._channel.try_send(_request_line(child_id, members, params))

    def new_exchange(self) -> SharedExchange:
        """Return a stream for a modern request.

        Raises:
            LimitReached: Messages hold all the bytes that they may.
        """
        self.budget.check()
        return SharedExchange(self._loop, max_bytes=self._settings.max_stream_bytes, budget=self.budget)

    async def check_headers(self, request: ModernRequest, fields: Sequence[tuple[bytes, bytes]]) -> None:
        """Refuse a call of a tool whose headers do not say what its arguments say; see `ToolHeaders`."""
        await self._tool_headers.check(request, fields)

    async def run(self) -> None:
        """Route what the child sends until its output ends, then fail what is open."""
        try:
            self.fail(await self._channel.run())
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def fail(self, ending: BridgeBroken) -> None:
        """Tell everybody who waits that there will be no answer, and refuse what comes."""
        if self.ending is None:
            self.ending = ending
        callers = list(self._callers.values())
        self._callers.clear()
        for caller in callers:
            caller.failed(ending)
        self._on_idle()
        self._check_settled()

    def message(self, message: Message) -> None:
        """Take a message of the child (`Receiver`)."""
        if isinstance(message, Response):
            caller = self._callers.pop(message.id, None)
            if caller is None:
                logger.debug("child.late_answer", extra={"pid": self._channel.pid})
                return
            caller.answered(message)
            self._note_less()
        elif isinstance(message, Request):
            self._asked(message)
        elif message.method == "notifications/tools/list_changed":
            self._tool_headers.forget()
            self._told(message)
        else:
            self._told(message)

    def lost_answer(self, child_id: bytes, line_bytes: int) -> None:
        """Fail the call whose answer was too long (`Receiver`)."""
        (response,) = parse_line(answer_too_long(child_id, line_bytes))
        self.message(response)

    def _note_less(self) -> None:
        if not self.busy:
            self._on_idle()
        if self._settled is not None:
            self._check_settled()

    def _check_settled(self) -> None:
        if self._settled is not None and not self._settled.done() and not self.owed:
            self._settled.set_result(None)

    def _spawn(self, work: Coroutine[None, None, Result]) -> asyncio.Task[Result]:
        """Do something beside the reading of the child; `run` sees to its end."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @abc.abstractmethod
    def _asked(self, request: Request) -> None:
        """Take a request of the child."""

    @abc.abstractmethod
    def _told(self, notification: Notification) -> None:
        """Take a notification of the child."""

    @abc.abstractmethod
    def _list_params(self) -> Members:
        """Return the params of a `tools/list` of our own."""

    def _progress(self, notification: Notification) -> None:
        """Pass progress on to the call that owns its token, which is the call's id."""
        params = object_members(notification.members.get("params"))
        token = None if params is None else params.get("progressToken")
        caller = None if token is None else self._callers.get(bytes(token))
        if caller is not None:
            caller.told(notification)

    def _only_one_that_wants_logs(self) -> Caller | None:
        """Return the request that a log message belongs to: no field tells, so only if there is one."""
        wanting = [caller for caller in self._callers.values() if caller.wants_logs]
        return wanting[0] if len(wanting) == 1 else None

    async def _list_tools(self, cursor: msgspec.Raw | None) -> Members:
        params = self._list_params()
        if cursor is not None:
            params["cursor"] = cursor
        answer = await self.query("tools/list", params)
        return object_members(answer.members.get("result")) or {}


class _Query:
    """A request of our own."""

    wants_logs = False
    outlives = False

    def __init__(self, answer: asyncio.Future[Response]) -> None:
        self.answer = answer
        # Whoever asks may not come to wait for it.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())

    def told(self, notification: Notification) -> None:
        pass  # we asked for no progress

    def answered(self, response: Response) -> None:
        if not self.answer.done():
            self.answer.set_result(response)

    def failed(self, ending: BridgeBroken) -> None:
        if not self.answer.done():
            self.answer.set_exception(ending.again())


def _request_line(child_id: bytes, members: Members, params: Members | None) -> bytes:
    if params is not None:
        return encode_with(members, child_id, "params", params)
    return encode({**members, "id": msgspec.Raw(child_id)})


def error_code(members: Members) -> int | None:
    """Return the code of a response that is an error; None if it is none."""
    error = object_members(members.get("error"))
    if error is None:
        return None
    try:
        return msgspec.json.decode(error.get("code", b"0"), type=int)
    except msgspec.DecodeError:
        return 0
