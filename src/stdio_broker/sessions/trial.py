"""One trial of a server: a child is started, asked what it is, maybe looked at, and stopped again.

A process speaks only the era of its first request, so each trial is of one era (MCP 2026-07-28,
basic/transports/stdio, "Backward Compatibility").
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from ..bridge import Bridge, ModernChild, Owner, Seal, Settings
from ..bridge.channel import BAD_LINE_BYTES
from ..errors import BridgeBroken, BrokerError, ChildGone, ProtocolError, RemoteProtocolError
from ..protocol.handshake import Agreement, agree, error_text, initialize_request
from ..protocol.jsonrpc import (
    INTERNAL_ERROR,
    Members,
    Notification,
    Request,
    Response,
    encode,
    object_members,
    parse_line,
    raw,
    string_member,
)
from ..protocol.modern import DISCOVER, Discovery, modern_meta, with_meta
from ..protocol.revisions import MODERN, MODERN_VERSION
from ..supervisor import Child, ExitStatus, Supervisor
from ..supervisor.stderr import TAIL_CHARS
from ..telemetry import Redaction, redact
from .facts import refuses_for_being_modern
from .server import Launch

__all__ = ["Conversation", "LegacyConversation", "Look", "ModernConversation", "ProbeFailed", "trial"]

#: Seconds between the end of a child's stdin and its exit, after which it counts as alive.
EXIT_TIMEOUT = 0.5


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What a failed trial leaves for the operator."""

    method: str
    exit_status: ExitStatus | None
    first_bad_line: str | None
    stderr_tail: tuple[str, ...]


class ProbeFailed(BrokerError):
    """The command runs, but no MCP server answered.

    Attributes:
        method: What it was asked last.
        exit_status: How it ended by itself; None if it did not.
        first_bad_line: The first line on its stdout that was no JSON-RPC, or None.
        stderr_tail: The last lines of its stderr.
    """

    def __init__(self, message: str, evidence: _Evidence) -> None:
        super().__init__(message)
        self.method = evidence.method
        self.exit_status = evidence.exit_status
        self.first_bad_line = evidence.first_bad_line
        self.stderr_tail = evidence.stderr_tail


class Conversation(Protocol):
    """What is said to a child in a trial, and who reads the answers.

    Attributes:
        method: What it was asked last.
        capabilities: What it can do; empty before it has said so.
    """

    method: str
    capabilities: Members

    @property
    def first_bad_line(self) -> str | None:
        """The start of the first line that was no JSON-RPC."""

    async def run(self) -> None:
        """Read the child until its output ends."""

    async def shake(self) -> Agreement | str | None:
        """Return what was agreed on, or what the problem is; None if the child takes no `initialize`."""

    async def ask(self, method: str, params: Members) -> Members:
        """Ask it something more; return the result.

        Raises:
            RemoteProtocolError: It answers with an error, or has ended.
            BridgeBroken: It has ended.
            ChildGone: It does not read any more.
        """


#: What is looked at after the handshake, before the child is stopped.
Look = Callable[[Child, Conversation], Awaitable[None]]


class LegacyConversation:
    """The handshake up to 2025-11-25, and what follows it."""

    def __init__(self, child: Child, client_name: str, client_version: str) -> None:
        self.method = "initialize"
        self.capabilities: Members = {}
        self._bridge = Bridge(Settings())
        self._link = self._bridge.join(child)
        self._bridge.use(self._link)
        self._request = initialize_request(client_name, client_version)

    @property
    def first_bad_line(self) -> str | None:
        """The start of the first line that was no JSON-RPC."""
        return self._bridge.first_bad_line

    async def run(self) -> None:
        """Read the child until its output ends."""
        self._bridge.fail(await self._bridge.run(self._link))

    async def shake(self) -> Agreement | str | None:
        """Send `initialize`."""
        answer = await self._answer(self._request)
        agreement = agree(answer)
        (message,) = parse_line(answer)
        if agreement is not None:
            result = object_members(message.members.get("result")) or {}
            self.capabilities = object_members(result.get("capabilities")) or {}
            return agreement
        if refuses_for_being_modern(object_members(message.members.get("error")) or {}):
            return None
        return error_text(answer)

    async def ask(self, method: str, params: Members) -> Members:
        """Ask it something more, once it has heard that we are ready."""
        if self.method == "initialize":
            name = "notifications/initialized"
            await self._bridge.notify(Notification(name, {"jsonrpc": raw("2.0"), "method": raw(name)}))
        self.method = method
        members: Members = {
            "jsonrpc": raw("2.0"),
            "id": msgspec.Raw(b"0"),
            "method": raw(method),
            "params": msgspec.Raw(encode(params)),
        }
        (message,) = parse_line(await self._answer(Request(b"0", method, members, b"")))
        return _result(method, message.members)

    async def _answer(self, request: Request) -> bytes:
        exchange = await self._bridge.call(request)
        try:
            return await exchange.wait_answered()
        finally:
            self._bridge.release(exchange)


class ModernConversation:
    """The first request of 2026-07-28, and others."""

    def __init__(self, child: Child, client_name: str, client_version: str) -> None:
        self.method = DISCOVER
        self.capabilities: Members = {}
        self._child = ModernChild(child, Settings(), Owner(b"", Seal()))
        self._client = client_name, client_version

    @property
    def first_bad_line(self) -> str | None:
        """The start of the first line that was no JSON-RPC."""
        return self._child.first_bad_line

    async def run(self) -> None:
        """Read the child until its output ends."""
        await self._child.run()

    async def shake(self) -> Agreement | str | None:
        """Send `server/discover`."""
        outcome = await self._child.discover(*self._client)
        if isinstance(outcome, Discovery):
            self.capabilities = object_members(outcome.capabilities) or {}
            info = object_members(outcome.server_info)
            return Agreement(MODERN, string_member(info, "name"), string_member(info, "version"))
        if outcome:
            return f"it speaks MCP {', '.join(outcome)}, which this broker does not"
        return "it refuses `initialize` for being too old, and does not answer `server/discover` either"

    async def ask(self, method: str, params: Members) -> Members:
        """Ask it something more."""
        self.method = method
        name, version = self._client
        meta = modern_meta(
            version=MODERN_VERSION,
            client_info=raw({"name": name, "version": version}),
            capabilities=msgspec.Raw(b"{}"),
            log_level=None,
        )
        answer: Response = await self._child.query(method, with_meta(params, meta))
        return _result(method, answer.members)


async def trial(
    launch: Launch,
    supervisor: Supervisor,
    begin: Callable[[Child], Conversation],
    *,
    timeout: float,  # noqa: ASYNC109 - part of what is being measured, and named in the error
    look: Look | None = None,
) -> Agreement | None:
    """Start a child, shake hands with it, look at it, and stop it, whatever comes of that.

    Args:
        launch: How to start it.
        supervisor: Starts it.
        begin: Begins to talk to it.
        timeout: Seconds from the start to the answer, and once more for the look.
        look: What else there is to find out; what it raises is the child's problem.

    Returns:
        What was agreed on; None if the child takes no `initialize`.

    Raises:
        SpawnError: The command cannot be started.
        ProbeFailed: It ended, answered with an error or nonsense, or not in time.
    """
    child = await supervisor.start(launch.config)
    conversation = begin(child)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(conversation.run())
        try:
            outcome = await _outcome(child, conversation, timeout, look)
            ended = await child.wait() if child.exited.is_set() else None
        finally:
            # Also if we are cancelled: what was started by us is ended by us.
            await child.stop()
    if isinstance(outcome, str):
        raise ProbeFailed(redact(outcome, launch.secrets), _collect(launch, ended, conversation, child))
    return outcome


async def _outcome(
    child: Child,
    conversation: Conversation,
    timeout: float,  # noqa: ASYNC109 - see above
    look: Look | None,
) -> Agreement | str | None:
    """Return what was agreed on, or what the problem is; None if the child takes no `initialize`."""
    try:
        async with asyncio.timeout(timeout):
            outcome = await conversation.shake()
        if look is not None and isinstance(outcome, Agreement):
            async with asyncio.timeout(timeout):
                await look(child, conversation)
    except TimeoutError:
        return f"it did not answer `{conversation.method}` within {timeout:g} s"
    except (ProtocolError, BridgeBroken) as exc:
        return str(exc)
    except ChildGone:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_TIMEOUT):
                await child.exited.wait()
        return f"it closed its stdin instead of reading `{conversation.method}`"
    return outcome


def _collect(launch: Launch, ended: ExitStatus | None, conversation: Conversation, child: Child) -> _Evidence:
    bad_line = conversation.first_bad_line
    bad_lines = Redaction(launch.secrets, cut_bytes=BAD_LINE_BYTES)
    stderr = Redaction(launch.secrets, cut_bytes=TAIL_CHARS)
    return _Evidence(
        method=conversation.method,
        exit_status=ended,
        first_bad_line=None if bad_line is None else bad_lines.line(bad_line),
        stderr_tail=tuple(map(stderr.line, child.stderr_tail)),
    )


def _result(method: str, members: Members) -> Members:
    """Return the result of an answer.

    Raises:
        RemoteProtocolError: There is none.
    """
    result = object_members(members.get("result"))
    if result is None:
        text = string_member(object_members(members.get("error")), "message") or "without a message"
        raise RemoteProtocolError(f"it answers `{method}` with an error: {text}", code=INTERNAL_ERROR)
    return result
