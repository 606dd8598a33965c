"""Credentials that a command of the operator's prints: whatever keeps secrets has a command line."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..errors import CredentialMissing, CredentialUnavailable, LineTooLong, SpawnError
from ..sessions import Principal
from ..sessions.credentials import Credential
from ..sessions.templates import MAX_VALUE_BYTES, flaw_of
from ..supervisor import Child, Config, ExitStatus, start
from .credentials import RETRY_AFTER, Refused, Report

__all__ = ["MISSING_EXIT_CODE", "CommandCredentials"]

#: What a command exits with when the principal has no credential.
MISSING_EXIT_CODE = 3

#: Output of a command above which it is not what we expect it to be.
MAX_OUTPUT_BYTES = 64 * 1024

#: Commands of one server at once; others wait, as a part of their time.
MAX_COMMANDS = 8

#: Principals whose credentials are remembered.
MAX_REMEMBERED = 4096

_Outcome = Credential | Literal["missing", "unavailable"]


@dataclass(slots=True)
class _Asking:
    """A command that runs for a principal, and who waits for it."""

    over: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: _Outcome | None = None


class CommandCredentials:
    """A command that prints the principal's token, and exits with 0; or with 3 if it has none.

    It gets EOF on its stdin, and in its environment, besides the few variables that every child gets,
    STDIO_BROKER_PRINCIPAL, STDIO_BROKER_ISSUER and STDIO_BROKER_SERVER: never in arguments, which everybody
    can read. The token is the first line of its output. It is ended, with all that it has started, when it
    takes too long, says too much, or its last client goes away.

    There is one at a time for a principal, whose outcome all who wait get.

    Args:
        server: Name of the server that they are for.
        argv: Program and arguments; no shell is involved.
        environment: More variables for it.
        timeout: Seconds until it must have ended; the wait for a turn is included.
        ttl: Seconds for which its answer is taken for good; 0: it is asked each time.

    Raises:
        ValueError: That is no command, no time, or no environment.
    """

    per_principal = True

    def __init__(
        self,
        server: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        ttl: float = 30.0,
    ) -> None:
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout: expected seconds, more than 0, found {timeout!r}")
        if not 0 <= ttl < math.inf:
            raise ValueError(f"ttl: expected seconds, 0 or more, found {ttl!r}")
        self._server = server
        self._argv = argv
        self._environment = dict(environment or {})
        self._timeout = timeout
        self._ttl = ttl
        self._turns = asyncio.Semaphore(MAX_COMMANDS)
        self._asking: dict[Principal, _Asking] = {}
        # When it is forgotten, and what it is; the oldest first.
        self._remembered: dict[Principal, tuple[float, _Outcome]] = {}
        self._config_for(Principal("", "anonymous"))  # its mistakes are the operator's

    async def resolve(self, principal: Principal) -> Credential:
        """Return what the command prints for the principal.

        Raises:
            CredentialMissing: It says that there is none.
            CredentialUnavailable: It does not answer in time, or not with a token.
        """
        outcome = await self._outcome(principal)
        if isinstance(outcome, Credential):
            return outcome
        # An error of its own for each who waited: it gets a traceback.
        if outcome == "missing":
            raise CredentialMissing(self._server)
        raise CredentialUnavailable(self._server, retry_after=RETRY_AFTER)

    async def _outcome(self, principal: Principal) -> _Outcome:
        while True:
            forgotten_at, outcome = self._remembered.get(principal, (0.0, None))
            if outcome is not None and asyncio.get_running_loop().time() < forgotten_at:
                return outcome
            asking = self._asking.get(principal)
            if asking is None:
                return await self._ask(principal)
            await asking.over.wait()
            if asking.outcome is not None:
                return asking.outcome
            # Whoever asked has gone away, and the command with him: one of those who waited asks again.

    async def _ask(self, principal: Principal) -> _Outcome:
        asking = self._asking[principal] = _Asking()
        try:
            try:
                outcome: _Outcome = await self._answer(principal)
            except CredentialMissing:
                outcome = "missing"
            except CredentialUnavailable:
                outcome = "unavailable"
            self._remember(principal, outcome)
            asking.outcome = outcome
            return outcome
        finally:
            del self._asking[principal]
            asking.over.set()

    def _remember(self, principal: Principal, outcome: _Outcome) -> None:
        now = asyncio.get_running_loop().time()
        seconds = self._ttl if isinstance(outcome, Credential) else min(self._ttl, RETRY_AFTER)
        self._remembered.pop(principal, None)
        self._remembered[principal] = now + seconds, outcome
        for oldest, (forgotten_at, _) in list(self._remembered.items()):
            if now < forgotten_at and len(self._remembered) <= MAX_REMEMBERED:
                break
            del self._remembered[oldest]

    async def _answer(self, principal: Principal) -> Credential:
        report = Report(self._server, principal)
        command = self._argv[0]
        if flaw_of(principal.subject) or (principal.issuer and flaw_of(principal.issuer)):
            # No variable can hold such a name, so no command can know it.
            raise report.missing(command)
        try:
            async with asyncio.timeout(self._timeout), self._turns:
                line, status = await self._run(principal)
        except TimeoutError:
            raise report.unavailable(f"{command}: did not end within {self._timeout:g} s") from None
        except (SpawnError, Refused) as exc:
            raise report.unavailable(f"{command}: {exc}") from None
        if status.code == MISSING_EXIT_CODE:
            raise report.missing(command)
        if status.code != 0:
            raise report.unavailable(f"{command}: expected exit code 0 or {MISSING_EXIT_CODE}, it {status}")
        return report.credential(line, command)

    async def _run(self, principal: Principal) -> tuple[bytes, ExitStatus]:
        """Run the command; return the first line of its output, and how it ended."""
        async with await start(self._config_for(principal)) as child:
            child.stdin.close()
            return await _first_line(child), await child.wait()

    def _config_for(self, principal: Principal) -> Config:
        who = {
            "STDIO_BROKER_PRINCIPAL": principal.subject,
            "STDIO_BROKER_ISSUER": principal.issuer,
            "STDIO_BROKER_SERVER": self._server,
        }
        return Config(
            cmd=self._argv,
            env=self._environment | who,
            # Whoever is still there when its answer is, or its time is over, is ended at once.
            eof_grace=0,
            stop_grace=0,
            max_line_bytes=MAX_VALUE_BYTES,
            stdout_buffer_bytes=MAX_OUTPUT_BYTES,
        )


async def _first_line(child: Child) -> bytes:
    """Return the first line of a command's output, when the output has ended."""
    first = None
    size = 0
    try:
        async for line in child.stdout:
            first = line if first is None else first
            size += len(line) + 1
            if size > MAX_OUTPUT_BYTES:
                raise Refused(f"printed more than {MAX_OUTPUT_BYTES} bytes")
    except LineTooLong:
        raise Refused(f"printed a line longer than {MAX_VALUE_BYTES} bytes") from None
    return first or b""
