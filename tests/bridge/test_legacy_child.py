"""What a legacy child is told for its modern clients; whose its questions are, and whose turn it is."""

from __future__ import annotations

import asyncio
import json

import pytest

from stdio_broker.bridge import Owner, Seal
from stdio_broker.bridge.legacy_child import MAX_UNSAID_LINES
from stdio_broker.errors import BridgeBroken, ChildGone, LimitReached, LocalProtocolError, RemoteProtocolError
from stdio_broker.protocol.capabilities import ClientCapabilities
from stdio_broker.protocol.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND
from stdio_broker.protocol.modern import ModernRequest
from stdio_broker.supervisor import ExitStatus
from stdio_broker.testing import FakeChild
from tests.bridge.legacy_rig import (
    PREFIX,
    SERVER,
    Json,
    Rig,
    in_virtual_time,
    initialized,
    initialized_by_test,
    legacy,
    message_bytes,
    messages_on,
    modern_request,
    only_on,
    question_of,
    repetition,
)

ENDED = {"reason": "server process ended", "retryable": True, "exitCode": 3}


# Handshake.


@pytest.mark.parametrize(
    ("capabilities", "declared"),
    [
        (ClientCapabilities(), {}),
        (ClientCapabilities(form=True), {"elicitation": {"form": {}}}),
        (ClientCapabilities(url=True), {"elicitation": {"url": {}}}),
        (ClientCapabilities(sampling=True, sampling_tools=True), {"sampling": {"tools": {}}}),
        (ClientCapabilities(sampling=True, roots=True), {"sampling": {}, "roots": {"listChanged": False}}),
    ],
)
@in_virtual_time
async def test_the_child_is_told_what_its_clients_can_be_asked(
    capabilities: ClientCapabilities, declared: Json
) -> None:
    """Protocol matrix, 4.1: one child for each fingerprint; never `tasks`; the broker's own clientInfo."""
    async with initialized_by_test(capabilities=capabilities) as rig:
        assert await initialized(rig, SERVER) is None
        initialize, told = rig.said
        assert initialize["params"] == {
            "protocolVersion": "2025-11-25",
            "capabilities": declared,
            "clientInfo": {"name": "broker", "version": "9"},
        }
        assert told == {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert rig.shared.agreement is not None
        assert rig.shared.agreement.revision.version == "2025-11-25"


@in_virtual_time
async def test_a_child_that_refuses_is_told_nothing_more() -> None:
    async with initialized_by_test() as rig:
        shaking = asyncio.create_task(rig.shared.initialize("broker", "9"))
        asked = json.loads(await rig.child.hears())
        await rig.says(id=asked["id"], error={"code": -32022, "message": "no"})
        error = await shaking
        assert error is not None
        assert bytes(error["code"]) == b"-32022"
        assert len(rig.said) == 1


@in_virtual_time
async def test_an_error_that_is_no_object_is_a_refusal_too() -> None:
    async with initialized_by_test() as rig:
        shaking = asyncio.create_task(rig.shared.initialize("broker", "9"))
        asked = json.loads(await rig.child.hears())
        await rig.says(id=asked["id"], error="no")
        assert await shaking == {}


@pytest.mark.parametrize("result", [{**SERVER, "protocolVersion": "1999-01-01"}, {}, []])
@in_virtual_time
async def test_a_version_that_we_do_not_speak_ends_the_handshake(result: Json) -> None:
    """MCP 2025-11-25, basic/lifecycle, "Version Negotiation"."""
    async with initialized_by_test() as rig:
        with pytest.raises(RemoteProtocolError):
            await initialized(rig, result)
        assert len(rig.said) == 1


@in_virtual_time
async def test_a_child_that_ends_instead_of_shaking_hands_is_noticed() -> None:
    async with initialized_by_test() as rig:
        shaking = asyncio.create_task(rig.shared.initialize("broker", "9"))
        await rig.child.hears()
        rig.child.exit(ExitStatus(code=3, signal=None))
        with pytest.raises(BridgeBroken):
            await shaking


@in_virtual_time
async def test_nothing_is_forwarded_before_the_handshake() -> None:
    """Protocol matrix, 4.1: all of it once per child, before the first client request is forwarded."""
    async with initialized_by_test() as rig:
        with pytest.raises(RuntimeError, match="initialized"):
            await rig.shared.call(modern_request())
        assert rig.said == []


# Methods.


@in_virtual_time
async def test_discovery_is_what_the_child_said_in_its_handshake() -> None:
    """Protocol matrix, 4.2; MCP 2026-07-28, server/discover."""
    server = {**SERVER, "instructions": "read", "x-member": 1}
    server["capabilities"] = {**SERVER["capabilities"], "tasks": {"list": {}}}
    async with legacy(server=server) as rig:
        before = len(rig.said)
        exchange, _ = await rig.call(modern_request("server/discover", {}, id="d"))
        assert await only_on(exchange) == {
            "jsonrpc": "2.0",
            "id": "d",
            "result": {
                "resultType": "complete",
                "supportedVersions": ["2026-07-28"],
                "capabilities": SERVER["capabilities"],
                "instructions": "read",
                "x-member": 1,
                "ttlMs": 0,
                "cacheScope": "private",
                "_meta": {f"{PREFIX}serverInfo": SERVER["serverInfo"]},
            },
        }
        assert exchange.complete
        assert len(rig.said) == before
        assert rig.is_empty()


@pytest.mark.parametrize(
    "method", ["tools/list", "prompts/list", "resources/list", "resources/templates/list", "vendor/any"]
)
@in_virtual_time
async def test_a_method_is_forwarded_without_what_only_a_modern_server_knows(method: str) -> None:
    """Protocol matrix, 4.2: vendor methods too; `_meta` of others stays."""
    async with legacy() as rig:
        request = modern_request(method, {"cursor": "c", "x": [1.5]}, id="7", token=["t"])
        exchange, child_id = await rig.call(request)
        assert rig.last() == {
            "jsonrpc": "2.0",
            "id": child_id,
            "method": method,
            "params": {"cursor": "c", "x": [1.5], "_meta": {"progressToken": child_id}},
        }
        await rig.says(id=child_id, result={"x-items": [1]})
        answer = await only_on(exchange)
        assert answer["id"] == "7"
        assert answer["result"]["x-items"] == [1]
        assert answer["result"]["resultType"] == "complete"
        assert ("ttlMs" in answer["result"]) is method.endswith("list")
        assert rig.is_empty()


@in_virtual_time
async def test_a_token_is_given_to_the_child_only_if_the_client_gave_one() -> None:
    """Protocol matrix, 4.4."""
    async with legacy() as rig:
        await rig.call()
        assert "_meta" not in rig.last()["params"]


@in_virtual_time
async def test_tools_are_listed_without_the_word_on_tasks() -> None:
    """Protocol matrix, 4.2."""
    async with legacy() as rig:
        exchange, child_id = await rig.call(modern_request("tools/list", {}))
        await rig.says(
            id=child_id, result={"tools": [{"name": "t", "execution": {"taskSupport": "optional"}}]}
        )
        assert (await only_on(exchange))["result"]["tools"] == [{"name": "t"}]


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
@in_virtual_time
async def test_tasks_of_a_legacy_server_are_not_those_of_the_extension(method: str) -> None:
    """Protocol matrix, 4.2 and 11."""
    async with legacy() as rig:
        before = len(rig.said)
        with pytest.raises(LocalProtocolError) as caught:
            await rig.shared.call(modern_request(method, {"taskId": "1"}, id="t"))
        assert caught.value.code == METHOD_NOT_FOUND
        assert caught.value.request_id == b'"t"'
        assert len(rig.said) == before


@pytest.mark.parametrize(("version", "has_context"), [("2025-03-26", False), ("2025-06-18", True)])
@in_virtual_time
async def test_a_completion_tells_its_context_to_a_child_that_knows_it(
    version: str, *, has_context: bool
) -> None:
    """MCP 2025-06-18, changelog; protocol matrix, 4.2."""
    async with legacy(server={**SERVER, "protocolVersion": version}) as rig:
        params: Json = {"ref": {}, "argument": {}, "context": {"arguments": {}}}
        await rig.call(modern_request("completion/complete", params))
        assert ("context" in rig.last()["params"]) is has_context


@pytest.mark.parametrize(("code", "told"), [(-32002, INVALID_PARAMS), (-32601, -32601), (-32000, -32000)])
@in_virtual_time
async def test_an_error_is_passed_on_with_a_code_that_a_modern_client_may_see(code: int, told: int) -> None:
    """Protocol matrix, 4.5; MCP 2026-07-28, basic, "Error Codes"."""
    async with legacy() as rig:
        exchange, child_id = await rig.call(modern_request("resources/read", {"uri": "x:"}))
        await rig.says(id=child_id, error={"code": code, "message": "no", "data": {"uri": "x:"}})
        error = (await only_on(exchange))["error"]
        assert error == {"code": told, "message": "no", "data": {"uri": "x:"}}
        assert exchange.error_code == told


@in_virtual_time
async def test_a_result_that_is_no_object_is_passed_on_as_it_is() -> None:
    async with legacy() as rig:
        exchange, child_id = await rig.call()
        await rig.says(id=child_id, result=[1])
        assert (await only_on(exchange))["result"] == [1]


@in_virtual_time
async def test_answers_reach_their_own_requests_with_ids_to_the_letter() -> None:
    """JSON-RPC 2.0, 5."""
    async with legacy() as rig:
        first, first_id = await rig.call(modern_request(id=1))
        second, second_id = await rig.call(modern_request(id="1"))
        await rig.answers(second_id, {"n": 2})
        await rig.answers(first_id, {"n": 1})
        assert [(await only_on(exchange))["id"] for exchange in (first, second)] == [1, "1"]


@in_virtual_time
async def test_calls_over_the_bound_are_refused() -> None:
    async with legacy(max_calls=2) as rig:
        _, child_id = await rig.call()
        await rig.call()
        with pytest.raises(LimitReached, match="2 calls"):
            await rig.call()
        await rig.answers(child_id)
        await rig.call()


@in_virtual_time
async def test_a_repetition_is_no_new_call_and_is_taken_where_no_new_one_is() -> None:
    async with legacy(max_calls=2) as rig:
        request = modern_request()
        exchange, child_id = await rig.call(request)
        await rig.asks("q")
        result = await rig.asked_of(exchange)
        await rig.call(modern_request("tools/list", {}))
        exchange, _ = await rig.call(repetition(request, result))
        await rig.answers(child_id)
        assert (await only_on(exchange))["result"]["resultType"] == "complete"


@in_virtual_time
async def test_the_tools_are_listed_for_headers_without_params_that_a_legacy_server_does_not_know() -> None:
    async with legacy() as rig:
        listing = asyncio.create_task(rig.shared.check_headers(modern_request(), ()))
        await asyncio.sleep(0.1)
        assert rig.last()["method"] == "tools/list"
        assert rig.last()["params"] == {}
        await rig.says(id=rig.last()["id"], result={"tools": []})
        await listing


# What it asks of everybody.


@in_virtual_time
async def test_a_ping_is_answered_by_us() -> None:
    """MCP 2025-11-25, basic/utilities/ping."""
    async with legacy() as rig:
        await rig.says(id="p", method="ping")
        assert rig.replies("p") == [{"jsonrpc": "2.0", "id": "p", "result": {}}]
        assert rig.asked == []


@in_virtual_time
async def test_what_no_client_has_a_method_for_is_refused() -> None:
    async with legacy() as rig:
        await rig.call()
        await rig.says(id="x", method="vendor/ask")
        (reply,) = rig.replies("x")
        assert reply["error"]["code"] == METHOD_NOT_FOUND
        assert "vendor/ask" in reply["error"]["message"]
        assert rig.asked == []


@in_virtual_time
async def test_other_notifications_are_counted() -> None:
    """Protocol matrix, 4.3: `notifications/elicitation/complete` has no counterpart."""
    async with legacy() as rig:
        exchange, _ = await rig.call()
        await rig.says(method="notifications/elicitation/complete", params={"elicitationId": "1"})
        assert rig.shared.unrelated_messages == 1
        assert await messages_on(exchange) == []


@in_virtual_time
async def test_a_child_that_asks_without_end_and_does_not_read_costs_a_bounded_number_of_lines() -> None:
    """Issue 4, "Done when" 6."""
    async with legacy() as rig:
        rig.child.stdin.fill()
        for number in range(MAX_UNSAID_LINES + 10):
            await rig.says(id=number, method="ping")
        heard = len(rig.said)
        rig.child.stdin.drain()
        await asyncio.sleep(1)
        assert len(rig.said) - heard == MAX_UNSAID_LINES
        await rig.says(id="again", method="ping")
        assert len(rig.replies("again")) == 1


# Whose question is it?


@in_virtual_time
async def test_a_question_while_several_calls_run_is_refused_in_words_and_counted() -> None:
    """Protocol matrix, 4.3 and 11; design decision 5."""
    async with legacy() as rig:
        first, _ = await rig.call()
        second, _ = await rig.call()
        await rig.asks("q")
        (reply,) = rig.replies("q")
        assert reply["error"]["code"] == INTERNAL_ERROR
        assert "cannot tell which request" in reply["error"]["message"]
        assert rig.shared.ambiguous_questions == 1
        assert await messages_on(first) == await messages_on(second) == []


@pytest.mark.parametrize("method", ["tools/list", "completion/complete", "vendor/any"])
@in_virtual_time
async def test_a_question_while_only_what_may_not_ask_runs_is_refused(method: str) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "Supported Requests"."""
    async with legacy() as rig:
        await rig.call(modern_request(method, {}))
        await rig.asks("q")
        assert rig.replies("q")[0]["error"]["code"] == INTERNAL_ERROR


@in_virtual_time
async def test_what_may_not_ask_makes_no_question_uncertain() -> None:
    async with legacy() as rig:
        exchange, _ = await rig.call(modern_request("prompts/get", {"name": "p"}))
        await rig.call(modern_request("tools/list", {}))
        await rig.asks("q")
        assert len((await rig.asked_of(exchange))["inputRequests"]) == 1


@in_virtual_time
async def test_a_question_while_nothing_runs_is_that_of_the_only_parked_call() -> None:
    """Ours: no other can be meant."""
    async with legacy() as rig:
        request = modern_request()
        exchange, _ = await rig.call(request)
        await rig.asks("q1")
        result = await rig.asked_of(exchange)
        await rig.asks("q2", text="more")
        exchange, _ = await rig.call(repetition(request, result))
        assert len(rig.replies("q1")) == 1
        again = await rig.asked_of(exchange)
        (question,) = again["inputRequests"].values()
        assert question["params"]["message"] == "more"


@in_virtual_time
async def test_a_question_while_several_calls_are_parked_is_refused() -> None:
    async with legacy(takes_turns=True) as rig:
        for number in (1, 2):
            exchange, _ = await rig.call()
            await rig.asks(number)
            await rig.asked_of(exchange)
        await rig.asks(3)
        assert rig.replies(3)[0]["error"]["code"] == INTERNAL_ERROR


@in_virtual_time
async def test_a_call_that_waits_for_nothing_any_more_may_be_the_one_that_asks() -> None:
    """Ours: the child has taken its question back, so it works on the call again; a second one runs."""
    async with legacy(takes_turns=True) as rig:
        exchange, _ = await rig.call()
        await rig.asks("q1")
        await rig.asked_of(exchange)
        await rig.call()
        await rig.says(method="notifications/cancelled", params={"requestId": "q1"})
        await rig.asks("q2")
        assert "cannot tell" in rig.replies("q2")[0]["error"]["message"]


@in_virtual_time
async def test_a_question_about_a_call_that_the_child_does_not_know_to_be_cancelled_is_nobody_elses() -> None:
    """Ours: the next call waits until the child has heard of the cancellation, which a ping tells."""
    async with legacy(takes_turns=True) as rig:
        first, first_id = await rig.call()
        second, _ = await rig.call()
        first.release()
        await asyncio.sleep(0)
        await rig.asks("q")
        assert "cancelled" in rig.replies("q")[0]["error"]["message"]
        assert rig.cancelled() == [first_id]
        assert len([line for line in rig.said if line.get("method") == "tools/call"]) == 1
        (ping,) = [line for line in rig.said if line.get("method") == "ping"]
        await rig.says(id=ping["id"], result={})
        await asyncio.sleep(0)
        assert rig.last()["method"] == "tools/call"
        await rig.asks("q2")
        await rig.asked_of(second)


@in_virtual_time
async def test_a_child_that_does_not_answer_a_ping_delays_the_next_call_only_so_long() -> None:
    async with legacy(takes_turns=True, query_timeout=3.0) as rig:
        first, _ = await rig.call()
        await rig.call()
        first.release()
        await asyncio.sleep(2.9)
        assert rig.last()["method"] == "ping"
        await asyncio.sleep(0.2)
        assert rig.last()["method"] == "tools/call"


@in_virtual_time
async def test_a_child_that_can_ask_nothing_is_sent_no_ping() -> None:
    async with legacy(capabilities=ClientCapabilities()) as rig:
        exchange, child_id = await rig.call()
        exchange.release()
        await asyncio.sleep(1)
        assert rig.cancelled() == [child_id]
        assert rig.last()["method"] == "notifications/cancelled"
        assert rig.is_empty()


# Turns.


@in_virtual_time
async def test_calls_run_side_by_side_until_the_first_question() -> None:
    """Protocol matrix, 4.3, "optimistic"; design decision 5."""
    async with legacy() as rig:
        first, first_id = await rig.call()
        await rig.asks("q")
        assert rig.asked == [True]
        _, second_id = await rig.call()
        assert second_id is None
        await rig.asked_of(first)
        assert rig.last()["method"] == "tools/call"
        await rig.asks("q2")
        assert rig.asked == [True]
        assert first_id != rig.last()["id"]


@in_virtual_time
async def test_a_call_starts_when_the_one_before_it_ends() -> None:
    async with legacy(takes_turns=True) as rig:
        first, first_id = await rig.call()
        second, second_id = await rig.call(modern_request(params={"name": "second"}))
        third, third_id = await rig.call(modern_request(params={"name": "third"}))
        assert second_id is third_id is None
        await rig.answers(first_id)
        assert rig.last()["params"] == {"name": "second"}
        second.release()
        await asyncio.sleep(0.1)
        assert rig.last()["method"] == "ping"
        await rig.answers(rig.last()["id"], {})
        await asyncio.sleep(0.1)
        assert rig.last()["params"] == {"name": "third"}
        await rig.answers(rig.last()["id"], {"n": 3})
        assert (await only_on(third))["result"]["n"] == 3
        assert len(await messages_on(first)) == 1
        assert rig.is_empty()


@in_virtual_time
async def test_what_may_not_ask_waits_for_no_turn() -> None:
    async with legacy(takes_turns=True) as rig:
        await rig.call()
        _, child_id = await rig.call(modern_request("tools/list", {}))
        assert child_id is not None


@in_virtual_time
async def test_a_call_that_waits_for_its_turn_and_loses_its_client_is_never_mentioned() -> None:
    """MCP 2025-11-25, basic/utilities/cancellation: only what was issued before is cancelled."""
    async with legacy(takes_turns=True) as rig:
        _, first_id = await rig.call()
        second, _ = await rig.call()
        before = len(rig.said)
        second.release()
        await rig.answers(first_id)
        await asyncio.sleep(1)
        assert len(rig.said) == before
        assert rig.is_empty()


@in_virtual_time
async def test_what_is_resumed_goes_before_what_is_new() -> None:
    """Ours: it is nearer to its end, and the child may wait for it."""
    async with legacy(takes_turns=True) as rig:
        parked, running = await _parked_and_running(rig)
        await rig.call(modern_request(params={"name": "new"}))
        await rig.call(repetition(*parked))
        assert rig.replies("q") == []
        await rig.answers(running)
        assert len(rig.replies("q")) == 1
        assert all(line.get("params") != {"name": "new"} for line in rig.said)


@in_virtual_time
async def test_answers_wait_so_long_for_their_turn_and_no_longer() -> None:
    """Ours, `turn_patience`: a child that does one thing at a time would wait for ever."""
    async with legacy(takes_turns=True, turn_patience=5.0) as rig:
        parked, running = await _parked_and_running(rig)
        exchange, _ = await rig.call(repetition(*parked))
        await asyncio.sleep(4.9)
        assert rig.replies("q") == []
        await asyncio.sleep(0.2)
        assert len(rig.replies("q")) == 1
        await rig.asks("who")
        assert "cannot tell" in rig.replies("who")[0]["error"]["message"]
        await rig.answers(running - 1)
        assert (await only_on(exchange))["result"]["resultType"] == "complete"


@in_virtual_time
async def test_a_resumed_call_whose_client_goes_before_its_turn_has_its_questions_refused() -> None:
    async with legacy(takes_turns=True) as rig:
        parked, running = await _parked_and_running(rig)
        exchange, _ = await rig.call(repetition(*parked))
        exchange.release()
        await asyncio.sleep(0)
        assert "error" in rig.replies("q")[0]
        assert rig.cancelled() == [running - 1]


@in_virtual_time
async def test_a_question_taken_back_while_its_answer_waits_is_not_answered() -> None:
    async with legacy(takes_turns=True) as rig:
        parked, running = await _parked_and_running(rig)
        await rig.call(repetition(*parked))
        await rig.says(method="notifications/cancelled", params={"requestId": "other"})
        await rig.says(method="notifications/cancelled", params={"requestId": "q"})
        await rig.answers(running)
        await asyncio.sleep(10)
        assert rig.replies("q") == []


@in_virtual_time
async def test_a_child_that_answers_a_call_whose_answers_wait_gets_them_refused() -> None:
    async with legacy(takes_turns=True) as rig:
        parked, running = await _parked_and_running(rig)
        exchange, _ = await rig.call(repetition(*parked))
        await rig.answers(running - 1, {"n": 1})
        assert (await only_on(exchange))["result"]["n"] == 1
        await asyncio.sleep(10)
        assert len(rig.replies("q")) == 1


async def _parked_and_running(rig: Rig) -> tuple[tuple[ModernRequest, Json], int]:
    """Return a parked call that has asked "q", and the id of another one that runs."""
    request = modern_request()
    exchange, _ = await rig.call(request)
    await rig.asks("q")
    result = await rig.asked_of(exchange)
    _, running = await rig.call()
    return (request, result), running


# Log levels.


@in_virtual_time
async def test_the_level_is_set_once_for_each_change() -> None:
    """Protocol matrix, 4.4."""
    async with legacy() as rig:
        for level in (None, "info", "info", "error", None, "error", "nonsense"):
            await rig.call(modern_request("tools/list", {}, level=level))
        levels = [line["params"]["level"] for line in rig.said if line["method"] == "logging/setLevel"]
        assert levels == ["info", "error"]
        assert rig.shared.calls == 7, "nobody waits for the answer to what we ask on our own account"


@in_virtual_time
async def test_a_child_that_does_not_log_is_told_no_level() -> None:
    async with legacy(server={**SERVER, "capabilities": {}}) as rig:
        await rig.call(modern_request(level="info"))
        assert rig.last()["method"] == "tools/call"


@pytest.mark.parametrize(
    ("wanted", "level", "comes"),
    [
        (None, "emergency", False),
        ("info", "debug", False),
        ("info", "info", True),
        ("info", "alert", True),
        ("info", "unheard of", True),
        ("nonsense", "emergency", False),
    ],
)
@in_virtual_time
async def test_a_log_message_comes_only_to_who_asked_for_its_level(
    wanted: str | None, level: str, *, comes: bool
) -> None:
    """MCP 2026-07-28, server/utilities/logging: MUST NOT without `logLevel`."""
    async with legacy() as rig:
        exchange, _ = await rig.call(modern_request(level=wanted))
        await rig.says(method="notifications/message", params={"level": level, "data": 1, "x": None})
        messages = await messages_on(exchange)
        assert [message["params"] for message in messages] == [{"level": level, "data": 1, "x": None}] * comes
        assert rig.shared.dropped_logs == (not comes)


@in_virtual_time
async def test_a_log_message_that_could_be_of_two_calls_comes_to_none() -> None:
    """Protocol matrix, 4.4: exactly one running call, of any method."""
    async with legacy() as rig:
        exchange, _ = await rig.call(modern_request(level="debug"))
        await rig.call(modern_request("tools/list", {}))
        await rig.says(method="notifications/message", params={"level": "error", "data": 1})
        assert await messages_on(exchange) == []
        assert rig.shared.dropped_logs == 1


@in_virtual_time
async def test_a_log_message_while_a_cancelled_call_may_still_log_comes_to_none() -> None:
    async with legacy() as rig:
        gone, _ = await rig.call(modern_request("tools/list", {}, level="debug"))
        rig.child.stdin.fill()
        gone.release()
        await rig.says(method="notifications/message", params={"level": "error", "data": 1})
        assert rig.shared.dropped_logs == 1


@in_virtual_time
async def test_neither_parked_nor_waiting_calls_make_a_log_message_uncertain() -> None:
    async with legacy(takes_turns=True) as rig:
        first, _ = await rig.call(modern_request(level="debug"))
        await rig.asks("q")
        await rig.asked_of(first)
        second, _ = await rig.call(modern_request(level="debug"))
        third, _ = await rig.call(modern_request(level="debug"))
        await rig.says(method="notifications/message", params={"level": "error", "data": 1})
        assert [len(await messages_on(exchange)) for exchange in (second, third)] == [1, 0]


# Parking.


@in_virtual_time
async def test_calls_that_wait_for_answers_are_bounded_for_all_children_of_an_owner() -> None:
    """Protocol matrix, 4.3; issue 4, "Done when" 6."""
    owner = Owner(b"owner", Seal())
    async with legacy(owner=owner, max_parked=1) as one, legacy(owner=owner, max_parked=1) as other:
        request = modern_request()
        parked, _ = await one.call(request)
        await one.asks("q")
        result = await one.asked_of(parked)
        exchange, child_id = await other.call()
        await other.asks("q", text="too many")
        await asyncio.sleep(0.02)
        error = (await only_on(exchange))["error"]
        assert error["code"] == INTERNAL_ERROR
        assert error["data"] == {"reason": "too many parked calls", "retryable": True}
        assert "error" in other.replies("q")[0]
        assert other.cancelled() == [child_id]
        # The parked one goes on, asks again, and has not lost its place.
        again, _ = await one.call(repetition(request, result))
        await one.asks("q2")
        await one.asked_of(again)
        assert owner.parked == 1


@in_virtual_time
async def test_a_state_for_another_child_is_no_good() -> None:
    """Protocol matrix, 4.3: bound to the child."""
    owner = Owner(b"owner", Seal())
    async with legacy(owner=owner) as one, legacy(owner=owner) as other:
        request = modern_request()
        exchange, _ = await one.call(request)
        await one.asks("q")
        result = await one.asked_of(exchange)
        with pytest.raises(LocalProtocolError) as caught:
            await other.shared.call(repetition(request, result))
        assert caught.value.code == INVALID_PARAMS


@in_virtual_time
async def test_nobody_waits_while_a_call_is_parked_yet_the_child_owes_something() -> None:
    """Protocol matrix, D6: it must not be reaped; a shutdown need not wait for it."""
    async with legacy() as rig:
        exchange, _ = await rig.call()
        assert rig.shared.calls == 1
        await rig.asks("q")
        await rig.asked_of(exchange)
        assert rig.shared.calls == 0
        assert rig.shared.busy


@in_virtual_time
async def test_an_answer_that_came_while_its_call_was_parked_is_owed_until_it_is_fetched() -> None:
    """Ours: no other child has it, so the one that is replaced is kept as long."""
    async with legacy() as rig:
        request = modern_request()
        exchange, child_id = await rig.call(request)
        await rig.asks("q")
        result = await rig.asked_of(exchange)
        assert rig.shared.owed == 1
        await rig.answers(child_id)
        assert rig.shared.owed == 1
        settled = asyncio.create_task(rig.shared.wait_settled())
        await asyncio.sleep(0)
        assert not settled.done()
        fetched = await rig.shared.call(repetition(request, result))
        assert "result" in await only_on(fetched)
        await settled
        assert rig.shared.owed == 0


# The end of the child.


@in_virtual_time
async def test_the_end_of_the_child_is_told_to_everybody_at_once() -> None:
    """Protocol matrix, 2.2: -32603, with the reason and the exit status; nothing is repeated."""
    async with legacy(takes_turns=True) as rig:
        parked_request = modern_request()
        parked, _ = await rig.call(parked_request)
        await rig.asks("q1")
        result = await rig.asked_of(parked)
        finished_request = modern_request()
        finished, finished_id = await rig.call(finished_request)
        await rig.asks("q2")
        finished_result = await rig.asked_of(finished)
        await rig.answers(finished_id)
        running, _ = await rig.call()
        listing, _ = await rig.call(modern_request("tools/list", {}))
        waiting, _ = await rig.call()
        resumed_request = repetition(parked_request, result)
        resumed, _ = await rig.call(resumed_request)
        await rig.asks("q3")
        rig.child.exit(ExitStatus(code=3, signal=None))
        await rig.running
        for exchange in (running, listing, waiting, resumed):
            error = (await only_on(exchange))["error"]
            assert error["code"] == INTERNAL_ERROR
            assert error["data"] == ENDED
        for exchange in (parked, finished):
            assert await messages_on(exchange) == [], "they had their answers"
        assert rig.is_empty()
        assert not len(rig.shared.turns)
        for request, answer in ((parked_request, result), (finished_request, finished_result)):
            with pytest.raises(LocalProtocolError):
                await rig.shared.call(repetition(request, answer))
        with pytest.raises(BridgeBroken):
            await rig.shared.call(modern_request())


@in_virtual_time
async def test_a_call_that_waits_to_be_sent_is_refused_when_the_child_ends() -> None:
    async with legacy() as rig:
        rig.child.stdin.fill()
        sending = asyncio.create_task(rig.shared.call(modern_request()))
        await asyncio.sleep(0.1)
        rig.child.exit(ExitStatus(code=3, signal=None))
        with pytest.raises(ChildGone):
            await sending
        await rig.running
        assert rig.is_empty()


@in_virtual_time
async def test_a_call_whose_turn_comes_at_a_child_that_does_not_read_any_more_is_answered() -> None:
    async with legacy(takes_turns=True, child=FakeChild(ignores_eof=True)) as rig:
        _, first_id = await rig.call()
        second, _ = await rig.call()
        rig.child.stdin.close()
        await rig.answers(first_id)
        error = (await only_on(second))["error"]
        assert error["data"] == {"reason": "server is gone"}
        assert error["code"] == INTERNAL_ERROR


@in_virtual_time
async def test_a_client_that_goes_while_its_call_waits_to_be_sent_leaves_nothing() -> None:
    async with legacy() as rig:
        rig.child.stdin.fill()
        sending = asyncio.create_task(rig.shared.call(modern_request()))
        await asyncio.sleep(0.1)
        sending.cancel()
        await asyncio.wait([sending])
        rig.child.stdin.drain()
        await asyncio.sleep(0.1)
        assert [line["method"] for line in rig.said] == ["initialize", "notifications/initialized"]
        assert rig.is_empty()


@in_virtual_time
async def test_a_started_call_that_waits_to_be_sent_is_cancelled_behind_its_request() -> None:
    """Ours: its turn had come, and its client goes before the child has read it."""
    async with legacy(takes_turns=True) as rig:
        _, first_id = await rig.call()
        second, _ = await rig.call()
        rig.child.stdin.fill()
        await rig.answers(first_id)
        await asyncio.sleep(0.1)
        second.release()
        rig.child.stdin.drain()
        await asyncio.sleep(0.1)
        assert [line["method"] for line in rig.said[-3:]] == ["tools/call", "notifications/cancelled", "ping"]
        assert rig.cancelled() == [rig.said[-3]["id"]]


@in_virtual_time
async def test_on_idle_is_called_whenever_nothing_is_owed_any_more() -> None:
    async with legacy() as rig:
        exchange, child_id = await rig.call()
        rig.idle.clear()
        await rig.answers(child_id)
        assert rig.idle
        exchange, _ = await rig.call()
        rig.idle.clear()
        exchange.release()
        await asyncio.sleep(0)
        await rig.says(id=rig.last()["id"], result={})
        assert rig.idle
        assert rig.is_empty()


@in_virtual_time
async def test_questions_of_a_batch_are_taken_one_by_one() -> None:
    """MCP 2025-03-26, basic, "Batching": a child of that revision may."""
    async with legacy() as rig:
        exchange, _ = await rig.call()
        questions = [message_bytes(id=n, **question_of("?", "sampling/createMessage")) for n in (1, 2)]
        await rig.child.says(b"[" + b",".join(questions) + b"]")
        assert len((await rig.asked_of(exchange))["inputRequests"]) == 2


@in_virtual_time
async def test_a_child_that_does_not_read_any_more_can_still_ask() -> None:
    """Ours: what it asks gets no answer, and harms nobody."""
    async with legacy(child=FakeChild(ignores_eof=True)) as rig:
        rig.child.stdin.close()
        await rig.says(id="p", method="ping")
        await asyncio.sleep(0.1)
        assert rig.replies("p") == []


@in_virtual_time
async def test_a_child_that_was_given_up_is_told_nothing_more() -> None:
    async with legacy() as rig:
        rig.shared.fail(BridgeBroken("stopped", reason="stopped"))
        await rig.says(id="p", method="ping")
        await asyncio.sleep(0.1)
        assert rig.replies("p") == []
