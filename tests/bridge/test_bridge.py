"""Which message goes where between one client and one child, and what everything else costs: nothing."""

import asyncio
import contextlib
import json
import logging
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stdio_broker.bridge import Bridge, Exchange, MessageStream, Settings, StreamEnded
from stdio_broker.bridge.channel import BAD_LINE_BYTES, EXIT_STATUS_TIMEOUT
from stdio_broker.bridge.link import UNRELATED
from stdio_broker.errors import BridgeBroken, ChildGone, LimitReached
from stdio_broker.protocol.jsonrpc import (
    INTERNAL_ERROR,
    REQUEST_CANCELLED,
    Notification,
    Request,
    Response,
    parse_line,
)
from stdio_broker.supervisor import ExitStatus, OversizeLine
from stdio_broker.testing import FakeChild
from tests.support.clock import run_in_virtual_time

_LOG = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"%d"}}'
_CHANGED = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"n":%d}}'


def _request(identifier: bytes, token: bytes | None = None, method: bytes = b"tools/call") -> Request:
    params = b"{}" if token is None else b'{"_meta":{"progressToken":' + token + b"}}"
    line = b'{"jsonrpc":"2.0","id":%b,"method":"%b","params":%b}' % (identifier, method, params)
    (message,) = parse_line(line)
    assert isinstance(message, Request)
    return message


def _notification(text: bytes) -> Notification:
    (message,) = parse_line(text)
    assert isinstance(message, Notification)
    return message


def _response(text: bytes) -> Response:
    (message,) = parse_line(text)
    assert isinstance(message, Response)
    return message


def _cancel(identifier: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":' + identifier + b"}}"


def _answer(identifier: bytes, result: bytes = b"{}") -> bytes:
    return b'{"jsonrpc":"2.0","id":' + identifier + b',"result":' + result + b"}"


def _progress(token: bytes, number: int = 0) -> bytes:
    return (
        b'{"jsonrpc":"2.0","method":"notifications/progress",'
        b'"params":{"progressToken":%b,"progress":%d}}' % (token, number)
    )


def _question(identifier: bytes, method: bytes = b"sampling/createMessage") -> bytes:
    return b'{"jsonrpc":"2.0","id":%b,"method":"%b"}' % (identifier, method)


@dataclass
class _Rig:
    """A bridge at work."""

    bridge: Bridge
    child: FakeChild
    running: asyncio.Task[None]
    idle: list[bool] = field(default_factory=list)

    async def call(self, identifier: bytes = b"1", token: bytes | None = None) -> tuple[Exchange, bytes]:
        """Return the exchange of a new call, and the id that the child has seen."""
        exchange = await self.bridge.call(_request(identifier, token))
        (seen,) = parse_line(self.child.stdin.lines[-1])
        assert isinstance(seen, Request)
        return exchange, seen.id

    def busy(self) -> bool:
        return self.bridge.busy

    async def ends(self, status: ExitStatus | None = None) -> None:
        self.child.exit(status)
        await self.running


@contextlib.asynccontextmanager
async def _bridged(**bounds: int) -> AsyncIterator[_Rig]:
    child = FakeChild()
    idle: list[bool] = []
    bridge = Bridge(Settings(**bounds), on_idle=lambda: idle.append(True))
    link = bridge.join(child)
    bridge.use(link)

    async def run() -> None:
        bridge.fail(await bridge.run(link))

    running = asyncio.create_task(run())
    await child.stdout.wait_wanted()
    try:
        yield _Rig(bridge, child, running, idle)
    finally:
        child.exit()
        await running


async def _all_waiting(bridge: Bridge) -> list[bytes]:
    """Return what GETs get, one after the other: each takes what it has room for."""
    messages: list[bytes] = []
    while True:
        get = bridge.listen()
        taken = await _waiting(get)
        bridge.release(get)
        if not taken:
            return messages
        messages += taken


async def _waiting(stream: MessageStream) -> list[bytes]:
    """Take what waits on a stream."""
    messages = []
    with contextlib.suppress(StreamEnded):
        while (message := await stream.receive(0)) is not None:
            messages.append(message)
    return messages


def _is_question(messages: list[bytes]) -> bool:
    return [json.loads(message).get("method") for message in messages] == ["sampling/createMessage"]


# Calls and answers.


async def test_an_answer_reaches_its_own_call_under_its_own_id() -> None:
    """JSON-RPC 2.0, 5. Two clients' worth of ids that look alike, answered in the other order."""
    async with _bridged() as rig:
        first, first_id = await rig.call(b"1")
        second, second_id = await rig.call(b'"1"')
        await rig.child.says(_answer(second_id, b"2"), _answer(first_id, b"1"))
        assert await _waiting(first) == [_answer(b"1", b"1")]
        assert await _waiting(second) == [_answer(b'"1"', b"2")]
        assert first.complete
        assert rig.bridge.statistics().calls == 0


async def test_what_the_child_said_before_its_answer_comes_before_it() -> None:
    """MCP 2025-11-25, basic/transports: notifications, then the response, nothing after."""
    async with _bridged() as rig:
        exchange, child_id = await rig.call(b"7", b'"t"')
        await rig.child.says(
            _progress(child_id, 1),
            _LOG % 1,
            _progress(child_id, 2),
            _answer(child_id),
            _progress(child_id, 3),
        )
        assert await _waiting(exchange) == [
            _progress(b'"t"', 1),
            _LOG % 1,
            _progress(b'"t"', 2),
            _answer(b"7"),
        ]


async def test_an_answer_may_be_as_large_as_a_line() -> None:
    """Our rule: a final answer always fits."""
    async with _bridged(max_stream_bytes=100) as rig:
        exchange, child_id = await rig.call()
        result = b'"' + b"x" * 10_000 + b'"'
        await rig.child.says(_answer(child_id, result))
        assert await _waiting(exchange) == [_answer(b"1", result)]


async def test_a_batch_of_the_child_is_taken_apart() -> None:
    """MCP 2025-03-26, basic, "Batching"."""
    async with _bridged() as rig:
        first, first_id = await rig.call(b"1")
        second, second_id = await rig.call(b"2")
        await rig.child.says(b"[" + _answer(second_id) + b"," + _answer(first_id) + b"]")
        assert await _waiting(first) == [_answer(b"1")]
        assert await _waiting(second) == [_answer(b"2")]


async def test_calls_over_the_bound_are_refused_until_one_is_answered() -> None:
    async with _bridged(max_calls=2) as rig:
        await rig.call(b"1")
        _, second_id = await rig.call(b"2")
        with pytest.raises(LimitReached, match="2 calls"):
            await rig.call(b"3")
        assert len(rig.child.stdin.lines) == 2
        await rig.child.says(_answer(second_id))
        await rig.call(b"3")


async def test_an_answer_after_its_client_has_gone_goes_nowhere() -> None:
    """MCP 2025-11-25, basic/transports: going away is no cancellation, so the child works on."""
    async with _bridged() as rig:
        exchange, child_id = await rig.call(b"1", b"5")
        get = rig.bridge.listen()
        rig.bridge.release(exchange)
        assert rig.bridge.statistics().calls == 1
        await rig.child.says(_progress(child_id), _answer(child_id), _answer(child_id), _answer(b"99"))
        assert await _waiting(get) == []
        assert rig.bridge.statistics().calls == 0


@pytest.mark.parametrize("token", [b"99", b'"1"', b"null"])
async def test_progress_of_no_open_call_is_dropped(token: bytes) -> None:
    """MCP 2025-11-25, basic/utilities/progress: it must stop when the request is done."""
    async with _bridged() as rig:
        exchange, child_id = await rig.call(b"1", b"5")
        await rig.child.says(_progress(token), _answer(child_id), _progress(child_id))
        assert await _waiting(exchange) == [_answer(b"1")]
        assert await _waiting(rig.bridge.listen()) == []


async def test_a_call_that_is_cancelled_while_stdin_is_full_leaves_nothing_open() -> None:
    """Our rule: what did not reach the child has not happened."""
    async with _bridged() as rig:
        rig.child.stdin.fill()
        calling = asyncio.create_task(rig.call())
        await asyncio.sleep(0)
        assert rig.busy()
        calling.cancel()
        await asyncio.wait({calling})
        rig.child.stdin.drain()
        assert calling.cancelled()
        assert rig.child.stdin.lines == []
        assert not rig.busy()
        assert rig.bridge.statistics().calls == 0
        assert rig.idle == [True]


async def test_a_call_waits_for_room_in_stdin() -> None:
    async with _bridged() as rig:
        rig.child.stdin.fill()
        calling = asyncio.create_task(rig.call())
        await asyncio.sleep(0)
        assert not calling.done()
        rig.child.stdin.drain()
        exchange, child_id = await calling
        await rig.child.says(_answer(child_id))
        assert await _waiting(exchange) == [_answer(b"1")]


async def test_a_call_to_a_child_that_is_being_stopped_fails_and_leaves_nothing_open() -> None:
    async with _bridged() as rig:
        rig.child.stdin.close()
        with pytest.raises(ChildGone):
            await rig.call()
        assert not rig.busy()
        assert rig.bridge.statistics().calls == 0


# Who is busy.


async def test_a_bridge_is_busy_while_a_client_waits_and_tells_when_it_is_not() -> None:
    async with _bridged() as rig:
        assert not rig.busy()
        exchange, child_id = await rig.call(b"1")
        gone, _ = await rig.call(b"2")
        assert rig.busy()
        rig.bridge.release(gone)
        assert rig.busy()
        assert rig.idle == []
        await rig.child.says(_answer(child_id))
        assert not rig.busy()
        assert rig.idle == [True]
        rig.bridge.release(exchange)
        rig.bridge.release(rig.bridge.listen())
        assert not rig.busy()


# Cancelling.


async def test_a_cancellation_crosses_under_the_id_that_the_child_knows() -> None:
    """MCP 2025-11-25, basic/utilities/cancellation."""
    async with _bridged() as rig:
        _, child_id = await rig.call(b'"mine"')
        await rig.bridge.notify(_notification(_cancel(b'"mine"')))
        assert rig.child.stdin.lines[-1] == _cancel(child_id)


async def test_a_cancellation_of_nothing_that_is_open_does_not_cross() -> None:
    """MCP 2025-11-25, basic/utilities/cancellation: SHOULD be ignored."""
    async with _bridged() as rig:
        await rig.bridge.notify(_notification(_cancel(b"1")))
        assert rig.child.stdin.lines == []


async def test_a_cancelled_call_is_over_whatever_the_child_does() -> None:
    """MCP 2025-11-25, basic/utilities/cancellation: a receiver SHOULD NOT answer a cancelled request.

    So we do, or the POST would never end, and calls that nobody waits for would use up the bound.
    """
    async with _bridged(max_calls=1) as rig:
        for number in range(2):
            identifier = b"%d" % number
            exchange, child_id = await rig.call(identifier)
            await rig.bridge.notify(_notification(_cancel(identifier)))
            (answer,) = await _waiting(exchange)
            error = json.loads(answer)
            assert error["id"] == number
            assert error["error"]["code"] == REQUEST_CANCELLED
            assert not rig.busy()
            await rig.child.says(_progress(child_id), _answer(child_id))
            assert await _waiting(exchange) == []


async def test_a_call_that_is_cancelled_before_it_was_sent_is_sent_first() -> None:
    """Our rule: a cancellation that overtakes its request cancels nothing."""
    async with _bridged() as rig:
        rig.child.stdin.fill()
        calling = asyncio.create_task(rig.call())
        await asyncio.sleep(0)
        cancelling = asyncio.create_task(rig.bridge.notify(_notification(_cancel(b"1"))))
        await asyncio.sleep(0)
        rig.child.stdin.drain()
        exchange, _ = await calling
        await cancelling
        assert exchange.answered
        assert [json.loads(line)["method"] for line in rig.child.stdin.lines] == [
            "tools/call",
            "notifications/cancelled",
        ]


async def test_any_other_notification_crosses_to_the_letter() -> None:
    """Our rule (design decision 2)."""
    text = b'{"jsonrpc":"2.0","method":"notifications/x","params":{ "a":1.0 },"y":[]}'
    async with _bridged() as rig:
        await rig.bridge.notify(_notification(text))
        assert rig.child.stdin.lines == [text]
        rig.child.stdin.close()
        with pytest.raises(ChildGone):
            await rig.bridge.notify(_notification(text))


async def test_a_child_that_takes_its_question_back_reaches_the_client_under_our_id() -> None:
    """MCP 2025-11-25, basic/utilities/cancellation."""
    async with _bridged() as rig:
        exchange, _ = await rig.call()
        await rig.child.says(_question(b"5"), _cancel(b"5"), _cancel(b"5"), _cancel(b"6"))
        asked, withdrawn = await _waiting(exchange)
        assert json.loads(withdrawn)["params"]["requestId"] == json.loads(asked)["id"]
        assert rig.bridge.statistics().questions == 0


# Which stream. The table in the docstring of `bridge.py`.


@pytest.mark.parametrize("method", sorted(UNRELATED))
async def test_what_is_about_the_server_as_a_whole_goes_to_the_get(method: str) -> None:
    """MCP 2025-11-25, basic/transports, "Listening for Messages from the Server"."""
    changed = b'{"jsonrpc":"2.0","method":"%b"}' % method.encode()
    async with _bridged() as rig:
        exchange, _ = await rig.call()
        get = rig.bridge.listen()
        await rig.child.says(changed)
        assert await _waiting(get) == [changed]
        assert await _waiting(exchange) == []


@pytest.mark.parametrize("line", [_LOG % 1, _question(b"5"), b'{"jsonrpc":"2.0","method":"notifications/x"}'])
@pytest.mark.parametrize("listening", [False, True])
async def test_what_may_belong_to_the_only_call_goes_to_it(line: bytes, *, listening: bool) -> None:
    """MCP 2025-11-25, basic/transports: messages on a POST's stream SHOULD relate to its request."""
    async with _bridged() as rig:
        get = rig.bridge.listen()
        if not listening:
            rig.bridge.release(get)
        exchange, _ = await rig.call()
        await rig.child.says(line)
        assert len(await _waiting(exchange)) == 1
        assert await _waiting(get if listening else rig.bridge.listen()) == []


@pytest.mark.parametrize("line", [_LOG % 1, _question(b"5"), _CHANGED % 1])
async def test_what_may_belong_to_any_of_several_calls_goes_to_the_get(line: bytes) -> None:
    """MCP 2025-11-25, basic/transports, "Multiple Connections": one stream, never several."""
    async with _bridged() as rig:
        exchanges = [(await rig.call(b"%d" % number))[0] for number in range(3)]
        get = rig.bridge.listen()
        await rig.child.says(line)
        assert len(await _waiting(get)) == 1
        assert [await _waiting(exchange) for exchange in exchanges] == [[], [], []]


@pytest.mark.parametrize("line", [_LOG % 1, _question(b"5"), _CHANGED % 1])
async def test_without_a_get_it_goes_to_the_oldest_call(line: bytes) -> None:
    """Our rule: the oldest has the best reason to be still there."""
    async with _bridged() as rig:
        gone, _ = await rig.call(b"1")
        oldest, _ = await rig.call(b"2")
        youngest, _ = await rig.call(b"3")
        rig.bridge.release(gone)
        await rig.child.says(line)
        assert len(await _waiting(oldest)) == 1
        assert await _waiting(youngest) == []


@pytest.mark.parametrize("line", [_LOG % 1, _question(b"5"), _CHANGED % 1])
async def test_where_nobody_is_it_waits_for_the_next_get(line: bytes) -> None:
    async with _bridged() as rig:
        exchange, child_id = await rig.call()
        rig.bridge.release(rig.bridge.listen())
        await rig.child.says(_answer(child_id), line)
        assert await _waiting(exchange) == [_answer(b"1")]
        get = rig.bridge.listen()
        assert len(await _waiting(get)) == 1
        rig.bridge.release(get)
        assert await _waiting(rig.bridge.listen()) == [], "it was delivered twice"


@settings(max_examples=50)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["call", "answer", "log", "changed", "listen", "hang up"]), st.integers(0, 7)
        ),
        max_size=12,
    )
)
async def test_every_message_of_the_child_reaches_exactly_one_reader(steps: list[tuple[str, int]]) -> None:
    """MCP 2025-11-25, basic/transports: "MUST NOT broadcast the same message across multiple streams"."""
    async with _bridged() as rig:
        calls: dict[bytes, Exchange] = {}
        get: MessageStream | None = None
        received: list[bytes] = []
        sent: list[bytes] = []
        for number, (step, choice) in enumerate(steps):
            if step == "call":
                exchange, child_id = await rig.call(b"1")
                calls[child_id] = exchange
            elif step == "answer" and calls:
                child_id = sorted(calls)[choice % len(calls)]
                await rig.child.says(_answer(child_id))
                messages = await _waiting(calls.pop(child_id))
                assert messages[-1] == _answer(b"1")
                received += messages[:-1]
            elif step == "listen" and get is None:
                get = rig.bridge.listen()
            elif step == "hang up" and get is not None:
                # It has read all or nothing of what it was sent; the rest must not be lost.
                if choice % 2:
                    received += await _waiting(get)
                rig.bridge.release(get)
                get = None
            elif step in {"log", "changed"}:
                sent.append((_LOG if step == "log" else _CHANGED) % number)
                await rig.child.says(sent[-1])
        for exchange in calls.values():
            received += await _waiting(exchange)
        received += await _waiting(get or rig.bridge.listen())
        if get is not None:
            rig.bridge.release(get)
            received += await _waiting(rig.bridge.listen())
        assert Counter(received) == Counter(sent)
        assert rig.bridge.statistics().dropped_messages == 0


# GET: taking over, releasing, the backlog.


async def test_a_new_get_ends_the_old_one_and_gets_what_comes() -> None:
    """Our rule: a client that lost its connection comes back before we notice that the old one is dead."""
    async with _bridged() as rig:
        old = rig.bridge.listen()
        new = rig.bridge.listen()
        with pytest.raises(StreamEnded):
            await old.receive(1)
        await rig.child.says(_CHANGED % 1)
        assert await _waiting(new) == [_CHANGED % 1]
        rig.bridge.release(old)
        await rig.child.says(_CHANGED % 2)
        assert await _waiting(new) == [_CHANGED % 2], "the end of the old one ended the new one"


@pytest.mark.parametrize("released", ["before anything else comes", "never"])
async def test_what_a_dead_get_has_not_read_goes_to_the_get_that_took_over(released: str) -> None:
    """Our rule: the old connection is most likely dead, and the client is here."""
    async with _bridged() as rig:
        old = rig.bridge.listen()
        await rig.child.says(_CHANGED % 1)
        new = rig.bridge.listen()
        if released != "never":
            rig.bridge.release(old)
        await rig.child.says(_CHANGED % 2)
        assert await _waiting(new) == [_CHANGED % 1, _CHANGED % 2]


async def test_what_a_get_has_not_read_waits_for_the_next_one() -> None:
    async with _bridged() as rig:
        get = rig.bridge.listen()
        await rig.child.says(*(_CHANGED % number for number in range(3)))
        assert await get.receive(1) == _CHANGED % 0
        rig.bridge.release(get)
        await rig.child.says(_CHANGED % 3)
        assert await _waiting(rig.bridge.listen()) == [_CHANGED % number for number in (1, 2, 3)]


async def test_what_a_slow_get_has_not_read_comes_before_what_came_later() -> None:
    async with _bridged(max_stream_bytes=364) as rig:
        get = rig.bridge.listen()
        await rig.child.says(*(_CHANGED % number for number in range(4)))
        assert get.cut
        rig.bridge.release(get)
        assert await _all_waiting(rig.bridge) == [_CHANGED % number for number in range(4)]


@pytest.mark.parametrize(
    "bounds", [{"max_backlog_messages": 3}, {"max_backlog_bytes": 3 * len(_CHANGED % 0)}]
)
async def test_a_full_backlog_drops_its_oldest_message_and_counts_it(bounds: dict[str, int]) -> None:
    """Our bound."""
    async with _bridged(**bounds) as rig:
        await rig.child.says(*(_CHANGED % number for number in range(5)))
        assert rig.bridge.statistics().dropped_messages == 2
        assert await _waiting(rig.bridge.listen()) == [_CHANGED % number for number in (2, 3, 4)]
        # The room is there again.
        rig.bridge.release(rig.bridge.listen())
        await rig.child.says(_CHANGED % 5)
        assert await _waiting(rig.bridge.listen()) == [_CHANGED % 5]


async def test_a_message_too_large_for_the_backlog_costs_only_itself() -> None:
    large = b'{"jsonrpc":"2.0","method":"notifications/message","params":"' + b"x" * 1000 + b'"}'
    async with _bridged(max_backlog_bytes=500) as rig:
        await rig.child.says(_CHANGED % 1, large, _CHANGED % 2)
        assert await _waiting(rig.bridge.listen()) == [_CHANGED % 1, _CHANGED % 2]
        assert rig.bridge.statistics().dropped_messages == 1


async def test_a_backlog_larger_than_a_stream_is_not_lost() -> None:
    """Our rule: bounds are the operator's, and any of them may be the larger one."""
    async with _bridged(max_stream_bytes=364) as rig:
        await rig.child.says(*(_CHANGED % number for number in range(10)))
        assert await _all_waiting(rig.bridge) == [_CHANGED % number for number in range(10)]


# Slow clients.


async def test_a_slow_stream_is_cut_at_its_bound_and_nothing_else_is() -> None:
    """Our rule: a slow client costs its own exchange, never the child's other users."""
    async with _bridged(max_stream_bytes=1000) as rig:
        slow, slow_id = await rig.call(b"1", b'"t"')
        quick, quick_id = await rig.call(b"2")
        await rig.child.says(*(_progress(slow_id, number) for number in range(50)))
        assert slow.cut
        assert rig.child.stdin.lines[-1] == (
            b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%b,'
            b'"reason":"the client does not read its stream"}}' % slow_id
        )
        *progress, answer = await _waiting(slow)
        assert progress == [_progress(b'"t"', number) for number in range(len(progress))]
        error = json.loads(answer)
        assert error["id"] == 1
        assert error["error"]["code"] == INTERNAL_ERROR
        assert error["error"]["data"] == {"reason": "slow client"}
        assert slow.complete
        # The child did not mind the cancellation: its answer is late.
        await rig.child.says(_answer(slow_id), _answer(quick_id))
        assert await _waiting(quick) == [_answer(b"2")]
        assert rig.bridge.statistics().calls == 0
        assert not rig.busy()


async def test_a_slow_get_is_cut_and_the_next_one_gets_what_did_not_fit() -> None:
    async with _bridged(max_stream_bytes=364) as rig:
        get = rig.bridge.listen()
        await rig.child.says(*(_CHANGED % number for number in range(4)))
        assert get.cut
        read = await _waiting(get)
        rig.bridge.release(get)
        assert read + await _waiting(rig.bridge.listen()) == [_CHANGED % number for number in range(4)]


async def test_what_does_not_fit_a_slow_call_is_kept_if_anybody_may_want_it() -> None:
    async with _bridged(max_stream_bytes=464) as rig:
        exchange, _ = await rig.call()
        await rig.child.says(*(_LOG % number for number in range(5)))
        read = (await _waiting(exchange))[:-1]
        assert read + await _waiting(rig.bridge.listen()) == [_LOG % number for number in range(5)]


async def test_what_does_not_fit_a_slow_call_goes_to_the_get_that_is_there() -> None:
    async with _bridged(max_stream_bytes=464) as rig:
        get = rig.bridge.listen()
        exchange, _ = await rig.call()
        await rig.child.says(*(_LOG % number for number in range(5)))
        read = (await _waiting(exchange))[:-1]
        assert read + await _waiting(get) == [_LOG % number for number in range(5)]


# Questions.


async def test_the_answer_to_a_question_reaches_the_child_under_its_own_id() -> None:
    async with _bridged() as rig:
        exchange, _ = await rig.call()
        await rig.child.says(_question(b'"q"'))
        (asked,) = await _waiting(exchange)
        our_id = json.dumps(json.loads(asked)["id"]).encode()
        assert our_id != b'"q"'
        assert rig.bridge.statistics().questions == 1
        for _ in range(2):
            await rig.bridge.reply(_response(_answer(our_id)))
        assert rig.child.stdin.lines[1:] == [_answer(b'"q"')]
        assert rig.bridge.statistics().questions == 0


async def test_an_answer_to_nothing_does_not_reach_the_child() -> None:
    """Our rule: ids of questions are unguessable, and an unknown one is dropped."""
    async with _bridged() as rig:
        await rig.child.says(_question(b"5"))
        for identifier in (b"5", b'"5"', b"null", b'""'):
            await rig.bridge.reply(_response(_answer(identifier)))
        assert rig.child.stdin.lines == []


async def test_questions_over_the_bound_are_refused_to_the_child() -> None:
    """Our bound."""
    async with _bridged(max_questions=2) as rig:
        exchange, _ = await rig.call()
        await rig.child.says(_question(b"5"), _question(b"6"), _question(b'"7"'))
        first, _ = await _waiting(exchange)
        refused = json.loads(rig.child.stdin.lines[-1])
        assert refused["id"] == "7"
        assert refused["error"]["code"] == INTERNAL_ERROR
        await rig.bridge.reply(_response(_answer(json.dumps(json.loads(first)["id"]).encode())))
        await rig.child.says(_question(b"8"))
        assert _is_question(await _waiting(exchange))


async def test_a_question_that_cannot_even_be_refused_is_counted() -> None:
    """Our rule: the reader of the child's stdout never waits for its stdin."""
    async with _bridged(max_questions=0) as rig:
        rig.child.stdin.fill()
        await rig.child.says(_question(b"5"))
        assert rig.bridge.statistics().dropped_messages == 1


async def test_a_ping_is_answered_here_when_nobody_else_is() -> None:
    """MCP 2025-11-25, basic/utilities/ping: the receiver MUST respond promptly."""
    async with _bridged() as rig:
        await rig.child.says(_question(b'"p"', b"ping"))
        assert rig.child.stdin.lines == [_answer(b'"p"')]
        assert await _waiting(rig.bridge.listen()) == []


@pytest.mark.parametrize("who", ["call", "get"])
async def test_a_ping_is_the_clients_to_answer_when_it_is_there(who: str) -> None:
    async with _bridged() as rig:
        stream = rig.bridge.listen() if who == "get" else (await rig.call())[0]
        await rig.child.says(_question(b"5", b"ping"))
        (ping,) = await _waiting(stream)
        await rig.bridge.reply(_response(_answer(json.dumps(json.loads(ping)["id"]).encode())))
        assert rig.child.stdin.lines[-1] == _answer(b"5")


@pytest.mark.parametrize("how", ["the client goes", "the call never reached the child"])
async def test_a_question_that_was_not_read_is_asked_again_or_refused(how: str) -> None:
    """Our rule: no question of a child just vanishes."""
    async with _bridged() as rig:
        if how == "the client goes":
            exchange, _ = await rig.call()
            await rig.child.says(_question(b"5"))
            rig.bridge.release(exchange)
        else:
            rig.child.stdin.fill()
            calling = asyncio.create_task(rig.call())
            await asyncio.sleep(0)
            await rig.child.says(_question(b"5"))
            calling.cancel()
            await asyncio.wait({calling})
            rig.child.stdin.drain()
        asked_again = _is_question(await _waiting(rig.bridge.listen()))
        assert asked_again or b'"id":5' in rig.child.stdin.lines[-1]


async def test_a_question_that_the_backlog_dropped_is_refused_to_the_child() -> None:
    """Our rule: no question of a child just vanishes."""
    async with _bridged(max_backlog_messages=1) as rig:
        await rig.child.says(_question(b"5"), _CHANGED % 1)
        assert rig.bridge.statistics().questions == 0
        assert json.loads(rig.child.stdin.lines[-1])["id"] == 5


# Lines that are no messages.


async def test_lines_that_are_no_json_rpc_are_counted_logged_once_and_harmless(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Our rule: a server with a banner is common."""
    banner = b"Welcome to my server!" + b"!" * BAD_LINE_BYTES
    bad = [banner, b"{", b"[1]", b'{"jsonrpc":"1.0"}', b"\xff\xfe", b"[" * 10_000, b"0"]
    async with _bridged() as rig:
        exchange, child_id = await rig.call()
        with caplog.at_level(logging.DEBUG, "stdio_broker.bridge"):
            await rig.child.says(*bad, b"", b"  \r", _answer(child_id))
        assert await _waiting(exchange) == [_answer(b"1")]
        assert rig.bridge.statistics().bad_lines == len(bad)
        assert rig.bridge.first_bad_line == banner[:BAD_LINE_BYTES].decode()
    assert [record.getMessage() for record in caplog.records] == ["child.not_json_rpc"]
    assert "Welcome" not in str(vars(caplog.records[0])), "the child's text does not belong in a log"


async def test_a_line_with_a_stray_byte_is_repaired_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Our rule: a result with a stray Latin-1 byte is still an answer that somebody waits for."""
    async with _bridged() as rig:
        exchanges = [await rig.call(b"%d" % number) for number in range(2)]
        with caplog.at_level(logging.DEBUG, "stdio_broker.bridge"):
            for _, child_id in exchanges:
                await rig.child.says(_answer(child_id, b'"caf\xe9"'))
        for number, (exchange, _) in enumerate(exchanges):
            assert await _waiting(exchange) == [_answer(b"%d" % number, '"caf\ufffd"'.encode())]
        assert rig.bridge.statistics().repaired_lines == 2
        assert rig.bridge.statistics().bad_lines == 0
    assert [record.getMessage() for record in caplog.records] == ["child.invalid_utf8"]


@given(lines=st.lists(st.binary(max_size=60).filter(lambda line: b"\n" not in line), max_size=5))
async def test_no_line_stops_the_reader(lines: list[bytes]) -> None:
    async with _bridged() as rig:
        exchange, child_id = await rig.call()
        await rig.child.says(*lines, _answer(child_id))
        assert await _waiting(exchange) == [_answer(b"1")]


@pytest.mark.parametrize("end", ["head", "tail"])
async def test_an_over_long_answer_fails_its_call_and_no_other(end: str) -> None:
    """Our bound; protocol.md 2.2: the exchange must not hang."""
    async with _bridged() as rig:
        exchange, child_id = await rig.call(b'"mine"')
        other, other_id = await rig.call(b"2")
        cut = b'{"result":{"text":"xxx', b'xxx"},"jsonrpc":"2.0","id":' + child_id + b"}"
        if end == "head":
            cut = b'{"jsonrpc":"2.0","id":' + child_id + b',"result":{"text":"xxx', b'xxx"}}'
        await rig.child.says(OversizeLine(70_000_000, *cut), _answer(other_id))
        (answer,) = await _waiting(exchange)
        error = json.loads(answer)
        assert error["id"] == "mine"
        assert error["error"]["code"] == INTERNAL_ERROR
        assert error["error"]["data"] == {"reason": "answer too long", "bytes": 70_000_000}
        assert "70000000 bytes" in error["error"]["message"]
        assert await _waiting(other) == [_answer(b"2")]
        assert rig.bridge.statistics().oversize_lines == 1


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        (b'{"jsonrpc":"2.0","id":99,"result":[', b"]}"),
        (b'{"jsonrpc":"2.0","method":"notifications/message","params":[', b"]}"),
        (b'{"method":"sampling/createMessage","params":[', b'],"jsonrpc":"2.0","id":1}'),
        (b"xxx", b"xxx"),
    ],
    ids=["unknown id", "notification", "question of the same number", "no JSON"],
)
async def test_any_other_over_long_line_is_counted_and_harmless(head: bytes, tail: bytes) -> None:
    async with _bridged() as rig:
        exchange, child_id = await rig.call()
        assert child_id == b"1"
        await rig.child.says(OversizeLine(70_000_000, head, tail), _answer(child_id))
        assert await _waiting(exchange) == [_answer(b"1")]
        assert rig.bridge.statistics().oversize_lines == 1


# The end of the child.


@pytest.mark.parametrize(
    ("status", "words", "facts"),
    [
        (ExitStatus(code=3, signal=None), "exited with code 3", {"exitCode": 3}),
        (ExitStatus(code=None, signal=signal.SIGSEGV), "ended by SIGSEGV", {"signal": 11}),
        (ExitStatus(code=None, signal=None), "unknown status", {}),
    ],
    ids=["code", "signal", "unknown"],
)
async def test_the_end_of_the_child_fails_every_open_call_at_once_and_says_how(
    status: ExitStatus, words: str, facts: dict[str, int]
) -> None:
    """design.md 4: one JSON-RPC error per open exchange, at once, with exit status, never stderr text."""
    async with _bridged() as rig:
        exchanges = [(await rig.call(b'"%d"' % number))[0] for number in range(3)]
        get = rig.bridge.listen()
        await rig.ends(status)
        for number, exchange in enumerate(exchanges):
            (answer,) = await _waiting(exchange)
            error = json.loads(answer)
            assert error["id"] == str(number)
            assert error["error"]["code"] == INTERNAL_ERROR
            assert words in error["error"]["message"]
            assert error["error"]["data"] == {"reason": "server process ended", "retryable": False, **facts}
            assert exchange.complete
        with pytest.raises(StreamEnded):
            await get.receive(1)
        assert not rig.busy()
        assert rig.idle


async def test_what_the_child_said_last_is_delivered_before_its_end() -> None:
    async with _bridged() as rig:
        answered, child_id = await rig.call(b"1")
        failed, _ = await rig.call(b"2")
        rig.child.stdout.feed(_LOG % 1, _answer(child_id))
        await rig.ends()
        assert await _waiting(answered) == [_LOG % 1, _answer(b"1")]
        assert "error" in json.loads((await _waiting(failed))[-1])


def test_a_child_that_closes_its_output_and_lives_on_fails_its_calls_after_a_moment() -> None:
    """Our rule: it is as good as dead to us."""

    async def main() -> None:
        async with _bridged() as rig:
            exchange, _ = await rig.call()
            rig.child.stdout.end()
            await rig.running
            assert asyncio.get_running_loop().time() == pytest.approx(EXIT_STATUS_TIMEOUT)
            (answer,) = await _waiting(exchange)
            assert json.loads(answer)["error"] == {
                "code": INTERNAL_ERROR,
                "message": "the server closed its output",
                "data": {"reason": "server closed its output", "retryable": False},
            }

    run_in_virtual_time(main())


async def test_a_bridge_whose_child_has_ended_takes_no_call_and_has_only_its_last_words() -> None:
    async with _bridged() as rig:
        await rig.child.says(_LOG % 1)
        await rig.ends(ExitStatus(code=3, signal=None))
        with pytest.raises(BridgeBroken, match="exited with code 3") as caught:
            await rig.call()
        assert caught.value.code == 3
        get = rig.bridge.listen()
        assert await _waiting(get) == [_LOG % 1]
        with pytest.raises(StreamEnded):
            await get.receive(1)
        with pytest.raises(ChildGone):
            await rig.bridge.notify(_notification(_LOG % 1))


async def test_a_call_that_waits_for_room_when_the_child_ends_fails() -> None:
    async with _bridged() as rig:
        rig.child.stdin.fill()
        calling = asyncio.create_task(rig.call())
        await asyncio.sleep(0)
        await rig.ends()
        with pytest.raises(ChildGone):
            await calling
        assert rig.bridge.statistics().calls == 0
        assert not rig.busy()


async def test_a_bridge_can_be_failed_while_its_child_lives() -> None:
    """A session that is deleted: its calls must not wait until the child has stopped."""
    async with _bridged() as rig:
        exchange, child_id = await rig.call()
        rig.bridge.fail(BridgeBroken("the session has ended", reason="session ended"))
        (answer,) = await _waiting(exchange)
        assert json.loads(answer)["error"] == {
            "code": INTERNAL_ERROR,
            "message": "the session has ended",
            "data": {"reason": "session ended", "retryable": False},
        }
        with pytest.raises(BridgeBroken, match="the session has ended"):
            await rig.call()
        await rig.child.says(_answer(child_id))
        assert await _waiting(exchange) == []
