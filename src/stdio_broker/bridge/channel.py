"""A child's pipes as messages: one reader, one writer. Knows no era, no client and no ids.

Whatever a child writes costs its own line at most: a banner is counted and skipped, a stray Latin-1
byte is replaced, and a line over the limit loses the answer that was on it, not the next one.

Source: MCP 2025-11-25 and 2026-07-28, "stdio".
"""

import asyncio
import logging
from typing import Protocol

from ..errors import BridgeBroken, EndOfOutput, RemoteProtocolError
from ..protocol.decoding import Steps, finish, replace_invalid_utf8
from ..protocol.encoding import Pieces
from ..protocol.jsonrpc import Message, Response, find_response_id, parse_line, parse_line_in_steps
from ..supervisor import Child, ExitStatus, OversizeLine
from .in_turns import in_turns

__all__ = ["Channel", "Receiver"]

logger = logging.getLogger(__name__)

#: Seconds between the end of a child's output and its exit, after which open calls are failed
#: without an exit status. A child that closes stdout and lives on is as good as dead to us.
EXIT_STATUS_TIMEOUT = 0.5

#: A line of so many bytes takes long enough that whoever else has something to do has a turn before it.
LONG_BYTES = 1024 * 1024

#: Bytes kept of the first line that is no JSON-RPC.
BAD_LINE_BYTES = 200


class Receiver(Protocol):
    """Who takes what a child says. It must not wait: the child is read by one task."""

    def message(self, message: Message) -> None:
        """Take a message. An error without an id never comes here."""

    def lost_answer(self, child_id: bytes, line_bytes: int) -> None:
        """Note that the answer to a call was on a line of so many bytes, which is over the limit."""


class Channel:
    """The messages of one child.

    Args:
        child: Running, with its stdout unread.
        receiver: Takes its messages.

    Attributes:
        first_bad_line: The start of the first line that was no JSON-RPC, or None. The child's own
            text: show it to operators only.
        bad_lines: Lines of stdout that were no JSON-RPC.
        repaired_lines: Lines that were not UTF-8, with U+FFFD in place of what was wrong.
        oversize_lines: Lines over the limit.
        unsaid_lines: Lines of ours that the child was too slow to take.
    """

    __slots__ = (
        "_child",
        "_errors_without_id",
        "_receiver",
        "bad_lines",
        "first_bad_line",
        "oversize_lines",
        "repaired_lines",
        "unsaid_lines",
    )

    def __init__(self, child: Child, receiver: Receiver) -> None:
        self.first_bad_line: str | None = None
        self.bad_lines = 0
        self.repaired_lines = 0
        self.oversize_lines = 0
        self.unsaid_lines = 0
        self._child = child
        self._receiver = receiver
        self._errors_without_id = 0

    @property
    def pid(self) -> int | None:
        """The child's process id, for logs."""
        return self._child.pid

    async def send(self, line: bytes | Pieces) -> None:
        """Say something to the child; wait while its stdin is above the high-water mark.

        Raises:
            ChildGone: The child is being stopped, or has ended.
        """
        await self._child.stdin.send(line)

    def send_nowait(self, line: bytes) -> None:
        """Say something to the child without waiting: its reader must go on reading.

        A child that does not read gets it not at all; that is counted.
        """
        if not self._child.stdin.send_nowait(line):
            self.unsaid_lines += 1

    @property
    def ready(self) -> bool:
        """Whether the child takes a line at once."""
        return self._child.stdin.ready

    def try_send(self, line: bytes | Pieces) -> bool:
        """Say something to the child if it can take it at once; False if not, and nothing was sent."""
        return self._child.stdin.send_nowait(line)

    async def run(self) -> BridgeBroken:
        """Pass on what the child says until its output ends; return how it did."""
        try:
            while True:
                await self._long_line(
                    # Not kept here: what comes of it is what it is long for.
                    await self._child.stdout.forward(self._line, below_bytes=LONG_BYTES)
                )
        except EndOfOutput:
            # It holds us, and has nothing to take any more; see `ClientStreams.end`.
            del self._receiver
        status = await self._exit_status()
        if status is None:
            return BridgeBroken("the server closed its output", reason="server closed its output")
        return BridgeBroken(f"the server process {status}", code=status.code, signal=status.signal)

    async def _exit_status(self) -> ExitStatus | None:
        try:
            async with asyncio.timeout(EXIT_STATUS_TIMEOUT):
                await self._child.exited.wait()
        except TimeoutError:
            return None
        return await self._child.wait()  # bounded by its graces, and nearly always at once

    def _line(self, line: bytes | OversizeLine) -> None:
        if isinstance(line, OversizeLine):
            self._oversize(line)
            return
        try:
            messages = parse_line(line)
        except RemoteProtocolError:
            messages = finish(self._repair(line))
        self._messages(messages)

    async def _long_line(self, line: bytes) -> None:
        """Take a line whose parsing would hold everybody else up."""
        try:
            messages = await in_turns(parse_line_in_steps(line))
        except RemoteProtocolError:
            messages = await in_turns(self._repair(line))
        del line  # the messages have their parts of it
        await asyncio.sleep(0)
        self._messages(messages)

    def _messages(self, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, Response) and message.id == b"null":
                self._count_error_without_id()
            else:
                self._receiver.message(message)

    def _repair(self, line: bytes) -> Steps[list[Message]]:
        """Parse a line that is none, but for what is no UTF-8 in it; none of it if it is not.

        A result with a stray Latin-1 byte is still an answer that somebody waits for.
        """
        repaired = yield from replace_invalid_utf8(line)
        try:
            messages = yield from parse_line_in_steps(repaired)
        except RemoteProtocolError as exc:
            if line.strip():
                self._count_bad_line(line, exc)
            return []
        self.repaired_lines += 1
        if self.repaired_lines == 1:
            logger.warning("child.invalid_utf8", extra={"pid": self.pid})
        return messages

    def _oversize(self, line: OversizeLine) -> None:
        self.oversize_lines += 1
        logger.warning("child.line_too_long", extra={"pid": self.pid, "line_bytes": line.length})
        child_id = find_response_id(line.head, line.tail)
        if child_id is not None:
            self._receiver.lost_answer(child_id, line.length)

    def _count_bad_line(self, line: bytes, exc: RemoteProtocolError) -> None:
        self.bad_lines += 1
        if self.bad_lines == 1:
            self.first_bad_line = line[:BAD_LINE_BYTES].decode("utf-8", "replace")
            # Once: a server with a banner is common, one that floods its stdout is possible.
            logger.warning("child.not_json_rpc", extra={"pid": self.pid, "problem": str(exc)})

    def _count_error_without_id(self) -> None:
        """Note that the child could not read a line of ours, and cannot say which."""
        self._errors_without_id += 1
        if self._errors_without_id == 1:  # once, as above
            logger.warning("child.error_without_id", extra={"pid": self.pid})
