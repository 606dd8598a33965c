"""A call that was passed on is answered once, by whatever comes first, and lets go of everything once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from stdio_broker.bridge import Exchange, MessageStream
from stdio_broker.http import Settings
from stdio_broker.http.patience import Patience
from stdio_broker.http.silent_call import SessionCall, knows_priming
from stdio_broker.protocol.revisions import REVISIONS
from stdio_broker.protocol.sse import KEEP_ALIVE, encode_event
from stdio_broker.sessions import Principal, Quotas, QuotaSettings
from tests.http.wire_rig import GET, Wire, turns
from tests.support.clock import run_in_virtual_time

if TYPE_CHECKING:
    from stdio_broker.sessions import Session

ANNA = Principal(issuer="https://id.example.com", subject="anna")
ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{}}'
NEWS = b'{"jsonrpc":"2.0","method":"notifications/message"}'
SETTINGS = Settings(keep_alive_interval=15, write_timeout=60)


@dataclass
class Agreement:
    """What a client has agreed on."""

    revision: object


@dataclass
class FakeBridge:
    """What is released is noted."""

    released: list[MessageStream] = field(default_factory=list)

    def release(self, stream: MessageStream) -> None:
        """Note it."""
        stream.detach()
        self.released.append(stream)

    def suspend(self, stream: MessageStream) -> bool:
        """Never."""
        raise AssertionError(stream)


@dataclass
class FakeSession:
    """Whose call it is."""

    share: object
    bridge: FakeBridge = field(default_factory=FakeBridge)
    agreement: Agreement | None = None


class Rig:
    """A client that has called, and the exchange of its call."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.wire.feed(GET)
        quotas = Quotas(QuotaSettings(), now=asyncio.get_running_loop().time)
        self.share = quotas.enter_call(ANNA)
        self.session = FakeSession(self.share)
        self.exchange = Exchange(asyncio.get_running_loop(), max_bytes=100_000)
        self.call = SessionCall(
            self.wire.requests[0],
            self.exchange,
            Patience(SETTINGS.keep_alive_interval),
            session=cast("Session", self.session),
            quotas=quotas,
            settings=SETTINGS,
        )

    async def finish(self) -> None:
        """Wait for the task if there is one; fail if anything was not let go of, or more than once."""
        async with asyncio.timeout(100):
            while self.wire.owner.tasks:
                await asyncio.wait(self.wire.owner.tasks)
        assert self.session.bridge.released == [self.exchange]
        assert self.share.calls == 0
        await asyncio.sleep(2 * SETTINGS.keep_alive_interval)
        assert self.session.bridge.released == [self.exchange]
        assert len(self.wire.answers()) == 1


@pytest.mark.parametrize("when", ["before", "soon", "late"])
def test_an_answer_that_comes_first_is_written_as_it_comes(when: str) -> None:
    """design.md, 4: JSON if the first thing that comes is the final answer. No task is made."""

    async def main() -> None:
        rig = Rig()
        if when == "before":
            rig.exchange.answer(ANSWER)
        rig.call.begin()
        if when == "late":
            await asyncio.sleep(14.9)
        if when != "before":
            assert rig.wire.answers() == []
            rig.exchange.answer(ANSWER)
        assert not rig.wire.owner.tasks
        (answer,) = rig.wire.answers()
        assert (answer.status, answer.body) == (200, ANSWER)
        assert answer.fields[b"content-type"] == b"application/json"
        await rig.finish()

    run_in_virtual_time(main())


@pytest.mark.parametrize("when", ["before", "soon"])
def test_anything_else_that_comes_first_makes_it_a_stream(when: str) -> None:
    """design.md, 4: SSE as soon as anything else does."""

    async def main() -> None:
        rig = Rig()
        if when == "before":
            rig.exchange.put(NEWS)
        rig.call.begin()
        if when == "soon":
            rig.exchange.put(NEWS)
        await turns()
        rig.exchange.answer(ANSWER)
        await rig.finish()
        (answer,) = rig.wire.answers()
        assert answer.fields[b"content-type"] == b"text/event-stream"
        assert answer.body == encode_event(NEWS) + encode_event(ANSWER)

    run_in_virtual_time(main())


def test_both_at_once_are_a_stream_with_both() -> None:
    """Ours: nothing is lost, and the order is kept."""

    async def main() -> None:
        for before in (True, False):
            rig = Rig()
            if not before:
                rig.call.begin()
            rig.exchange.put(NEWS)
            rig.exchange.answer(ANSWER)
            if before:
                rig.call.begin()
            await rig.finish()
            assert rig.wire.answers()[0].body == encode_event(NEWS) + encode_event(ANSWER)

    run_in_virtual_time(main())


def test_silence_makes_it_a_stream_that_begins_with_a_comment() -> None:
    """design.md, 4: or when the keep-alive falls due."""

    async def main() -> None:
        rig = Rig()
        rig.call.begin()
        await asyncio.sleep(14.9)
        assert rig.wire.transport.written == b""
        await asyncio.sleep(0.2)
        assert rig.wire.transport.written.endswith(KEEP_ALIVE + b"\r\n")
        await asyncio.sleep(20)
        rig.exchange.answer(ANSWER)
        await rig.finish()
        assert rig.wire.answers()[0].body == KEEP_ALIVE * 2 + encode_event(ANSWER)

    run_in_virtual_time(main())


def test_an_answer_in_the_moment_in_which_patience_runs_out_is_on_the_stream() -> None:
    """Ours: once, and not lost."""

    async def main() -> None:
        rig = Rig()
        rig.call.begin()
        rig.call._patience.end(rig.call)  # noqa: SLF001 - as it does when it is over
        rig.call.run_out()
        rig.exchange.answer(ANSWER)
        await rig.finish()
        assert rig.wire.answers()[0].body == encode_event(ANSWER)

    run_in_virtual_time(main())


def test_an_exchange_that_ends_without_an_answer_ends_the_stream() -> None:
    """Ours: such as when the client comes back for it on another connection."""

    async def main() -> None:
        rig = Rig()
        rig.call.begin()
        rig.exchange.end()
        await rig.finish()
        assert rig.wire.answers()[0].body == KEEP_ALIVE

    run_in_virtual_time(main())


def test_a_client_that_goes_does_not_end_its_call_before_the_answer() -> None:
    """MCP 2025-11-25, basic/transports: disconnection SHOULD NOT be interpreted as cancellation."""

    async def main() -> None:
        rig = Rig()
        rig.call.begin()
        rig.wire.transport.leave()
        await turns()
        assert rig.session.bridge.released == []
        rig.exchange.answer(ANSWER)
        assert rig.session.bridge.released == [rig.exchange]
        assert rig.share.calls == 0
        assert rig.wire.transport.written == b""

    run_in_virtual_time(main())


def test_a_client_that_goes_ends_the_stream() -> None:
    """Ours: the stream is let go of, and so is the place in the quota."""

    async def main() -> None:
        rig = Rig()
        rig.call.begin()
        rig.exchange.put(NEWS)
        await turns()
        rig.wire.transport.leave()
        await turns()
        assert rig.session.bridge.released == [rig.exchange]
        assert (rig.share.calls, rig.wire.owner.tasks) == (0, set())

    run_in_virtual_time(main())


def test_priming_is_for_clients_that_know_it() -> None:
    """SEP-1699: from 2025-11-25 on."""
    session = FakeSession(object())
    assert not knows_priming(None)
    assert not knows_priming(cast("Session", session))
    for version, knows in (("2025-06-18", False), ("2025-11-25", True)):
        session.agreement = Agreement(REVISIONS[version])
        assert knows_priming(cast("Session", session)) == knows
