"""A child's pipes as messages: whatever is on a line costs that line at most."""

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stdio_broker.bridge.channel import BAD_LINE_BYTES, EXIT_STATUS_TIMEOUT, Channel
from stdio_broker.errors import BridgeBroken, ChildGone
from stdio_broker.protocol.jsonrpc import Message, Notification, Request, Response
from stdio_broker.supervisor import ExitStatus, OversizeLine
from stdio_broker.testing import FakeChild
from tests.protocol.strategies import json_objects
from tests.support.clock import run_in_virtual_time

LOG = b'{"jsonrpc":"2.0","method":"x","params":{"n":%d}}'
ANSWER = b'{"jsonrpc":"2.0","id":%d,"result":{}}'


@dataclass
class _Heard:
    """A receiver that keeps what it gets."""

    messages: list[Message] = field(default_factory=list)
    lost: list[tuple[bytes, int]] = field(default_factory=list)

    def message(self, message: Message) -> None:
        self.messages.append(message)

    def lost_answer(self, child_id: bytes, line_bytes: int) -> None:
        self.lost.append((child_id, line_bytes))


@dataclass
class _Rig:
    channel: Channel
    child: FakeChild
    heard: _Heard
    running: asyncio.Task[BridgeBroken]

    async def ends(self, status: ExitStatus | None = None) -> BridgeBroken:
        self.child.exit(status)
        return await self.running


@contextlib.asynccontextmanager
async def _open(child: FakeChild | None = None) -> AsyncIterator[_Rig]:
    child, heard = child or FakeChild(), _Heard()
    channel = Channel(child, heard)
    running = asyncio.create_task(channel.run())
    await child.stdout.wait_wanted()
    try:
        yield _Rig(channel, child, heard, running)
    finally:
        child.exit()
        await running


async def test_messages_of_each_kind_come_in_their_order() -> None:
    """JSON-RPC 2.0, 4 and 5."""
    async with _open() as rig:
        await rig.child.says(LOG % 1, b'{"jsonrpc":"2.0","id":"q","method":"ping"}', ANSWER % 5, b"\t")
        assert [type(message) for message in rig.heard.messages] == [Notification, Request, Response]
        assert rig.channel.bad_lines == 0


async def test_a_batch_is_taken_apart() -> None:
    """MCP 2025-03-26, basic, "Batching": a child may put an array on a line."""
    async with _open() as rig:
        await rig.child.says(b"[" + ANSWER % 1 + b"," + LOG % 1 + b"]", b"[7]")
        assert [type(message) for message in rig.heard.messages] == [Response, Notification]
        assert rig.channel.bad_lines == 1


async def test_what_is_no_json_rpc_is_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """MCP 2026-07-28, stdio: MUST NOT be on stdout; protocol.md, 2.2: count, log once, skip."""
    bad = [b"Welcome!" + b"x" * 1000, b"{}", b'{"jsonrpc":"1.0","id":1,"result":{}}', b"\xff\xfe", b"7"]
    with caplog.at_level(logging.WARNING):
        async with _open() as rig:
            await rig.child.says(b"", b"  \r", *bad, LOG % 1)
            assert rig.channel.bad_lines == len(bad)
            assert rig.channel.first_bad_line == (b"Welcome!" + b"x" * 1000)[:BAD_LINE_BYTES].decode()
            assert len(rig.heard.messages) == 1
    assert [record.message for record in caplog.records].count("child.not_json_rpc") == 1
    # The line itself may hold anything, so it is not for the log.
    assert "Welcome" not in caplog.text


async def test_a_stray_byte_is_replaced_and_its_message_delivered(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: somebody waits for the answer that it is in."""
    with caplog.at_level(logging.WARNING):
        async with _open() as rig:
            for _ in range(2):
                await rig.child.says('{"jsonrpc":"2.0","id":1,"result":{"x":"é"}}'.encode("latin-1"))
            members = [message.members for message in rig.heard.messages]
            assert [json.loads(bytes(each["result"])) for each in members] == [{"x": "\ufffd"}] * 2
            assert (rig.channel.repaired_lines, rig.channel.bad_lines) == (2, 0)
    assert [record.message for record in caplog.records].count("child.invalid_utf8") == 1


async def test_a_line_over_the_limit_costs_its_own_answer_only() -> None:
    """protocol.md, 2.2: told as soon as the ends of the line tell whose it was."""
    async with _open() as rig:
        head = b'{"jsonrpc":"2.0","id":7,"result":{"x":"'
        await rig.child.says(
            OversizeLine(length=99, head=head, tail=b'"}}'),
            OversizeLine(length=98, head=b'{"jsonrpc":"2.0","method":"x"', tail=b"}"),
            ANSWER % 8,
        )
        assert rig.heard.lost == [(b"7", 99)]
        assert rig.channel.oversize_lines == 2
        assert len(rig.heard.messages) == 1


async def test_an_error_without_an_id_is_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """JSON-RPC 2.0, 5: the child could not read a line of ours, and cannot say which."""
    with caplog.at_level(logging.WARNING):
        async with _open() as rig:
            for written in (b'"id":null,', b""):
                await rig.child.says(b'{"jsonrpc":"2.0",%b"error":{"code":-32700,"message":"m"}}' % written)
            assert rig.heard.messages == []
            assert rig.channel.bad_lines == 0
    assert [record.message for record in caplog.records].count("child.error_without_id") == 1


@given(
    lines=st.lists(
        st.one_of(
            st.just(b""),
            st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")),
            json_objects.map(lambda raw: raw.replace(b"\n", b" ")),
            st.integers(0, 99).map(lambda number: LOG % number),
            st.builds(
                OversizeLine, length=st.just(9), head=st.binary(max_size=9), tail=st.binary(max_size=9)
            ),
        ),
        max_size=8,
    )
)
@settings(deadline=None, max_examples=50)
async def test_whatever_a_child_writes_the_next_message_arrives(lines: list[bytes | OversizeLine]) -> None:
    """Ours: nothing on one line breaks the reading of another."""
    async with _open() as rig:
        await rig.child.says(*lines, LOG % 4711)
        last = rig.heard.messages[-1]
        assert json.loads(bytes(last.members["params"])) == {"n": 4711}


# To the child.


async def test_lines_go_to_the_child_in_order() -> None:
    async with _open() as rig:
        await rig.channel.send(b"1")
        rig.channel.send_nowait(b"2")
        await rig.channel.send(b"3")
        assert rig.child.stdin.lines == [b"1", b"2", b"3"]
        assert rig.channel.unsaid_lines == 0
        assert rig.channel.pid == rig.child.pid


async def test_a_line_waits_for_a_child_that_reads_slowly_or_is_not_said_at_all() -> None:
    """Ours: a reader must go on reading, so it says what it says at once, or never; that is counted."""
    async with _open() as rig:
        rig.child.stdin.fill()
        sending = asyncio.create_task(rig.channel.send(b"patient"))
        await asyncio.sleep(0)
        rig.channel.send_nowait(b"hasty")
        assert not sending.done()
        rig.child.stdin.drain()
        await sending
        assert rig.child.stdin.lines == [b"patient"]
        assert rig.channel.unsaid_lines == 1


async def test_nothing_can_be_said_to_a_child_that_is_being_stopped() -> None:
    async with _open() as rig:
        rig.child.stdin.close()
        with pytest.raises(ChildGone):
            await rig.channel.send(b"1")
        rig.channel.send_nowait(b"2")
        assert rig.channel.unsaid_lines == 1


# The end.


@pytest.mark.parametrize(
    ("status", "words", "data"),
    [
        (ExitStatus(code=3, signal=None), "the server process exited with code 3", {"exitCode": 3}),
        (
            ExitStatus(code=None, signal=signal.SIGSEGV),
            "the server process was ended by SIGSEGV",
            {"signal": signal.SIGSEGV},
        ),
    ],
)
async def test_the_end_tells_how_the_child_ended(
    status: ExitStatus, words: str, data: dict[str, object]
) -> None:
    """protocol.md, 2.2: -32603 with the reason and the exit status."""
    async with _open() as rig:
        rig.child.stdout.feed(LOG % 1)
        ending = await rig.ends(status)
        assert len(rig.heard.messages) == 1
        assert str(ending).startswith("the server process ")
        assert str(status) in str(ending), words
        assert ending.data() == {"reason": "server process ended", "retryable": True, **data}


def test_a_child_that_closes_its_output_and_lives_on_is_as_good_as_dead() -> None:
    """Ours: nothing will ever be answered."""

    async def main() -> None:
        child = FakeChild(ignores_eof=True)
        async with _open(child) as rig:
            child.stdout.end()
            ending = await rig.running
            assert asyncio.get_running_loop().time() == pytest.approx(EXIT_STATUS_TIMEOUT)
            assert ending.data() == {"reason": "server closed its output", "retryable": True}
            assert str(ending) == "the server closed its output"

    run_in_virtual_time(main())
