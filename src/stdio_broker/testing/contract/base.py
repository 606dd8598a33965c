"""How a child shall behave for a rule, and what all rules share."""

import abc
import asyncio
import contextlib
import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from ...supervisor import Child, Config

__all__ = [
    "A_MOMENT",
    "COMPLAINT",
    "FLOOD_LINE",
    "FLOOD_LINES",
    "LONG",
    "PATIENT",
    "SPEECH",
    "TIGHT",
    "Behaviour",
    "Contract",
    "check_lines",
    "error_of",
    "everything",
    "refusal_of",
    "still_waits",
]

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

#: What a child of `Behaviour.SPEAKS` writes to stdout: an empty line, all kinds of bytes, one line
#: that is longer than the others, and a last one without a newline.
SPEECH = b"one\n\nt\0o\r\n\xff\xfe\nlonger than all the others\nthree\nunfinished"

#: What a child of `Behaviour.COMPLAINS` writes to stderr.
COMPLAINT = b"one\nt\xffo\nunfinished"

#: What a child of `Behaviour.FLOODS` writes to stdout, and how often: 4 MiB, more than all buffers.
FLOOD_LINE = b"0123456789abcde\n"
FLOOD_LINES = 4 * 1024 * 1024 // len(FLOOD_LINE)

#: Seconds that no test has: whoever waits for them has not been told what it waits for.
LONG = 300.0

#: Seconds that a test may take. It fails when they are over.
TIMEOUT = 30.0

#: Seconds in which something that must wait would have gone on, had it not waited. A slow machine
#: can hide a mistake from it, but not make one up.
A_MOMENT = 0.05

#: A configuration in which every step of the way down that is needed takes for ever.
PATIENT = Config(cmd=["to be replaced"], flush_grace=LONG, eof_grace=LONG, stop_grace=LONG, kill_grace=LONG)

#: The same with buffers that are soon full.
TIGHT = replace(PATIENT, stdin_buffer_bytes=1000, stdout_buffer_bytes=1000)


class Behaviour(enum.Enum):
    """What the child does that a rule is about. None of them does anything else."""

    ECHOES = "says every line that it reads; exits with code 0 at EOF"
    LEAVES_AT_EOF = "exits with code 3 at EOF"
    DEAF = "reads nothing, does not notice EOF, is ended by SIGTERM"
    GRACEFUL = "reads nothing, does not notice EOF, exits with code 7 at SIGTERM"
    STUBBORN = "reads nothing, does not notice EOF, ignores SIGTERM"
    LEAVES = "exits with code 3 by itself"
    DIES = "is ended by a SIGKILL that nobody here has sent"
    SPEAKS = "writes SPEECH to stdout and exits with code 0"
    COMPLAINS = "writes COMPLAINT to stderr and exits with code 0"
    FLOODS = "writes FLOOD_LINE to stdout FLOOD_LINES times, and only then exits with code 0 at EOF"
    CLOSES_STDOUT = "closes stdout and lives on; exits with code 0 at EOF"
    CLOSES_STDIN = "reads a line, closes stdin, says `closed`; is ended by SIGTERM"


class Contract(abc.ABC):
    """A set of rules for a child, each a test."""

    @abc.abstractmethod
    async def start(self, behaviour: Behaviour, config: Config) -> Child:
        """Start a child that behaves so, and return it when it is ready to.

        Args:
            behaviour: What it does.
            config: The limits and graces that it must have. `cmd` is to be replaced.
        """

    @contextlib.asynccontextmanager
    async def running(self, behaviour: Behaviour, config: Config = PATIENT) -> AsyncIterator[Child]:
        """Have a child for a test, which must not take longer than `TIMEOUT`."""
        async with asyncio.timeout(TIMEOUT):
            child = await self.start(behaviour, config)
            try:
                yield child
            finally:
                await child.stop(eof_grace=0, stop_grace=0)


async def everything(child: Child) -> list[bytes]:
    """Return all lines until the end of the output."""
    return [line async for line in child.stdout]


async def still_waits(task: asyncio.Future[T]) -> None:
    """Fail if a task ends within `A_MOMENT`."""
    await asyncio.wait({task}, timeout=A_MOMENT)
    if task.done():
        raise AssertionError(f"it should wait, but has ended: {task!r}")


def check_lines(found: list[bytes], expected: list[bytes]) -> None:
    """Check long lines. A plain assert would have pytest compare them byte by byte, for minutes."""
    if found != expected:
        found_bytes = sum(map(len, found))
        raise AssertionError(f"{len(found)} lines, {found_bytes} bytes, which are not those that were sent")


async def error_of(awaitable: Awaitable[object], kind: type[E]) -> E:
    """Await what must fail, and return its error."""
    (outcome,) = await asyncio.gather(awaitable, return_exceptions=True)
    if isinstance(outcome, kind):
        return outcome
    raise AssertionError(f"expected {kind.__name__}, found {outcome!r}")


def refusal_of(function: Callable[[], object], kind: type[E]) -> E:
    """Call what must fail, and return its error."""
    try:
        result = function()
    except kind as exc:
        return exc
    raise AssertionError(f"expected {kind.__name__}, found {result!r}")
