"""Start a server once, to find out whether it speaks MCP, before anybody depends on it."""

import asyncio
import contextlib
from dataclasses import dataclass

from ..bridge import Bridge, Settings
from ..errors import BrokerError, ChildGone, ProtocolError
from ..protocol.handshake import Agreement, agree, error_text, initialize_request
from ..supervisor import Child, ExitStatus, Supervisor
from ..telemetry import redact
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
    *,
    client_name: str,
    client_version: str,
    timeout: float,  # noqa: ASYNC109 - part of what is being measured, and named in the error
) -> Agreement:
    """Start a child of the server, shake hands with it, and stop it.

    Args:
        server: What to start.
        supervisor: Starts it.
        client_name: Who we say we are.
        client_version: The version we say we are.
        timeout: Seconds from the start to the answer.

    Raises:
        SpawnError: The command cannot be started.
        ProbeFailed: It ended, answered with an error or nonsense, or not in time.
    """
    child = await supervisor.start(server.config)
    bridge = Bridge(child, Settings())
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bridge.run())
        try:
            async with asyncio.timeout(timeout):
                exchange = await bridge.call(initialize_request(client_name, client_version))
                answer = await exchange.wait_answered()
            agreement = agree(answer)
            problem = "" if agreement else error_text(answer)
        except TimeoutError:
            agreement, problem = None, f"it did not answer `initialize` within {timeout:g} s"
        except ProtocolError as exc:
            agreement, problem = None, str(exc)
        except ChildGone:
            agreement, problem = None, "it closed its stdin instead of reading `initialize`"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXIT_TIMEOUT):
                    await child.exited.wait()
        ended = await _ended_by_itself(child)
        await child.stop()
    if agreement is None:
        raise ProbeFailed(redact(problem, server.secrets), _collect(server, ended, bridge, child))
    return agreement


def _collect(server: ServerRecipe, ended: ExitStatus | None, bridge: Bridge, child: Child) -> _Evidence:
    bad_line = bridge.first_bad_line
    return _Evidence(
        exit_status=ended,
        first_bad_line=None if bad_line is None else redact(bad_line, server.secrets),
        stderr_tail=tuple(redact(line, server.secrets) for line in child.stderr_tail),
    )


async def _ended_by_itself(child: Child) -> ExitStatus | None:
    return await child.wait() if child.exited.is_set() else None
