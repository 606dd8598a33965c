"""Start a server once, to find out whether it speaks MCP, before anybody depends on it."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from ..bridge import Bridge, ModernChild, Owner, Seal, Settings
from ..errors import BridgeBroken, BrokerError, ChildGone, ProtocolError
from ..protocol.handshake import Agreement, agree, error_text, initialize_request
from ..protocol.jsonrpc import object_members, parse_line, string_member
from ..protocol.modern import Discovery
from ..protocol.revisions import MODERN
from ..supervisor import Child, ExitStatus, Supervisor
from ..telemetry import redact
from .facts import ServerFacts, refuses_for_being_modern
from .server import ServerRecipe

__all__ = ["ProbeFailed", "probe"]

#: Seconds between the end of a child's stdin and its exit, after which it counts as alive.
EXIT_TIMEOUT = 0.5


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What a failed probe leaves for the operator."""

    exit_status: ExitStatus | None
    first_bad_line: str | None
    stderr_tail: tuple[str, ...]


class ProbeFailed(BrokerError):
    """The command runs, but no MCP server answered.

    Attributes:
        exit_status: How it ended by itself; None if it did not.
        first_bad_line: The first line on its stdout that was no JSON-RPC, or None.
        stderr_tail: The last lines of its stderr.
    """

    def __init__(self, message: str, evidence: _Evidence) -> None:
        super().__init__(message)
        self.exit_status = evidence.exit_status
        self.first_bad_line = evidence.first_bad_line
        self.stderr_tail = evidence.stderr_tail


async def probe(
    server: ServerRecipe,
    supervisor: Supervisor,
    facts: ServerFacts,
    *,
    client_name: str,
    client_version: str,
    timeout: float,  # noqa: ASYNC109 - part of what is being measured, and named in the error
) -> Agreement:
    """Start a child of the server, shake hands with it, and stop it; once more if it takes no `initialize`.

    Args:
        server: What to start.
        supervisor: Starts it.
        facts: What is learnt of its eras is noted here.
        client_name: Who we say we are.
        client_version: The version we say we are.
        timeout: Seconds from the start to the answer.

    Raises:
        SpawnError: The command cannot be started.
        ProbeFailed: It ended, answered with an error or nonsense, or not in time.
    """
    began = asyncio.get_running_loop().time()
    client = client_name, client_version
    agreement = await _try(server, supervisor, lambda child: _Initialize(child, *client), timeout)
    if agreement is not None:
        facts.speaks_legacy = True
        facts.handshake_seconds = asyncio.get_running_loop().time() - began
        return agreement
    facts.speaks_legacy = False
    agreement = await _try(server, supervisor, lambda child: _Discover(child, *client), timeout)
    facts.speaks_modern = True
    return cast("Agreement", agreement)  # what is no agreement is a problem here


class _Handshake(Protocol):
    """The first request to a child, and who reads the answer."""

    method: str

    @property
    def first_bad_line(self) -> str | None:
        """The start of the first line that was no JSON-RPC."""

    async def run(self) -> None:
        """Read the child until its output ends."""

    async def shake(self) -> Agreement | str | None:
        """Return what was agreed on, or what the problem is; None if the child takes no `initialize`."""


class _Initialize:
    """The handshake up to 2025-11-25."""

    method = "initialize"

    def __init__(self, child: Child, client_name: str, client_version: str) -> None:
        self._bridge = Bridge(child, Settings())
        self._request = initialize_request(client_name, client_version)

    @property
    def first_bad_line(self) -> str | None:
        return self._bridge.first_bad_line

    async def run(self) -> None:
        await self._bridge.run()

    async def shake(self) -> Agreement | str | None:
        exchange = await self._bridge.call(self._request)
        answer = await exchange.wait_answered()
        agreement = agree(answer)
        if agreement is not None:
            return agreement
        (message,) = parse_line(answer)
        if refuses_for_being_modern(object_members(message.members.get("error")) or {}):
            return None
        return error_text(answer)


class _Discover:
    """The first request of 2026-07-28."""

    method = "server/discover"

    def __init__(self, child: Child, client_name: str, client_version: str) -> None:
        self._child = ModernChild(child, Settings(), Owner(b"", Seal()))
        self._client = client_name, client_version

    @property
    def first_bad_line(self) -> str | None:
        return self._child.first_bad_line

    async def run(self) -> None:
        await self._child.run()

    async def shake(self) -> Agreement | str | None:
        outcome = await self._child.discover(*self._client)
        if isinstance(outcome, Discovery):
            info = object_members(outcome.server_info)
            return Agreement(MODERN, string_member(info, "name"), string_member(info, "version"))
        if outcome:
            return f"it speaks MCP {', '.join(outcome)}, which this broker does not"
        return "it refuses `initialize` for being too old, and does not answer `server/discover` either"


async def _try(
    server: ServerRecipe,
    supervisor: Supervisor,
    begin: Callable[[Child], _Handshake],
    timeout: float,  # noqa: ASYNC109 - see above
) -> Agreement | None:
    child = await supervisor.start(server.config)
    handshake = begin(child)
    agreement: Agreement | None = None
    problem: str | None = None
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(handshake.run())
        try:
            async with asyncio.timeout(timeout):
                outcome = await handshake.shake()
            if isinstance(outcome, str):
                problem = outcome
            else:
                agreement = outcome
        except TimeoutError:
            problem = f"it did not answer `{handshake.method}` within {timeout:g} s"
        except ProtocolError as exc:
            problem = str(exc)
        except BridgeBroken as exc:
            problem = str(exc)
        except ChildGone:
            problem = f"it closed its stdin instead of reading `{handshake.method}`"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_TIMEOUT):
                    await child.exited.wait()
        ended = await _ended_by_itself(child)
        await child.stop()
    if problem is not None:
        raise ProbeFailed(redact(problem, server.secrets), _collect(server, ended, handshake, child))
    return agreement


def _collect(
    server: ServerRecipe, ended: ExitStatus | None, handshake: _Handshake, child: Child
) -> _Evidence:
    bad_line = handshake.first_bad_line
    return _Evidence(
        exit_status=ended,
        first_bad_line=None if bad_line is None else redact(bad_line, server.secrets),
        stderr_tail=tuple(redact(line, server.secrets) for line in child.stderr_tail),
    )


async def _ended_by_itself(child: Child) -> ExitStatus | None:
    return await child.wait() if child.exited.is_set() else None
