"""The relay between modern clients and a modern child: what is swapped, filled and dropped, and no more."""

import asyncio
import gc
import json
import signal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stdio_broker.bridge import Owner, Seal, SharedExchange
from stdio_broker.bridge.modern_child import MAX_TASKS
from stdio_broker.bridge.modern_request import MAX_KEPT_BYTES
from stdio_broker.bridge.seal import MAX_STATE_CHARS
from stdio_broker.errors import BridgeBroken, ChildGone, LimitReached, LocalProtocolError
from stdio_broker.protocol.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS
from stdio_broker.protocol.modern import (
    CACHEABLE,
    META_SERVER_INFO,
    META_SUBSCRIPTION_ID,
    META_VERSION,
    Discovery,
)
from stdio_broker.supervisor import ExitStatus, OversizeLine
from stdio_broker.testing import FakeChild
from tests.protocol.strategies import ids, json_objects, json_values, meaning, rendered
from tests.support.clock import run_in_virtual_time

from .modern_rig import (
    Json,
    ModernRig,
    acknowledgement,
    answer,
    cancelled,
    listen_request,
    notification,
    progress,
    request,
    rigged,
    tagged,
    text,
    waiting,
    waiting_raw,
)

#: What is told of a child that has ended, besides how.
ENDED = {"reason": "server process ended", "retryable": True}

TOOLS_CHANGED = "notifications/tools/list_changed"
PROMPTS_CHANGED = "notifications/prompts/list_changed"
RESOURCES_CHANGED = "notifications/resources/list_changed"
UPDATED = "notifications/resources/updated"
LOG = notification("notifications/message", level="info", data="x")


def _error(message: Json, code: int = INTERNAL_ERROR) -> Json:
    """Return the error of an answer."""
    error: Json = message["error"]
    assert error["code"] == code
    return error


def _cancellations(rig: ModernRig) -> list[bytes]:
    """Return the ids of the requests that the child was told to stop."""
    seen = [json.loads(line) for line in rig.fake.stdin.lines]
    return [
        text(message["params"]["requestId"])
        for message in seen
        if message["method"] == "notifications/cancelled"
    ]


# Ids.


@given(identifiers=st.lists(ids, min_size=2, max_size=4), order=st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
async def test_every_answer_has_the_id_of_its_own_request_to_the_letter(
    identifiers: list[bytes], order: st.DataObject
) -> None:
    """protocol.md, 3: "1" is not 1, big integers stay as they are, and two clients may use the same id."""
    async with rigged() as rig:
        calls = [(identifier, *await rig.call(request(identifier))) for identifier in identifiers]
        assert len({child_id for _, _, child_id in calls}) == len(calls)
        for number in sorted(range(len(calls)), key=lambda _: order.random()):  # type: ignore[attr-defined] # Random
            await rig.fake.says(answer(calls[number][2], {"n": number}))
        for number, (identifier, exchange, _) in enumerate(calls):
            (message,) = await waiting_raw(exchange)
            members = msgspec.json.decode(message, type=dict[str, msgspec.Raw])
            assert bytes(members["id"]) == identifier
            assert json.loads(bytes(members["result"]))["n"] == number
            assert exchange.complete


async def test_ids_for_the_child_are_never_used_twice() -> None:
    """JSON-RPC 2.0, 4; MCP 2026-07-28, basic, "Requests"."""
    async with rigged() as rig:
        seen = []
        for _ in range(3):
            _, child_id = await rig.call(request(b"1"))
            await rig.fake.says(answer(child_id, {}))
            seen.append(child_id)
        assert len(set(seen)) == 3


async def test_an_answer_that_comes_twice_or_to_nothing_goes_nowhere() -> None:
    """JSON-RPC 2.0, 5: one answer to each request."""
    async with rigged() as rig:
        exchange, child_id = await rig.call()
        await rig.fake.says(answer(child_id, {"n": 1}), answer(child_id, {"n": 2}), answer(b"99", {}))
        assert [message["result"]["n"] for message in await waiting(exchange)] == [1]
        assert rig.idle == [True]


# What crosses.


@given(
    before=json_objects,
    extra=st.dictionaries(st.sampled_from(["x", "task", "inputResponses", "_x"]), json_values, max_size=3),
    meta=st.dictionaries(
        st.sampled_from(["traceparent", "baggage", "com.example/a"]), json_values, max_size=3
    ),
    method=st.sampled_from(["x/y", "tasks/get", "tools/list", "com.example/do"]),
)
@settings(max_examples=50, deadline=None)
async def test_what_we_do_not_understand_crosses_to_the_letter_both_ways(
    before: bytes, extra: dict[str, bytes], meta: dict[str, bytes], method: str
) -> None:
    """Protocol.md, D4 and 6.1: unknown methods, params, `_meta`, results and extensions."""
    params = [(text(name), value) for name, value in extra.items()]
    members = [
        *((text(name), value) for name, value in meta.items()),
        (text(META_VERSION), b'"2026-07-28"'),
        (b'"io.modelcontextprotocol/clientCapabilities"', b'{"extensions":{"x":{}}}'),
    ]
    sent = rendered([*params, (b'"_meta"', rendered(members))])
    asked = request(method=method)
    asked.members["params"] = msgspec.Raw(sent)
    asked.params = msgspec.json.decode(sent, type=dict[str, msgspec.Raw])
    async with rigged() as rig:
        exchange, child_id = await rig.call(asked)
        line = msgspec.json.decode(rig.fake.stdin.lines[-1], type=dict[str, msgspec.Raw])
        assert meaning(bytes(line["params"])) == meaning(b" ".join(sent.splitlines()))
        result = rendered([(b'"resultType"', b'"x"'), (b'"y"', before), *params])
        flat = b" ".join(result.splitlines())
        await rig.fake.says(answer(child_id, flat))
        (message,) = await waiting_raw(exchange)
        got = msgspec.json.decode(message, type=dict[str, msgspec.Raw])
        assert meaning(bytes(got["result"])) == meaning(flat)


async def test_unknown_members_of_the_envelope_cross_both_ways() -> None:
    """Protocol.md, D4."""
    async with rigged() as rig:
        asked = request()
        asked.members["x"] = msgspec.Raw(b"[1.50]")
        exchange, child_id = await rig.call(asked)
        assert b'"x":[1.50]' in rig.fake.stdin.lines[-1]
        await rig.fake.says(answer(child_id, b'{"a":1.0}')[:-1] + b',"y":2.50}')
        assert b'"y":2.50' in (await waiting_raw(exchange))[0]


async def test_what_was_read_is_what_is_sent() -> None:
    """Protocol.md, D4: a member that stands twice must not mean two things."""
    async with rigged() as rig:
        await rig.call(request(params=b'"name":"harmless","name":"harmful"'))
        assert b"harmless" not in rig.fake.stdin.lines[-1]


async def test_an_error_of_the_child_crosses_untouched_and_tells_its_code() -> None:
    """Protocol.md, 9: the status of the answer follows from the code."""
    async with rigged() as rig:
        exchange, child_id = await rig.call(request(b'"a"'))
        error = b'{"code":-32021,"message":"m","data":{"requiredCapabilities":{"x":1.50}}}'
        await rig.fake.says(b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (child_id, error))
        assert error in (await waiting_raw(exchange))[0]
        assert exchange.error_code == -32021


@pytest.mark.parametrize("error", [b'{"message":"m"}', b'{"code":"x"}', b'{"code":1.5}', b"{}"])
async def test_an_error_without_a_proper_code_is_an_error_all_the_same(error: bytes) -> None:
    """Ours: it crosses as it is."""
    async with rigged() as rig:
        exchange, child_id = await rig.call()
        await rig.fake.says(b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (child_id, error))
        assert error in (await waiting_raw(exchange))[0]
        assert exchange.error_code == 0


@pytest.mark.parametrize("result", [b"[]", b"7", b'"x"', b"null"])
async def test_a_result_that_is_no_object_crosses_as_it_is(result: bytes) -> None:
    """Ours: it is wrong, and the client's to judge."""
    async with rigged() as rig:
        exchange, child_id = await rig.call()
        await rig.fake.says(answer(child_id, result))
        assert b'"result":' + result in (await waiting_raw(exchange))[0]
        assert exchange.error_code is None


# What is filled in.

INFO = {"name": "mcp-child", "version": "1"}


async def _discovered(rig: ModernRig, **members: object) -> None:
    discovering = asyncio.create_task(rig.child.discover("broker", "2"))
    line = json.loads(await rig.fake.hears())
    result = {"supportedVersions": ["2026-07-28"], "capabilities": {}, "_meta": {META_SERVER_INFO: INFO}}
    await rig.fake.says(answer(text(line["id"]), result | members))
    assert isinstance(await discovering, Discovery)


@pytest.mark.parametrize("method", [*sorted(CACHEABLE), "tools/call", "x/y"])
async def test_what_a_sloppy_child_leaves_out_is_filled_in(method: str) -> None:
    """MCP 2026-07-28, basic, "Responses", and server/utilities/caching; protocol.md, 6.1."""
    async with rigged() as rig:
        await _discovered(rig)
        exchange, child_id = await rig.call(request(method=method))
        await rig.fake.says(answer(child_id, {"x": 1}))
        (message,) = await waiting(exchange)
        cached = {"ttlMs": 0, "cacheScope": "private"} if method in CACHEABLE else {}
        expected = {"x": 1, "resultType": "complete", "_meta": {META_SERVER_INFO: INFO}, **cached}
        assert message["result"] == expected


@pytest.mark.parametrize("scope", ["public", "private", "odd", 7])
async def test_what_the_child_says_itself_is_never_overwritten(scope: object) -> None:
    """Protocol.md, 6.1: above all, `private` never becomes `public`."""
    async with rigged() as rig:
        await _discovered(rig)
        exchange, child_id = await rig.call(request(method="tools/list"))
        meta = {META_SERVER_INFO: {"name": "other"}, "x": 1}
        result = {"resultType": "complete", "ttlMs": 5, "cacheScope": scope, "_meta": meta, "tools": []}
        await rig.fake.says(answer(child_id, result))
        assert (await waiting(exchange))[0]["result"] == result


async def test_what_a_child_with_a_credential_answers_is_for_its_principal_only() -> None:
    """Identity reference, R16: a shared cache would give one user's list to another."""
    async with rigged(Owner(b"anna", Seal(), private=True)) as rig:
        await _discovered(rig)
        for scope, told in (("public", "private"), ("private", "private"), ("odd", "odd")):
            exchange, child_id = await rig.call(request(method="tools/list"))
            result = {"resultType": "complete", "ttlMs": 5, "cacheScope": scope, "tools": []}
            await rig.fake.says(answer(child_id, result))
            assert (await waiting(exchange))[0]["result"]["cacheScope"] == told


async def test_versions_that_only_the_child_speaks_are_not_offered() -> None:
    """peers.md, 1, field bug (a): what a client chooses must not be refused by our own HTTP side."""
    async with rigged() as rig:
        for versions, offered in (
            (["2099-01-01", "2026-07-28", "2025-11-25"], ["2026-07-28", "2025-11-25"]),
            (["2026-07-28"], ["2026-07-28"]),
            ("odd", "odd"),
        ):
            exchange, child_id = await rig.call(request(method="server/discover"))
            await rig.fake.says(answer(child_id, {"supportedVersions": versions, "x": 1}))
            (message,) = await waiting(exchange)
            assert (message["result"]["supportedVersions"], message["result"]["x"]) == (offered, 1)


# Progress and logs.


@given(token=st.one_of(ids, json_values))
@settings(max_examples=50, deadline=None)
async def test_progress_comes_back_under_the_token_of_the_client_to_the_letter(token: bytes) -> None:
    """MCP 2026-07-28, basic/patterns/progress; protocol.md, 3: type and value are restored."""
    flat = b" ".join(token.splitlines())
    async with rigged() as rig:
        asked = request(b"1")
        asked.progress_token = msgspec.Raw(flat)
        exchange, child_id = await rig.call(asked)
        (seen,) = [json.loads(line)["params"]["_meta"]["progressToken"] for line in rig.fake.stdin.lines]
        await rig.fake.says(progress(text(seen), 1), answer(child_id, {}), progress(text(seen), 2))
        told, _ = await waiting_raw(exchange)
        assert told == progress(flat, 1)


async def test_tokens_are_unique_at_the_child_and_progress_finds_its_own_call() -> None:
    """MCP 2026-07-28, basic/patterns/progress: tokens MUST be unique across active requests."""
    async with rigged() as rig:
        first, first_id = await rig.call(request(b"1", progressToken="same"))
        second, second_id = await rig.call(request(b"2", progressToken="same"))
        await rig.fake.says(progress(second_id, 2), progress(first_id, 1))
        assert [message["params"]["progress"] for message in await waiting(first)] == [1]
        assert [message["params"]["progress"] for message in await waiting(second)] == [2]


async def test_progress_that_nobody_asked_for_is_dropped() -> None:
    """MCP 2026-07-28, basic/patterns/progress: only with a token; nothing after the answer."""
    async with rigged() as rig:
        exchange, child_id = await rig.call(request())
        assert b"progressToken" not in rig.fake.stdin.lines[-1]
        odd = notification("notifications/progress")
        await rig.fake.says(progress(child_id), progress(b"99"), progress(b'"1"'), odd, progress(b"null"))
        assert await waiting(exchange) == []


async def test_a_log_message_goes_to_the_one_call_that_wants_logs() -> None:
    """MCP 2026-07-28, server/utilities/logging: MUST NOT without a logLevel; protocol.md, 6.1."""
    async with rigged() as rig:
        silent, _ = await rig.call(request(b"1"))
        wanting, _ = await rig.call(request(b"2", _logLevel="info"))
        await rig.fake.says(LOG)
        assert (await waiting(wanting))[0]["params"] == {"level": "info", "data": "x"}
        assert await waiting(silent) == []


@pytest.mark.parametrize("wanting", [0, 2])
async def test_a_log_message_that_may_be_of_several_calls_or_of_none_is_dropped_and_counted(
    wanting: int,
) -> None:
    """Protocol.md, 6.1: stdio has no field that tells."""
    async with rigged() as rig:
        exchanges = [(await rig.call(request(_logLevel="info")))[0] for _ in range(wanting)]
        exchanges.append((await rig.call(request()))[0])
        await rig.fake.says(LOG)
        assert [await waiting(exchange) for exchange in exchanges] == [[]] * (wanting + 1)
        assert rig.child.unrelated_messages == 1


@pytest.mark.parametrize(
    "line",
    [
        notification(TOOLS_CHANGED),
        notification("notifications/x"),
        notification("notifications/cancelled"),
        notification("notifications/cancelled", requestId=99),
        tagged(TOOLS_CHANGED, b"99"),
        b'{"jsonrpc":"2.0","method":"notifications/x","params":[]}',
    ],
)
async def test_what_belongs_to_nobody_is_dropped_and_counted(line: bytes) -> None:
    """MCP 2026-07-28, basic/transports/streamable-http: what is on a stream MUST relate to its request."""
    async with rigged() as rig:
        exchange, _ = await rig.call(request(_logLevel="info"))
        await rig.fake.says(line)
        assert await waiting(exchange) == []
        assert rig.child.unrelated_messages == 1


async def test_a_call_is_no_stream_of_changes_whatever_the_child_says() -> None:
    """MCP 2026-07-28, basic/patterns/cancellation: a server cancels streams of changes, and nothing else."""
    async with rigged() as rig:
        exchange, child_id = await rig.call()
        await rig.fake.says(tagged(TOOLS_CHANGED, child_id), cancelled(child_id))
        assert await waiting(exchange) == []
        assert rig.child.unrelated_messages == 2
        await rig.fake.says(answer(child_id, {"n": 1}))
        assert (await waiting(exchange))[0]["result"]["n"] == 1


async def test_a_child_that_asks_gets_no_answer() -> None:
    """MCP 2026-07-28, basic/transports/stdio: it MUST NOT ask, and MUST NOT be answered; protocol.md, 2.1."""
    async with rigged() as rig:
        exchange, child_id = await rig.call()
        before = list(rig.fake.stdin.lines)
        question = b'{"jsonrpc":"2.0","id":%b,"method":"%b"}'
        await rig.fake.says(question % (child_id, b"ping"), question % (b'"q"', b"elicitation/create"))
        assert rig.fake.stdin.lines == before
        assert rig.child.violations == 2
        assert await waiting(exchange) == []
        await rig.fake.says(answer(child_id, {}))
        assert len(await waiting(exchange)) == 1


# A client that goes, or does not read.


async def test_a_client_that_goes_cancels_its_call_and_the_late_answer_is_dropped() -> None:
    """MCP 2026-07-28, basic/patterns/cancellation: stdio MUST have `notifications/cancelled`."""
    async with rigged() as rig:
        exchange, child_id = await rig.call(request(progressToken=1))
        other, other_id = await rig.call()
        exchange.release()
        assert _cancellations(rig) == [child_id]
        await rig.fake.says(progress(child_id), answer(child_id, {}), answer(other_id, {}))
        assert await waiting(exchange) == []
        assert len(await waiting(other)) == 1
        assert rig.child.calls == 0


async def test_a_client_that_goes_after_its_answer_cancels_nothing() -> None:
    """MCP 2026-07-28, basic/patterns/cancellation: only what is in progress."""
    async with rigged() as rig:
        exchange, child_id = await rig.call()
        await rig.fake.says(answer(child_id, {}))
        exchange.release()
        exchange.release()
        assert _cancellations(rig) == []


async def test_a_call_that_is_cancelled_before_it_was_sent_is_not_sent() -> None:
    """Ours: what did not reach the child has not happened."""
    async with rigged() as rig:
        rig.fake.stdin.fill()
        calling = asyncio.create_task(rig.call())
        await asyncio.sleep(0)
        assert rig.child.busy
        calling.cancel()
        await asyncio.wait({calling})
        rig.fake.stdin.drain()
        assert rig.fake.stdin.lines == []
        assert not rig.child.busy


async def test_a_client_that_does_not_read_is_cut_and_its_call_cancelled() -> None:
    """Ours: one slow reader costs its own call only; it is told at the end of what it has."""
    async with rigged(max_stream_bytes=1000) as rig:
        exchange, child_id = await rig.call(request(b'"me"', progressToken=1))
        await rig.fake.says(*(progress(child_id, number) for number in range(100)))
        messages = await waiting(exchange)
        assert _error(messages[-1])["data"] == {"reason": "slow client"}
        assert messages[-1]["id"] == "me"
        numbers = [message["params"]["progress"] for message in messages[:-1]]
        assert numbers == list(range(len(numbers)))
        assert 0 < len(numbers) < 10
        assert _cancellations(rig) == [child_id]
        assert exchange.error_code == INTERNAL_ERROR
        await rig.fake.says(answer(child_id, {}))
        assert await waiting(exchange) == []


# Bounds and ends.


async def test_calls_over_the_bound_are_refused_until_one_is_over() -> None:
    """Ours: every table is bounded (style guide, "Data")."""
    async with rigged(max_calls=2) as rig:
        exchange, _ = await rig.call()
        await rig.call()
        with pytest.raises(LimitReached, match="2 calls"):
            await rig.call()
        exchange.release()
        await rig.call()


async def test_a_child_that_ends_fails_its_calls_at_once_with_how_it_ended() -> None:
    """Protocol.md, 2.2: -32603 with the reason and the exit status."""
    async with rigged() as rig:
        first, _ = await rig.call(request(b"7"))
        second, _ = await rig.call(request(b'"7"', progressToken=1))
        await rig.ends(ExitStatus(code=None, signal=signal.SIGSEGV))
        for exchange, identifier in ((first, 7), (second, "7")):
            (message,) = await waiting(exchange)
            assert message["id"] == identifier
            assert _error(message)["data"] == {**ENDED, "signal": signal.SIGSEGV}
            assert exchange.error_code == INTERNAL_ERROR
            exchange.release()
        assert _cancellations(rig) == []
        assert not rig.child.busy


async def test_a_child_that_has_ended_takes_no_call() -> None:
    """Ours: so that somebody may ask another one."""
    async with rigged() as rig:
        await rig.ends()
        with pytest.raises(BridgeBroken, match="exited with code 0"):
            await rig.call()
        assert rig.child.orphans == []


async def test_a_child_that_does_not_read_any_more_takes_no_call() -> None:
    """Ours: the same."""
    async with rigged() as rig:
        rig.fake.stdin.close()
        with pytest.raises(ChildGone):
            await rig.call()
        assert not rig.child.busy


async def test_an_answer_over_the_limit_on_a_line_is_told_in_words() -> None:
    """Protocol.md, 2.2: it costs that line only."""
    async with rigged() as rig:
        exchange, child_id = await rig.call(request(b'"big"'))
        head = b'{"jsonrpc":"2.0","id":%b,"result":{"x":"' % child_id
        await rig.fake.says(OversizeLine(length=123_456, head=head, tail=b'"}}'))
        (message,) = await waiting(exchange)
        assert message["id"] == "big"
        assert _error(message)["data"] == {"reason": "answer too long", "bytes": 123_456}


# requestState.

ASKED = b'"name":"ask","arguments":{"a":1}'


async def _asked(rig: ModernRig, state: str, params: bytes = ASKED, method: str = "tools/call") -> Json:
    """Return the result that asks, as the client gets it."""
    exchange, child_id = await rig.call(request(method=method, params=params))
    result = {"resultType": "input_required", "inputRequests": {"k": {"x": 1.5}}, "requestState": state}
    await rig.fake.says(answer(child_id, result))
    (message,) = await waiting(exchange)
    got: Json = message["result"]
    return got


def _with_state(state: str, params: bytes = ASKED) -> bytes:
    return params + b',"inputResponses":{"k":{"y":1.50}},"requestState":' + text(state)


@given(state=st.text(max_size=60))
@settings(max_examples=50, deadline=None)
async def test_the_servers_own_state_comes_back_to_the_byte(state: str) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr: opaque, and returned as it was."""
    async with rigged() as rig:
        result = await _asked(rig, state)
        assert result["requestState"] != state
        assert result["inputRequests"] == {"k": {"x": 1.5}}
        await rig.call(request(b"2", params=_with_state(result["requestState"])))
        line = json.loads(rig.fake.stdin.lines[-1])
        assert line["params"]["requestState"] == state
        assert line["params"]["inputResponses"] == {"k": {"y": 1.5}}


@pytest.mark.parametrize("arguments", [b'{"a":1}', b'{"a":"%b"}' % (b"x" * MAX_KEPT_BYTES)])
async def test_a_state_is_bound_to_its_arguments_however_long_they_are(arguments: bytes) -> None:
    """Ours: what is long is hashed at once and not kept, what is short is kept and hashed if need be."""
    async with rigged() as rig:
        params = b'"name":"ask","arguments":' + arguments
        state = (await _asked(rig, "s", params))["requestState"]
        other = b'"name":"ask","arguments":' + arguments[:-1] + b',"b":2}'
        await _is_refused(rig, _with_state(state, other))
        await rig.call(request(params=_with_state(state, params)))


async def test_nothing_of_a_call_is_left_to_the_garbage_collector() -> None:
    """Ours: looking for it takes long. What is over goes at once, whichever way it ended."""
    async with rigged() as rig:
        gc.collect()
        # What a failed example of an earlier test is kept by is not ours.
        before = {id(one) for one in gc.get_objects() if isinstance(one, SharedExchange)}
        gc.disable()
        try:
            answered, child_id = await rig.call()
            await rig.fake.says(answer(child_id, {}))
            await waiting(answered)
            left, _ = await rig.call()
            answered.release()
            left.release()
            del answered, left
            exchanges = [one for one in gc.get_objects() if isinstance(one, SharedExchange)]
            assert [one for one in exchanges if id(one) not in before] == []
        finally:
            gc.enable()


async def test_a_state_may_be_used_again_as_a_modern_server_says() -> None:
    """MCP 2026-07-28, basic/patterns/mrtr: whether a state is good once only is for the server to say."""
    async with rigged() as rig:
        state = (await _asked(rig, "s"))["requestState"]
        for _ in range(2):
            await rig.call(request(params=_with_state(state)))


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("tools/call", {"resultType": "complete", "requestState": "s"}),
        ("tools/call", {"requestState": "s"}),
        ("tools/call", {"resultType": "input_required", "requestState": 7}),
        ("tasks/get", {"resultType": "input_required", "requestState": "s"}),
    ],
)
async def test_what_is_no_state_of_a_question_is_left_alone(method: str, result: Json) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr: three methods, and one kind of result; the rest is opaque."""
    async with rigged() as rig:
        exchange, child_id = await rig.call(request(method=method, params=ASKED))
        await rig.fake.says(answer(child_id, result))
        assert (await waiting(exchange))[0]["result"]["requestState"] == result["requestState"]


async def test_a_member_of_that_name_of_another_method_crosses() -> None:
    """Protocol.md, D4."""
    async with rigged() as rig:
        await rig.call(request(method="x/y", params=b'"requestState":"mine"'))
        assert json.loads(rig.fake.stdin.lines[-1])["params"]["requestState"] == "mine"


async def _is_refused(rig: ModernRig, params: bytes) -> str:
    before = list(rig.fake.stdin.lines)
    with pytest.raises(LocalProtocolError) as caught:
        await rig.call(request(b"9", params=params))
    assert (caught.value.code, caught.value.request_id) == (INVALID_PARAMS, b"9")
    assert rig.fake.stdin.lines == before
    assert not rig.child.busy
    return str(caught.value)


async def test_every_state_that_is_no_good_gets_the_same_refusal_and_the_child_hears_nothing() -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "Server Requirements" 4 and 5; issue 4, done when 4."""
    seal = Seal()
    owner = Owner(b"owner", seal)
    async with rigged(owner) as rig, rigged(owner) as other, rigged(Owner(b"eve", seal)) as foreign:
        state = (await _asked(rig, "s"))["requestState"]
        bad = [
            _with_state("made up"),
            _with_state(""),
            _with_state(state[:-4]),
            _with_state(("B" if state[0] == "A" else "A") + state[1:]),
            _with_state("A" * (MAX_STATE_CHARS + 4)),
            _with_state(state, b'"name":"ask","arguments":{"a":2}'),
            _with_state(state, b'"name":"other","arguments":{"a":1}'),
            _with_state((await _asked(other, "s"))["requestState"]),
            _with_state((await _asked(foreign, "s"))["requestState"]),
        ]
        refusals = {await _is_refused(rig, params) for params in bad}
        assert refusals == {"Invalid or expired requestState: send the request again without it"}
        assert await _is_refused(foreign, _with_state(state)) in refusals


def test_a_state_ends_after_its_time() -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "Server Requirements": an expiry; ours: `state_timeout`."""

    async def main() -> None:
        async with rigged(state_timeout=60.0) as rig:
            state = (await _asked(rig, "s"))["requestState"]
            await asyncio.sleep(59.0)
            await rig.call(request(params=_with_state(state)))
            rig.fake.stdin.lines.clear()
            await asyncio.sleep(2.0)
            with pytest.raises(LocalProtocolError, match="Invalid or expired"):
                await rig.call(request(params=_with_state(state)))

    run_in_virtual_time(main())


async def test_a_state_that_we_could_not_take_back_is_not_handed_out() -> None:
    """Ours: else the client would answer questions for nothing, again and again."""
    async with rigged() as rig:
        exchange, child_id = await rig.call(request(b"5", params=ASKED))
        result = {"resultType": "input_required", "requestState": "x" * MAX_STATE_CHARS}
        await rig.fake.says(answer(child_id, result))
        (message,) = await waiting(exchange)
        assert message["id"] == 5
        assert _error(message)["data"] == {"reason": "requestState too long"}
        assert exchange.error_code == INTERNAL_ERROR
        longest = await _asked(rig, "x" * (MAX_STATE_CHARS * 3 // 4 - 200))
        await rig.call(request(params=_with_state(longest["requestState"])))


# Streams of changes.


async def test_the_acknowledgement_comes_first_and_everything_has_the_clients_own_id() -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions: first the acknowledgement, and the tag on all."""
    async with rigged() as rig:
        exchange, child_id = await rig.call(listen_request(b'"mine"', toolsListChanged=True))
        await rig.fake.says(
            tagged(TOOLS_CHANGED, child_id, too="early"),
            acknowledgement(child_id, toolsListChanged=True),
            tagged(TOOLS_CHANGED, child_id, x=[1]),
            answer(child_id, {"_meta": {META_SUBSCRIPTION_ID: json.loads(child_id)}}),
            tagged(TOOLS_CHANGED, child_id, too="late"),
        )
        first, second, last = await waiting(exchange)
        assert first["method"] == "notifications/subscriptions/acknowledged"
        assert first["params"]["notifications"] == {"toolsListChanged": True}
        assert second["params"]["x"] == [1]
        assert last["id"] == "mine"
        assert last["result"]["resultType"] == "complete"
        for part in (first["params"], second["params"], last["result"]):
            assert part["_meta"][META_SUBSCRIPTION_ID] == "mine"
        assert exchange.complete
        assert rig.child.unrelated_messages == 2


async def test_two_clients_that_listen_under_the_same_id_get_their_own_changes() -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions, "Multiple Concurrent Subscriptions"."""
    async with rigged() as rig:
        tools, tools_id = await rig.listens(b"1", toolsListChanged=True)
        prompts, prompts_id = await rig.listens(b"1", promptsListChanged=True)
        await rig.fake.says(tagged(PROMPTS_CHANGED, prompts_id), tagged(TOOLS_CHANGED, tools_id))
        assert [message["method"] for message in await waiting(tools)] == [TOOLS_CHANGED]
        assert [message["method"] for message in await waiting(prompts)] == [PROMPTS_CHANGED]


async def test_what_was_not_listened_for_does_not_come_whatever_the_child_says() -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions: MUST NOT; never progress or logs; unknown kinds pass."""
    async with rigged() as rig:
        asked = listen_request(b"1", resourcesListChanged=True, comExampleThings=["x"])
        asked.progress_token = msgspec.Raw(b"7")
        exchange, child_id = await rig.call(asked)
        assert json.loads(rig.fake.stdin.lines[-1])["params"]["notifications"]["comExampleThings"] == ["x"]
        await rig.fake.says(acknowledgement(child_id, resourcesListChanged=True))
        await waiting(exchange)
        await rig.fake.says(
            tagged(TOOLS_CHANGED, child_id),
            tagged(PROMPTS_CHANGED, child_id),
            tagged(UPDATED, child_id, uri="test:one"),
            tagged("notifications/message", child_id, level="info"),
            tagged("notifications/progress", child_id, progressToken=json.loads(child_id)),
            progress(child_id),
            LOG,
            tagged("notifications/com.example/thing", child_id),
            tagged(RESOURCES_CHANGED, child_id),
        )
        methods = [message["method"] for message in await waiting(exchange)]
        assert methods == ["notifications/com.example/thing", RESOURCES_CHANGED]
        assert rig.child.unrelated_messages == 7


async def test_a_part_of_a_resource_that_is_listened_for_is_told() -> None:
    """MCP 2026-07-28, schema, ResourceUpdatedNotificationParams: the URI may be of a sub-resource."""
    async with rigged() as rig:
        exchange, child_id = await rig.listens(resourceSubscriptions=["test:one"])
        await rig.fake.says(tagged(UPDATED, child_id, uri="test:one#part"))
        assert (await waiting(exchange))[0]["params"]["uri"] == "test:one#part"


@pytest.mark.parametrize("how", ["result", "cancelled"])
async def test_both_ways_in_which_a_child_may_end_a_stream_are_a_graceful_end(how: str) -> None:
    """Protocol.md, 6.1: patterns/subscriptions SHOULD a result, patterns/cancellation MUST cancelled."""
    async with rigged() as rig:
        exchange, child_id = await rig.listens(b'"mine"', toolsListChanged=True)
        await rig.fake.says(answer(child_id, {}) if how == "result" else cancelled(child_id))
        (message,) = await waiting(exchange)
        assert (message["id"], message["result"]["resultType"]) == ("mine", "complete")
        assert message["result"]["_meta"][META_SUBSCRIPTION_ID] == "mine"
        assert exchange.complete
        assert not rig.child.busy
        exchange.release()
        assert _cancellations(rig) == []


async def test_an_error_ends_a_stream_as_an_error() -> None:
    """JSON-RPC 2.0, 5."""
    async with rigged() as rig:
        exchange, child_id = await rig.listens(toolsListChanged=True)
        await rig.fake.says(b'{"jsonrpc":"2.0","id":%b,"error":{"code":-32601,"message":"m"}}' % child_id)
        assert _error((await waiting(exchange))[0], -32601)["message"] == "m"
        assert exchange.error_code == -32601


async def test_a_client_that_listens_no_more_is_told_to_the_child() -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions, "Cancellation"."""
    async with rigged() as rig:
        exchange, child_id = await rig.listens(toolsListChanged=True)
        assert rig.child.busy
        exchange.release()
        assert _cancellations(rig) == [child_id]
        await rig.fake.says(tagged(TOOLS_CHANGED, child_id), answer(child_id, {}))
        assert await waiting(exchange) == []
        assert not rig.child.busy


async def test_a_listener_that_does_not_read_is_cut_and_told_to_the_child() -> None:
    """Ours: one slow reader costs its own stream only."""
    async with rigged(max_stream_bytes=1000) as rig:
        exchange, child_id = await rig.listens(toolsListChanged=True)
        await rig.fake.says(*(tagged(TOOLS_CHANGED, child_id, n=number) for number in range(100)))
        messages = await waiting(exchange)
        assert _error(messages[-1])["data"] == {"reason": "slow client"}
        assert _cancellations(rig) == [child_id]


async def test_streams_of_changes_are_bounded_and_leave_room_for_calls() -> None:
    """Ours: every table is bounded (style guide, "Data")."""
    async with rigged(max_listeners=2) as rig:
        first, _ = await rig.listens(toolsListChanged=True)
        await rig.listens(toolsListChanged=True)
        with pytest.raises(LimitReached, match="2 streams"):
            await rig.call(listen_request(toolsListChanged=True))
        await rig.call()
        first.release()
        await rig.listens(toolsListChanged=True)


@pytest.mark.parametrize("wanted", [b"", b'"notifications":[]', b'"notifications":{"toolsListChanged":1}'])
async def test_a_listener_must_say_what_for(wanted: bytes) -> None:
    """MCP 2026-07-28, schema, SubscriptionsListenRequestParams."""
    async with rigged() as rig:
        with pytest.raises(LocalProtocolError) as caught:
            await rig.call(request(method="subscriptions/listen", params=wanted or None))
        assert caught.value.code == INVALID_PARAMS
        assert rig.fake.stdin.lines == []
        assert not rig.child.busy


async def test_streams_end_gracefully_when_we_end_them() -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions, "Graceful Closure"; the child is told (stdio)."""
    async with rigged() as rig:
        await _discovered(rig)
        call, _ = await rig.call()
        exchange, child_id = await rig.listens(b'"mine"', toolsListChanged=True)
        rig.child.end_listening()
        (message,) = await waiting(exchange)
        meta = {META_SUBSCRIPTION_ID: "mine", META_SERVER_INFO: INFO}
        assert (message["id"], message["result"]) == ("mine", {"resultType": "complete", "_meta": meta})
        assert _cancellations(rig) == [child_id]
        assert await waiting(call) == []
        assert rig.child.calls == 1


# A child that ends under a stream.


async def _adopted(exchange: SharedExchange, dead: ModernRig, heir: ModernRig) -> bytes:
    (orphan,) = dead.child.orphans
    assert orphan.exchange is exchange
    await heir.child.adopt(orphan)
    return heir.seen_id()


async def test_a_stream_goes_on_with_another_child_and_what_may_have_changed_is_told() -> None:
    """Protocol.md, 2.2: no second acknowledgement; MCP 2026-07-28: re-listen after a restart (stdio)."""
    wanted: Json = {
        "toolsListChanged": True,
        "promptsListChanged": True,
        "resourcesListChanged": True,
        "resourceSubscriptions": ["test:one", "test:two"],
    }
    async with rigged() as first, rigged() as second:
        exchange, _ = await first.listens(b'"mine"', **wanted)
        await first.ends()
        assert await waiting(exchange) == []
        assert exchange.open
        child_id = await _adopted(exchange, first, second)
        assert json.loads(second.fake.stdin.lines[-1])["params"]["notifications"] == wanted
        await second.fake.says(
            acknowledgement(child_id, **wanted),
            acknowledgement(child_id),
            tagged(TOOLS_CHANGED, child_id, n=1),
        )
        messages = await waiting(exchange)
        assert [(message["method"], message["params"].get("uri")) for message in messages] == [
            (TOOLS_CHANGED, None),
            (PROMPTS_CHANGED, None),
            (RESOURCES_CHANGED, None),
            (UPDATED, "test:one"),
            (UPDATED, "test:two"),
            (TOOLS_CHANGED, None),
        ]
        assert {message["params"]["_meta"][META_SUBSCRIPTION_ID] for message in messages} == {"mine"}
        exchange.release()
        assert _cancellations(second) == [child_id]


async def test_a_listener_that_cannot_take_what_may_have_changed_is_cut_once() -> None:
    """Ours: an answer is the last message of a stream, and there is one."""
    uris = [f"test:{number}" for number in range(50)]
    async with rigged(max_stream_bytes=1000) as first, rigged() as second:
        exchange, _ = await first.listens(resourceSubscriptions=uris)
        await first.ends()
        child_id = await _adopted(exchange, first, second)
        await second.fake.says(acknowledgement(child_id, resourceSubscriptions=uris))
        messages = await waiting(exchange)
        assert [message["method"] for message in messages[:-1]] == [UPDATED] * (len(messages) - 1)
        assert _error(messages[-1])["data"] == {"reason": "slow client"}
        assert _cancellations(second) == [child_id]


async def test_a_stream_without_an_acknowledgement_fails_with_its_child() -> None:
    """Protocol.md, 2.2: -32603 at once; and no child is tried again that ends of this very request."""
    async with rigged() as first, rigged() as second:
        early, _ = await first.call(listen_request(b"1", toolsListChanged=True))
        begun, _ = await first.listens(b"2", toolsListChanged=True)
        await first.ends()
        assert _error((await waiting(early))[0])["data"]["reason"] == "server process ended"
        await _adopted(begun, first, second)
        await second.ends()
        assert _error((await waiting(begun))[0])["data"]["reason"] == "server process ended"
        assert second.child.orphans == []


async def test_a_stream_whose_client_has_gone_is_left_to_nobody() -> None:
    """Ours: there is nobody to go on for."""
    async with rigged() as rig:
        exchange, _ = await rig.listens(toolsListChanged=True)
        exchange.release()
        await rig.ends()
        assert rig.child.orphans == []


async def test_a_client_that_goes_while_there_is_no_child_cancels_nothing() -> None:
    """Ours: the same."""
    async with rigged() as rig:
        exchange, _ = await rig.listens(toolsListChanged=True)
        await rig.ends()
        exchange.release()
        assert _cancellations(rig) == []
        assert not exchange.open


async def test_a_child_that_has_ended_adopts_nothing() -> None:
    """Ours: so that the stream is known to be lost."""
    async with rigged() as first, rigged() as second:
        await first.listens(toolsListChanged=True)
        await first.ends()
        await second.ends()
        with pytest.raises(BridgeBroken):
            await second.child.adopt(first.child.orphans[0])


# Tasks (SEP-2663): a child that owes one is not idle.


async def _exchanged(rig: ModernRig, method: str, params: bytes, result: Json) -> None:
    exchange, child_id = await rig.call(request(method=method, params=params))
    await rig.fake.says(answer(child_id, result))
    (message,) = await waiting(exchange)
    assert {**message["result"], **result} == message["result"]


def _task(status: object, **more: object) -> Json:
    return {"resultType": "task", "taskId": "t", "status": status, **more}


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_a_child_is_busy_until_its_task_is_over(status: str) -> None:
    """Protocol.md, D6: do not reap a child that owes a non-terminal task."""
    async with rigged() as rig:
        await _exchanged(rig, "tools/call", ASKED, _task("working"))
        assert rig.child.busy
        await _exchanged(rig, "tasks/get", b'"taskId":"t"', _task("input_required", resultType="complete"))
        assert rig.child.calls == 0
        assert rig.child.busy
        await _exchanged(rig, "tasks/get", b'"taskId":"t"', _task(status, resultType="complete"))
        owed = rig.child.busy
        assert not owed


async def test_a_child_is_settled_when_its_last_task_is_over() -> None:
    """Ours: no other child knows the task, so the one that is replaced sees it through."""
    async with rigged() as rig:
        await _exchanged(rig, "tools/call", ASKED, _task("working"))
        assert rig.child.owed == 1
        settled = asyncio.create_task(rig.child.wait_settled())
        await asyncio.sleep(0)
        assert not settled.done()
        await _exchanged(rig, "tasks/get", b'"taskId":"t"', _task("completed", resultType="complete"))
        async with asyncio.timeout(5):
            await settled
        assert rig.child.owed == 0


async def test_a_task_that_is_cancelled_is_owed_no_more() -> None:
    """SEP-2663, "tasks/cancel": its answer does not tell the status."""
    async with rigged() as rig:
        await _exchanged(rig, "tools/call", ASKED, _task("working"))
        await _exchanged(rig, "tasks/cancel", b'"taskId":"t"', {})
        assert not rig.child.busy


@pytest.mark.parametrize(
    ("method", "params", "result"),
    [
        ("tools/call", ASKED, {"resultType": "complete", "taskId": "t", "status": "working"}),
        ("tools/call", ASKED, {"resultType": "task", "status": "working"}),
        ("tasks/get", b'"taskId":7', {"status": "working"}),
        ("tasks/update", b'"taskId":"t"', {}),
        ("tasks/get", b'"taskId":"t"', {"status": 7}),
    ],
)
async def test_what_does_not_tell_of_a_task_makes_nobody_busy(
    method: str, params: bytes, result: Json
) -> None:
    """SEP-2663: a task has an id and a status; a result that is one says so."""
    async with rigged() as rig:
        await _exchanged(rig, method, params, result)
        assert not rig.child.busy


def test_a_task_that_nobody_asks_after_is_not_owed_for_ever() -> None:
    """Ours: its client may have forgotten it."""

    async def main() -> None:
        async with rigged(state_timeout=60.0) as rig:
            await _exchanged(rig, "tools/call", ASKED, _task("working"))
            await asyncio.sleep(59.0)
            owed = rig.child.busy
            await asyncio.sleep(2.0)
            assert (owed, rig.child.busy) == (True, False)

    run_in_virtual_time(main())


async def test_tasks_that_are_noted_are_bounded() -> None:
    """Ours: every table is bounded (style guide, "Data"); the one least asked after is forgotten."""
    async with rigged() as rig:
        for number in range(MAX_TASKS + 1):
            rig.child.note_task("tools/call", None, _members(_task("working", taskId=f"t{number}")))
        for number in range(1, MAX_TASKS + 1):
            assert rig.child.busy
            rig.child.note_task("tools/call", None, _members(_task("completed", taskId=f"t{number}")))
        owed = rig.child.busy
        assert not owed


def _members(result: Json) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(text(result), type=dict[str, msgspec.Raw])


# Discovery.


async def test_the_first_request_of_a_child_asks_what_it_speaks() -> None:
    """MCP 2026-07-28, basic/transports/stdio, "Backward Compatibility"; protocol.md, 2.1."""
    async with rigged() as rig:
        await _discovered(rig, instructions="be nice")
        (line,) = [json.loads(line) for line in rig.fake.stdin.lines]
        assert line["method"] == "server/discover"
        assert line["params"]["_meta"]["io.modelcontextprotocol/clientInfo"]["name"] == "broker"
        assert rig.child.discovery is not None
        assert bytes(rig.child.discovery.instructions or b"") == b'"be nice"'
        assert json.loads(bytes(rig.child.server_info or b"")) == INFO
        assert not rig.child.busy


async def test_a_child_that_is_not_modern_is_told_apart() -> None:
    """Protocol.md, 2.1: any error but -32022 is legacy."""
    async with rigged() as rig:
        discovering = asyncio.create_task(rig.child.discover("broker", "2"))
        child_id = text(json.loads(await rig.fake.hears())["id"])
        await rig.fake.says(b'{"jsonrpc":"2.0","id":%b,"error":{"code":-32601,"message":"m"}}' % child_id)
        assert await discovering is None
        assert rig.child.discovery is None


# Any order.


# Drawn beforehand: a draw within the loop that finds no more data ends a task of the test runner.
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["call", "progress", "answer", "go", "stray"]), st.integers(0, 29)),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=60, deadline=None)
async def test_any_order_of_calls_progress_answers_and_departures_mixes_nothing_up(
    steps: list[tuple[str, int]],
) -> None:
    """Issue 4: every answer with its own request, none lost, none twice, nothing after it."""
    async with rigged(fake=FakeChild()) as rig:
        running: dict[int, tuple[SharedExchange, bytes, list[int]]] = {}
        for number, (step, pick) in enumerate(steps):
            if step == "call" or not running:
                exchange, child_id = await rig.call(request(b"1", progressToken=number))
                running[number] = (exchange, child_id, [])
                continue
            chosen = sorted(running)[pick % len(running)]
            exchange, child_id, told = running[chosen]
            if step == "progress":
                told.append(number)
                await rig.fake.says(progress(child_id, number))
            elif step == "stray":
                await rig.fake.says(progress(b"999", number), answer(b"999", {}), LOG)
            elif step == "go":
                exchange.release()
                del running[chosen]
                await rig.fake.says(progress(child_id, number), answer(child_id, {"n": -1}))
                assert await waiting(exchange) == []
            else:
                await rig.fake.says(answer(child_id, {"n": chosen}), progress(child_id, number))
                *before, last = await waiting(exchange)
                del running[chosen]
                assert last["result"]["n"] == chosen
                assert [message["params"]["progress"] for message in before] == told
                assert all(message["params"]["progressToken"] == chosen for message in before)
        assert rig.child.calls == len(running)
