"""The contract that a bridge relies on, kept by the fake child and by a real one alike."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from stdio_broker.errors import ChildGone, EndOfOutput
from stdio_broker.supervisor import Child, Config, ExitStatus, OversizeLine, start

from .fake_child import FakeChild

_FULL_LINE = b"x" * 100_000


class _Subject(Protocol):
    """A child that does what the contract needs of it."""

    child: Child

    async def fill(self) -> None:
        """Bring its stdin above the high-water mark."""

    async def told(self) -> list[bytes]:
        """Close its stdin and return what reached it, `_FULL_LINE` aside."""


class _Fake:
    def __init__(self) -> None:
        self._fake = FakeChild()
        self._fake.stdout.feed(b"one", b"", OversizeLine(300, b"y" * 300, b"y" * 300), b"two")
        self._fake.stdout.end()
        self.child = self._fake.as_child()

    async def fill(self) -> None:
        self._fake.stdin.fill()

    async def told(self) -> list[bytes]:
        self._fake.stdin.drain()
        await asyncio.sleep(0)
        self._fake.exit(ExitStatus(code=3, signal=None))
        return self._fake.stdin.lines


# Speaks first, then writes to its stderr whatever is not too long, as soon as its stdin has ended.
_SCRIPT = r"""
printf 'one\n\n%0300d\ntwo\n' 0 | tr 0 y
exec >&-
while read -r line; do test ${#line} -gt 1000 || echo "$line" >&2; done
exit 3
"""


class _Real:
    def __init__(self, child: Child, told: list[bytes]) -> None:
        assert child.pid is not None
        self.child = child
        self._pid = child.pid
        self._told = told

    async def fill(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)
        while self.child.stdin.send_nowait(_FULL_LINE):
            pass

    async def told(self) -> list[bytes]:
        os.kill(self._pid, signal.SIGCONT)
        async with asyncio.timeout(10):
            while self.child.stdin.unwritten_bytes:  # noqa: ASYNC110 - the kernel takes it, no event tells us
                await asyncio.sleep(0.01)
            self.child.stdin.close()
            await self.child.wait()
        return self._told


@pytest.fixture(params=["fake", "real"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[_Subject]:
    if request.param == "fake":
        yield _Fake()
        return
    told: list[bytes] = []
    config = Config(
        cmd=["sh", "-c", _SCRIPT],
        max_line_bytes=200,
        stdin_buffer_bytes=1000,
        eof_grace=0,  # a stopped process does not notice the end of its stdin
        on_stderr=lambda line: told.append(line.encode()),
    )
    async with await start(config) as child:
        yield _Real(child, told)


async def test_lines_come_in_order_then_the_end_of_the_output_for_ever(subject: _Subject) -> None:
    lines: list[bytes | OversizeLine] = []
    with pytest.raises(EndOfOutput):
        while True:
            batch = await subject.child.stdout.receive_many()
            assert batch, "a batch is never empty"
            lines += batch
    assert lines == [b"one", b"", OversizeLine(300, b"y" * 300, b"y" * 300), b"two"]
    with pytest.raises(EndOfOutput):
        await subject.child.stdout.receive_many()


async def test_what_was_sent_arrives_in_order(subject: _Subject) -> None:
    await subject.child.stdin.send(b"a")
    assert subject.child.stdin.send_nowait(b"b")
    await subject.child.stdin.send(b"c")
    assert await subject.told() == [b"a", b"b", b"c"]


async def test_a_line_is_one_line(subject: _Subject) -> None:
    with pytest.raises(ValueError, match="newline"):
        await subject.child.stdin.send(b"a\nb")
    with pytest.raises(ValueError, match="newline"):
        subject.child.stdin.send_nowait(b"a\nb")
    assert await subject.told() == []


async def test_a_full_stdin_makes_senders_wait_and_takes_nothing_from_one_that_gives_up(
    subject: _Subject,
) -> None:
    await subject.fill()
    assert not subject.child.stdin.send_nowait(b"not now")
    giving_up = asyncio.create_task(subject.child.stdin.send(b"given up"))
    patient = asyncio.create_task(subject.child.stdin.send(b"patient"))
    await asyncio.sleep(0)
    giving_up.cancel()
    await asyncio.wait({giving_up})
    assert giving_up.cancelled()
    assert await subject.told() == [b"patient"]
    await patient


async def test_a_closed_stdin_takes_nothing(subject: _Subject) -> None:
    subject.child.stdin.close()
    with pytest.raises(ChildGone):
        await subject.child.stdin.send(b"a")
    assert not subject.child.stdin.send_nowait(b"a")


async def test_closing_a_full_stdin_frees_whoever_waits(subject: _Subject) -> None:
    await subject.fill()
    waiting = asyncio.create_task(subject.child.stdin.send(b"late"))
    await asyncio.sleep(0)
    subject.child.stdin.close()
    with pytest.raises(ChildGone):
        await waiting


async def test_its_end_tells_how_it_ended(subject: _Subject) -> None:
    assert isinstance(subject.child.pid, int)
    await subject.told()
    status = await subject.child.wait()
    assert (status.code, status.signal) == (3, None)
