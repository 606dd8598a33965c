"""One call at a legacy child, over as many requests of a modern client as its questions take."""

from __future__ import annotations

import asyncio

import pytest

from stdio_broker.bridge import SharedExchange
from stdio_broker.errors import LocalProtocolError
from stdio_broker.protocol.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST
from stdio_broker.protocol.modern import MISSING_CAPABILITY, ModernRequest
from tests.bridge.legacy_rig import (
    Json,
    Rig,
    in_virtual_time,
    legacy,
    messages_on,
    modern_request,
    only_on,
    question_of,
    repetition,
)

PAGE: Json = {"mode": "url", "message": "Log in", "url": "https://x.example/", "elicitationId": "e1"}


async def parked(rig: Rig, request: ModernRequest, *questions: object) -> tuple[Json, object]:
    """Send a request and let the child ask; return what the client is asked, and the child's id."""
    exchange, child_id = await rig.call(request)
    for question in questions or ("q",):
        await rig.asks(question, text=f"about {question}")
    return await rig.asked_of(exchange), child_id


async def refused(rig: Rig, request: ModernRequest) -> str:
    """Send a repetition that is no good, and return why it is not."""
    with pytest.raises(LocalProtocolError) as caught:
        await rig.shared.call(request)
    assert caught.value.code == INVALID_PARAMS
    return str(caught.value)


# Asking.


@pytest.mark.parametrize(
    ("method", "params"),
    [("tools/call", {"name": "t"}), ("prompts/get", {"name": "p"}), ("resources/read", {"uri": "x:"})],
)
@in_virtual_time
async def test_a_question_becomes_a_result_that_asks_and_its_answer_goes_back(
    method: str, params: Json
) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "Basic Workflow"; protocol matrix, 4.3."""
    async with legacy() as rig:
        request = modern_request(method, params, id="first")
        exchange, child_id = await rig.call(request)
        await rig.says(
            id="q",
            method="elicitation/create",
            params={"message": "Who?", "requestedSchema": {}, "_meta": {"a": 1}, "task": {}, "x": None},
        )
        await asyncio.sleep(0.02)
        asking = await only_on(exchange)
        assert exchange.complete
        assert exchange.error_code is None
        assert asking["id"] == "first"
        result = asking["result"]
        assert result["resultType"] == "input_required"
        ((key, question),) = result["inputRequests"].items()
        assert question == {
            "method": "elicitation/create",
            "params": {"message": "Who?", "requestedSchema": {}, "x": None},
        }
        answer = {"action": "accept", "content": {"name": "Ada"}, "x": 1}
        exchange, sent = await rig.call(repetition(request, result, {key: answer}, id="second"))
        assert sent is None
        assert rig.last() == {"jsonrpc": "2.0", "id": "q", "result": answer}
        await rig.answers(child_id, {"n": 1})
        final = await only_on(exchange)
        assert (final["id"], final["result"]["n"]) == ("second", 1)
        assert rig.is_empty()


@in_virtual_time
async def test_roots_are_asked_for_without_params() -> None:
    """Protocol matrix, 4.3."""
    async with legacy() as rig:
        exchange, _ = await rig.call()
        await rig.says(id="q", method="roots/list", params={"_meta": {}})
        result = await rig.asked_of(exchange)
        assert list(result["inputRequests"].values()) == [{"method": "roots/list"}]


@in_virtual_time
async def test_what_is_asked_within_a_moment_is_asked_at_once() -> None:
    """Protocol matrix, 4.3: servers ask concurrently. `question_window` counts from the first."""
    async with legacy(question_window=0.01) as rig:
        exchange, _ = await rig.call()
        for pause, question in ((0.004, 1), (0.004, 2), (0.003, 3)):
            await rig.asks(question, text=str(question))
            await asyncio.sleep(pause)
        asked = (await only_on(exchange))["result"]["inputRequests"]
        assert len(set(asked)) == 3
        assert [question["params"]["message"] for question in asked.values()] == ["1", "2", "3"]


@in_virtual_time
async def test_a_call_that_asks_again_is_asked_about_again_under_new_keys_and_a_new_state() -> None:
    """Protocol matrix, 4.3: keys are unique over the life of the call."""
    async with legacy() as rig:
        request = modern_request()
        first, child_id = await parked(rig, request, "q1")
        exchange, _ = await rig.call(repetition(request, first))
        await rig.asks("q2")
        second = await rig.asked_of(exchange)
        assert first["inputRequests"].keys().isdisjoint(second["inputRequests"])
        assert first["requestState"] != second["requestState"]
        exchange, _ = await rig.call(repetition(request, second))
        await rig.answers(child_id)
        assert "result" in await only_on(exchange)
        assert [len(rig.replies(question)) for question in ("q1", "q2")] == [1, 1]


@in_virtual_time
async def test_more_questions_than_the_bound_are_refused_to_the_child() -> None:
    async with legacy(max_questions=2) as rig:
        result, _ = await parked(rig, modern_request(), 1, 2, 3)
        assert len(result["inputRequests"]) == 2
        assert rig.replies(3)[0]["error"]["code"] == INTERNAL_ERROR
        await rig.asks(4)
        assert rig.replies(4)[0]["error"]["code"] == INTERNAL_ERROR


@in_virtual_time
async def test_answers_that_come_with_no_state_are_no_answers() -> None:
    """Protocol matrix, 4.3, "Lossy or impossible": it is asked again."""
    async with legacy() as rig:
        await rig.call(modern_request(params={"name": "t", "inputResponses": {"k": {"action": "accept"}}}))
        assert rig.last()["params"] == {"name": "t"}


# Repeating.


@in_virtual_time
async def test_what_was_not_answered_is_asked_again_under_the_same_keys() -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "Error Handling": SHOULD ask again for what is missing."""
    async with legacy() as rig:
        request = modern_request()
        result, child_id = await parked(rig, request, "q1", "q2")
        key, other = result["inputRequests"]
        answers = {key: {"action": "decline"}, "unheard of": {"any": 1}}
        again_request = repetition(request, result, answers)
        exchange, _ = await rig.call(again_request)
        again = (await only_on(exchange))["result"]
        assert list(again["inputRequests"]) == [other]
        await asyncio.sleep(0)
        assert rig.replies("q1")[0]["result"] == {"action": "decline"}
        assert rig.replies("q2") == []
        exchange, _ = await rig.call(repetition(request, again, {}))
        third = (await only_on(exchange))["result"]
        assert list(third["inputRequests"]) == [other]
        exchange, _ = await rig.call(repetition(request, third))
        await rig.answers(child_id)
        assert (await only_on(exchange))["result"]["resultType"] == "complete"
        assert [len(rig.replies(question)) for question in ("q1", "q2")] == [1, 1]


@in_virtual_time
async def test_a_state_is_good_once() -> None:
    """Ours: of two repetitions one wins, also where not all was answered. Protocol matrix, 13.7."""
    async with legacy() as rig:
        request = modern_request()
        result, _ = await parked(rig, request, "q1", "q2")
        await rig.call(repetition(request, result, {}))
        assert "requestState" in await refused(rig, repetition(request, result))
        assert rig.replies("q1") == []


@in_virtual_time
async def test_a_state_of_an_answered_call_is_no_good_any_more() -> None:
    async with legacy() as rig:
        request = modern_request()
        result, child_id = await parked(rig, request)
        await rig.call(repetition(request, result))
        assert "requestState" in await refused(rig, repetition(request, result))
        await rig.answers(child_id)
        assert "requestState" in await refused(rig, repetition(request, result))


@in_virtual_time
async def test_a_state_is_good_for_its_own_request_only() -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "Server Requirements" 5."""
    async with legacy() as rig:
        request = modern_request(params={"name": "t", "arguments": {"a": 1}})
        result, _ = await parked(rig, request)
        other = modern_request(params={"name": "t", "arguments": {"a": 2}})
        assert "requestState" in await refused(rig, repetition(other, result))
        await rig.call(repetition(request, result))
        assert len(rig.replies("q")) == 1


@pytest.mark.parametrize(
    "answer", ["text", {"action": "maybe"}, {"content": {}}, {"action": "accept", "content": 1}]
)
@in_virtual_time
async def test_an_answer_that_is_none_is_refused_and_uses_nothing_up(answer: object) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "Error Handling"; protocol matrix, 13.6."""
    async with legacy() as rig:
        request = modern_request()
        result, _ = await parked(rig, request)
        (key,) = result["inputRequests"]
        await refused(rig, repetition(request, result, {key: answer}))
        assert rig.replies("q") == []
        await rig.call(repetition(request, result))
        assert len(rig.replies("q")) == 1


@in_virtual_time
async def test_the_answer_of_a_child_that_did_not_wait_is_there_at_once() -> None:
    """Protocol matrix, 13.6: it stays with the call."""
    async with legacy() as rig:
        request = modern_request()
        result, child_id = await parked(rig, request, "q1", "q2")
        await rig.answers(child_id, {"n": 1})
        await asyncio.sleep(0)
        assert ["error" in rig.replies(question)[0] for question in ("q1", "q2")] == [True, True]
        assert rig.shared.busy
        exchange, _ = await rig.call(repetition(request, result, id="late"))
        answer = await only_on(exchange)
        assert (answer["id"], answer["result"]["n"]) == ("late", 1)
        assert rig.is_empty()


@in_virtual_time
async def test_a_call_that_was_answered_while_parked_is_asked_nothing_more() -> None:
    async with legacy() as rig:
        _, child_id = await parked(rig, modern_request())
        await rig.answers(child_id)
        await rig.asks("late")
        assert "cannot tell" in rig.replies("late")[0]["error"]["message"]


@in_virtual_time
async def test_progress_has_the_token_of_the_request_that_runs() -> None:
    """MCP 2026-07-28, basic/patterns/progress; protocol matrix, 13.6."""
    async with legacy() as rig:
        request = modern_request(token="one")  # noqa: S106 - of progress
        exchange, child_id = await rig.call(request)
        progress = {"progressToken": child_id, "progress": 1, "x": None}
        await rig.says(method="notifications/progress", params=progress)
        assert [message["params"] for message in await messages_on(exchange)] == [
            {**progress, "progressToken": "one"}
        ]
        await rig.asks("q")
        result = await rig.asked_of(exchange)
        await rig.says(method="notifications/progress", params=progress)
        exchange, _ = await rig.call(repetition(request, result, token=2))
        await rig.says(method="notifications/progress", params=progress)
        await rig.says(method="notifications/progress", params={"progressToken": 99, "progress": 1})
        assert [message["params"]["progressToken"] for message in await messages_on(exchange)] == [2]
        await rig.asks("q2")
        exchange, _ = await rig.call(repetition(request, await rig.asked_of(exchange)))
        await rig.says(method="notifications/progress", params=progress)
        assert await messages_on(exchange) == []


# Capabilities.


@pytest.mark.parametrize(
    ("capabilities", "question", "required"),
    [
        ({}, question_of("?"), {"elicitation": {"form": {}}}),
        ({"elicitation": {"url": {}}}, question_of("?"), {"elicitation": {"form": {}}}),
        (
            {"elicitation": {}},
            {"method": "elicitation/create", "params": {"mode": "url"}},
            {"elicitation": {"url": {}}},
        ),
        ({"elicitation": {}}, question_of("?", "sampling/createMessage"), {"sampling": {}}),
        (
            {"sampling": {}},
            {"method": "sampling/createMessage", "params": {"tools": [{}]}},
            {"sampling": {"tools": {}}},
        ),
        ({}, {"method": "roots/list"}, {"roots": {}}),
    ],
)
@in_virtual_time
async def test_a_question_that_the_request_does_not_declare_ends_the_call(
    capabilities: Json, question: Json, required: Json
) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "Server Requirements" 7; protocol matrix, 4.3."""
    async with legacy() as rig:
        exchange, child_id = await rig.call(modern_request(capabilities=capabilities))
        await rig.says(id="q", **question)
        await asyncio.sleep(0.02)
        error = (await only_on(exchange))["error"]
        assert error["code"] == exchange.error_code == MISSING_CAPABILITY
        assert error["data"] == {"requiredCapabilities": required}
        assert rig.replies("q")[0]["error"]["code"] == INVALID_REQUEST
        assert rig.cancelled() == [child_id]
        await asyncio.sleep(20)
        assert rig.is_empty()


@in_virtual_time
async def test_all_that_is_missing_is_named() -> None:
    async with legacy() as rig:
        exchange, _ = await rig.call(modern_request(capabilities={}))
        await rig.asks(1)
        await rig.says(id=2, method="elicitation/create", params={"mode": "url", "message": "?"})
        await rig.asks(3, "sampling/createMessage")
        await asyncio.sleep(0.02)
        data = (await only_on(exchange))["error"]["data"]
        assert data == {"requiredCapabilities": {"elicitation": {"form": {}, "url": {}}, "sampling": {}}}


@in_virtual_time
async def test_the_capabilities_of_the_repetition_count() -> None:
    """Protocol matrix, 13.6: a repetition is a request of its own."""
    async with legacy() as rig:
        request = modern_request()
        result, child_id = await parked(rig, request, "q1", "q2")
        exchange, _ = await rig.call(repetition(request, result, {}, capabilities={"roots": {}}))
        error = (await only_on(exchange))["error"]
        assert error["data"] == {"requiredCapabilities": {"elicitation": {"form": {}}}}
        await asyncio.sleep(0)
        assert ["error" in rig.replies(question)[0] for question in ("q1", "q2")] == [True, True]
        assert rig.cancelled() == [child_id]


# Pages (-32042).


@in_virtual_time
async def test_an_error_that_sends_the_user_to_pages_becomes_questions_and_the_repetition_a_new_call() -> (
    None
):
    """MCP 2025-11-25, client/elicitation, "URL Elicitation Required Error"; protocol matrix, 4.3."""
    async with legacy() as rig:
        request = modern_request(params={"name": "t", "arguments": {"a": 1}})
        exchange, child_id = await rig.call(request)
        elicitations = {"elicitations": [PAGE, {**PAGE, "elicitationId": "e2"}]}
        await rig.says(id=child_id, error={"code": -32042, "message": "log in", "data": elicitations})
        result = (await only_on(exchange))["result"]
        assert exchange.error_code is None
        assert result["resultType"] == "input_required"
        page = {name: value for name, value in PAGE.items() if name != "elicitationId"}
        assert (
            list(result["inputRequests"].values()) == [{"method": "elicitation/create", "params": page}] * 2
        )
        assert rig.is_empty()
        answers = {key: {"action": "accept"} for key in result["inputRequests"]}
        exchange, again_id = await rig.call(repetition(request, result, answers))
        assert again_id not in {child_id, None}
        assert rig.last()["params"] == {"name": "t", "arguments": {"a": 1}}
        await rig.answers(again_id, {"n": 2})
        assert (await only_on(exchange))["result"]["n"] == 2


@in_virtual_time
async def test_a_client_that_cannot_send_its_user_to_pages_is_told_so() -> None:
    async with legacy() as rig:
        exchange, child_id = await rig.call(modern_request(capabilities={"elicitation": {}}))
        data = {"elicitations": [PAGE]}
        await rig.says(id=child_id, error={"code": -32042, "message": "log in", "data": data})
        error = (await only_on(exchange))["error"]
        assert error["code"] == exchange.error_code == MISSING_CAPABILITY
        assert error["data"] == {"requiredCapabilities": {"elicitation": {"url": {}}}}
        assert rig.is_empty()


@in_virtual_time
async def test_such_an_error_without_pages_is_an_internal_one() -> None:
    """MCP 2026-07-28, basic, "Error Codes": -32042 must not be sent."""
    async with legacy() as rig:
        exchange, child_id = await rig.call()
        await rig.says(id=child_id, error={"code": -32042, "message": "log in"})
        assert (await only_on(exchange))["error"]["code"] == INTERNAL_ERROR


# Taking back.


@in_virtual_time
async def test_a_question_taken_back_before_it_was_asked_is_not_asked() -> None:
    """Protocol matrix, 4.3."""
    async with legacy() as rig:
        exchange, child_id = await rig.call()
        await rig.asks("q")
        await rig.says(method="notifications/cancelled", params={"requestId": "q"})
        await asyncio.sleep(1)
        assert await messages_on(exchange) == []
        await rig.answers(child_id)
        assert "result" in await only_on(exchange)
        assert rig.replies("q") == []


@pytest.mark.parametrize("params", [{"requestId": "other"}, {}, None])
@in_virtual_time
async def test_what_takes_back_nothing_changes_nothing(params: Json | None) -> None:
    """MCP 2026-07-28, basic/patterns/cancellation, "Error Handling"."""
    async with legacy() as rig:
        exchange, _ = await rig.call()
        await rig.asks("q")
        await rig.says(method="notifications/cancelled", params=params)
        assert len((await rig.asked_of(exchange))["inputRequests"]) == 1


@in_virtual_time
async def test_the_answer_to_a_question_taken_back_meanwhile_is_ignored() -> None:
    async with legacy() as rig:
        request = modern_request()
        result, child_id = await parked(rig, request, "q1", "q2")
        await rig.says(method="notifications/cancelled", params={"requestId": "q1"})
        exchange, _ = await rig.call(repetition(request, result))
        assert rig.replies("q1") == []
        assert len(rig.replies("q2")) == 1
        await rig.answers(child_id)
        assert "result" in await only_on(exchange)


@in_virtual_time
async def test_a_call_whose_only_question_was_taken_back_goes_on_without_waiting_for_its_turn() -> None:
    """Ours: the child works on it anyway."""
    async with legacy(takes_turns=True) as rig:
        request = modern_request(token=7)
        result, child_id = await parked(rig, request)
        await rig.call()
        await rig.says(method="notifications/cancelled", params={"requestId": "q"})
        exchange, _ = await rig.call(repetition(request, result, level="info", token=5))
        assert rig.last() == {
            "jsonrpc": "2.0",
            "id": rig.last()["id"],
            "method": "logging/setLevel",
            "params": {"level": "info"},
        }
        await rig.says(method="notifications/progress", params={"progressToken": child_id, "progress": 1})
        assert len(await messages_on(exchange)) == 1


# Ends.


@in_virtual_time
async def test_a_client_that_goes_while_its_call_runs_cancels_it() -> None:
    """MCP 2026-07-28, basic/patterns/cancellation: closing the stream MUST be treated as cancellation."""
    async with legacy() as rig:
        exchange, child_id = await rig.call()
        await rig.asks("q")
        exchange.release()
        await asyncio.sleep(0)
        assert rig.replies("q")[0]["error"]["code"] == INVALID_REQUEST
        assert rig.cancelled() == [child_id]
        await rig.answers(child_id)
        await asyncio.sleep(20)
        assert rig.is_empty()


@in_virtual_time
async def test_a_client_that_goes_after_it_was_asked_cancels_nothing() -> None:
    """Protocol matrix, 4.3: the exchange is over, and that is normal."""
    async with legacy() as rig:
        request = modern_request()
        exchange, _ = await rig.call(request)
        await rig.asks("q")
        result = await rig.asked_of(exchange)
        exchange.release()
        await asyncio.sleep(1)
        assert rig.cancelled() == []
        await rig.call(repetition(request, result))
        assert len(rig.replies("q")) == 1


@in_virtual_time
async def test_a_call_that_nobody_comes_back_for_ends_and_the_child_is_told() -> None:
    """Protocol matrix, 4.3: `park_timeout`; an elicitation is cancelled, everything else gets an error."""
    async with legacy(park_timeout=60.0) as rig:
        request = modern_request()
        exchange, child_id = await rig.call(request)
        await rig.asks("e")
        await rig.asks("s", "sampling/createMessage")
        await rig.says(id="r", method="roots/list")
        result = await rig.asked_of(exchange)
        await rig.asks("more")
        await asyncio.sleep(59.9)
        assert rig.cancelled() == []
        await asyncio.sleep(0.2)
        assert rig.replies("e")[0]["result"] == rig.replies("more")[0]["result"] == {"action": "cancel"}
        assert [rig.replies(question)[0]["error"]["code"] for question in "sr"] == [INVALID_REQUEST] * 2
        assert rig.cancelled() == [child_id]
        assert "requestState" in await refused(rig, repetition(request, result))
        await rig.answers(child_id)
        await asyncio.sleep(20)
        assert rig.is_empty()


@in_virtual_time
async def test_each_repetition_gives_its_call_the_whole_time_again() -> None:
    async with legacy(park_timeout=60.0) as rig:
        request = modern_request()
        result, _ = await parked(rig, request)
        for _ in range(3):
            await asyncio.sleep(50)
            exchange, _ = await rig.call(repetition(request, result, {}))
            result = (await only_on(exchange))["result"]
        assert rig.cancelled() == []
        await asyncio.sleep(61)
        assert len(rig.cancelled()) == 1


@in_virtual_time
async def test_an_answer_that_nobody_comes_back_for_is_forgotten() -> None:
    async with legacy(park_timeout=60.0) as rig:
        _, child_id = await parked(rig, modern_request())
        await rig.answers(child_id)
        rig.idle.clear()
        await asyncio.sleep(61)
        assert rig.cancelled() == []
        assert rig.idle
        assert rig.is_empty()


@in_virtual_time
async def test_a_client_that_does_not_read_costs_its_own_call() -> None:
    """Issue 4, "Done when" 6."""
    async with legacy(max_stream_bytes=2000) as rig:
        exchange, child_id = await rig.call(modern_request(token=7))
        other, _ = await rig.call()
        for number in range(60):
            progress = {"progressToken": child_id, "progress": number}
            await rig.says(method="notifications/progress", params=progress)
        assert rig.cancelled() == [child_id]
        messages = await messages_on(exchange)
        assert messages[-1]["error"]["data"] == {"reason": "slow client"}
        assert exchange.error_code == INTERNAL_ERROR
        assert sum("error" in message for message in messages) == 1
        assert await messages_on(other) == []


@in_virtual_time
async def test_a_child_that_answers_before_its_question_was_asked_gets_it_refused() -> None:
    async with legacy() as rig:
        exchange, child_id = await rig.call()
        await rig.asks("q")
        await rig.answers(child_id)
        assert "result" in await only_on(exchange)
        await asyncio.sleep(1)
        assert "error" in rig.replies("q")[0]
        assert rig.cancelled() == []


@in_virtual_time
async def test_an_answer_that_waits_to_be_read_by_the_child_is_not_said_twice() -> None:
    """Ours: the client goes while its answer is on the way."""
    async with legacy() as rig:
        request = modern_request()
        result, child_id = await parked(rig, request, "q1", "q2")
        rig.child.stdin.fill()
        resuming = asyncio.create_task(rig.shared.call(repetition(request, result)))
        await asyncio.sleep(0.1)
        resuming.cancel()
        await asyncio.wait([resuming])
        rig.child.stdin.drain()
        await asyncio.sleep(0.1)
        assert [len(rig.replies(question)) for question in ("q1", "q2")] == [1, 1]
        assert rig.cancelled() == [child_id]


@in_virtual_time
async def test_a_child_that_takes_back_what_is_being_answered_works_on() -> None:
    async with legacy() as rig:
        request = modern_request()
        result, _ = await parked(rig, request)
        rig.child.stdin.fill()
        resuming = asyncio.create_task(rig.shared.call(repetition(request, result)))
        await asyncio.sleep(0.1)
        await rig.asks("early")
        await rig.says(method="notifications/cancelled", params={"requestId": "q"})
        await rig.asks("q2")
        rig.child.stdin.drain()
        exchange: SharedExchange = await resuming
        assert "cannot tell" in rig.replies("early")[0]["error"]["message"]
        assert len((await rig.asked_of(exchange))["inputRequests"]) == 1


@in_virtual_time
async def test_a_call_keeps_nothing_of_its_arguments_and_answers() -> None:
    """Ours: a long argument must not stay in memory until the answer."""
    async with legacy() as rig:
        request = modern_request(params={"name": "t", "arguments": {"text": "x" * 100_000}}, token=1)
        result, _ = await parked(rig, request)
        (call,) = rig.shared.parking
        assert (call.request.members, call.request.params, call.request.meta) == ({}, {}, {})
        await rig.call(repetition(request, result, token=2))
        assert (call.request.members, call.request.params, call.request.meta) == ({}, {}, {})
        assert call.request.input_responses is None


@in_virtual_time
async def test_a_short_call_is_kept_until_it_waits_for_its_client() -> None:
    """Ours: to take it apart costs more than it is; but a client may be long in coming back."""
    async with legacy() as rig:
        request = modern_request(params={"name": "t", "arguments": {"text": "short"}}, token=1)
        result, _ = await parked(rig, request)
        (call,) = rig.shared.parking
        assert (call.request.members, call.request.params, call.request.meta) == ({}, {}, {})
        assert call.request.progress_token is None
        other = modern_request(params={"name": "t", "arguments": {"text": "other"}})
        with pytest.raises(LocalProtocolError, match="Invalid or expired"):
            await rig.call(repetition(other, result))
        exchange, _ = await rig.call(repetition(request, result, token=2))
        assert bytes(call.request.params["name"]) == b'"t"'
        await rig.answers(int(call.child_id))
        assert (await only_on(exchange))["result"]["content"] == []


@in_virtual_time
async def test_a_long_call_can_be_asked_more_than_once() -> None:
    """Ours: what its state is bound to is known, though its arguments are not kept."""
    async with legacy() as rig:
        request = modern_request(params={"name": "t", "arguments": {"text": "x" * 100_000}})
        result, _ = await parked(rig, request)
        for _ in range(2):
            exchange, _ = await rig.call(repetition(request, result))
            await rig.asks("again")
            result = await rig.asked_of(exchange)
        assert len(rig.shared.parking) == 1
