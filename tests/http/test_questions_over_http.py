"""What a legacy server asks, and a modern client answers: from the client's socket to the child's pipes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from stdio_broker.bridge import Settings
from tests.support.edge import Edge, child_config, serving
from tests.support.mcp_client import Message, text_of
from tests.support.modern_client import EVERYTHING, ModernClient
from tests.support.processes import wait_until

FORM: Message = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}}
ELICIT: Message = {"method": "elicitation/create", "params": FORM}
SAMPLE: Message = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}
ROOTS: Message = {"method": "roots/list"}
ANSWERS: dict[str, Message] = {
    "elicitation/create": {"action": "accept", "content": {"name": "Ada"}},
    "sampling/createMessage": {"role": "assistant", "model": "m", "content": {"type": "text", "text": "Hi"}},
    "roots/list": {"roots": [{"uri": "file:///x"}]},
}


@asynccontextmanager
async def modern(*modes: str, **bounds: Any) -> AsyncIterator[tuple[Edge, ModernClient]]:  # noqa: ANN401 - passed on
    """Serve a legacy server to one client that can be asked everything."""
    async with (
        serving(child_config("era=legacy", *modes), bridge=Settings(**bounds)) as edge,
        ModernClient(edge.url, capabilities=EVERYTHING) as client,
    ):
        yield edge, client


def respond(_key: str, request: Message) -> Message:
    return ANSWERS[request["method"]]


def asked(answer: Message) -> dict[str, Message]:
    """Return what an answer asks."""
    assert answer["result"]["resultType"] == "input_required", answer
    requests: dict[str, Message] = answer["result"]["inputRequests"]
    return requests


async def seen(client: ModernClient) -> list[Message]:
    """Return all that the child has heard."""
    return [json.loads(line) for line in json.loads(await client.ask("seen"))]


async def test_every_kind_of_question_is_asked_and_answered() -> None:
    """Issue 4; MCP 2026-07-28, basic/patterns/mrtr."""
    async with modern() as (_, client):
        request = client.tool("ask", requests={"e": ELICIT, "s": SAMPLE, "r": ROOTS})
        first = await client.exchange(request)
        assert sorted(question["method"] for question in asked(first).values()) == [
            "elicitation/create",
            "roots/list",
            "sampling/createMessage",
        ]
        final = await client.complete(request, respond)
        assert json.loads(text_of(final))["inputResponses"] == {
            "e": ANSWERS["elicitation/create"],
            "s": ANSWERS["sampling/createMessage"],
            "r": ANSWERS["roots/list"],
        }


async def test_a_server_may_ask_round_after_round() -> None:
    async with modern() as (_, client):
        request = client.tool("ask", requests=[{"a": ELICIT}, {"b": SAMPLE}, {"c": ROOTS}])
        final = await client.complete(request, respond)
        assert json.loads(text_of(final)) == {"inputResponses": {"c": ANSWERS["roots/list"]}}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("prompts/get", {"name": "ask", "arguments": {"ask": "{}"}}),
        ("resources/read", {"uri": "ask:"}),
    ],
)
async def test_a_prompt_or_a_resource_may_ask_too(method: str, params: Message) -> None:
    async with modern() as (_, client):
        request = client.request(method, params)
        final = await client.complete(request, respond)
        assert "Ada" in json.dumps(final["result"])


async def test_statuses_tell_what_is_wrong() -> None:
    """MCP 2026-07-28, basic, "Error Codes"; protocol matrix, 9."""
    async with modern() as (_, client):
        request = client.tool("ask")
        answer = await client.exchange(request)
        again = client.retry(request, answer, {key: respond(key, one) for key, one in asked(answer).items()})
        assert (await client.post(again)).status_code == 200
        used = await client.post(again)
        assert (used.status_code, used.json()["error"]["code"]) == (400, -32602)
        assert used.json()["id"] == again["id"]
        client.capabilities = {"roots": {}}
        lacking = await client.post(client.tool("ask"))
        assert (lacking.status_code, lacking.json()["error"]["code"]) == (400, -32021)
        assert lacking.json()["error"]["data"] == {"requiredCapabilities": {"elicitation": {"form": {}}}}


async def test_pages_that_a_server_sends_its_user_to_are_questions_and_the_call_is_made_again() -> None:
    """MCP 2025-11-25, client/elicitation, "URL Elicitation Required Error"."""
    async with modern() as (_, client):
        page = {"mode": "url", "elicitationId": "1", "url": "https://x.example/", "message": "Log in"}
        request = client.tool("fail", code=-32042, message="log in", data={"elicitations": [page]})
        answer = await client.exchange(request)
        (question,) = asked(answer).values()
        assert question["params"] == {"mode": "url", "url": "https://x.example/", "message": "Log in"}
        again = client.retry(request, answer, {key: {"action": "accept"} for key in asked(answer)})
        asked(await client.exchange(again))
        calls = [line for line in await seen(client) if line.get("params", {}).get("name") == "fail"]
        assert len(calls) == 2


async def test_a_client_that_hangs_up_cancels_its_call_and_gets_its_questions_refused() -> None:
    """MCP 2026-07-28, basic/patterns/cancellation."""
    async with modern(question_window=30.0) as (edge, client):
        await client.discover()
        calling = asyncio.create_task(client.post(client.tool("ask")))
        await wait_until(lambda: edge.sessions.leases.busy)
        # The child answers in order: when this is answered, it has asked.
        await client.exchange(client.request("tools/list"))
        calling.cancel()
        await asyncio.wait([calling])
        # What is called next has its turn when the child has heard.
        lines = await seen(client)
        assert len([line for line in lines if "error" in line]) == 1
        assert len([line for line in lines if _is_cancellation(line)]) == 1


async def test_thirty_two_calls_in_flight_get_their_own_answers_in_any_order() -> None:
    """Issue 4, "Done when" 3: some ask, are resumed in any order, or never: then the child is told."""
    chance = Random(4)  # noqa: S311 - it only has to be the same every time
    async with modern(park_timeout=5.0) as (edge, client):
        child = await client.ask("pid")
        requests = {}
        for number in range(32):
            question = {**ELICIT, "params": {**FORM, "message": f"question {number}"}}
            if number % 2:
                requests[number] = client.tool("echo", text=f"answer {number}")
            else:
                requests[number] = client.tool("ask", requests={"q": question})
        answers = dict(
            zip(requests, await asyncio.gather(*map(client.exchange, requests.values())), strict=True)
        )
        for number in range(1, 32, 2):
            assert text_of(answers[number]) == f"answer {number}"
        # Calls that were sent before the first question run side by side, so some questions are refused.
        open_calls = [
            number
            for number in range(0, 32, 2)
            if answers[number]["result"]["resultType"] == "input_required"
        ]
        assert open_calls, "nothing was asked"
        for number in open_calls:
            (question,) = asked(answers[number]).values()
            assert question["params"]["message"] == f"question {number}"
        chance.shuffle(open_calls)
        forgotten, resumed = open_calls[: len(open_calls) // 4], open_calls[len(open_calls) // 4 :]

        async def resume(number: int) -> None:
            responses = {
                key: {"action": "accept", "content": {"n": number}} for key in asked(answers[number])
            }
            final = await client.exchange(client.retry(requests[number], answers[number], responses))
            content = json.loads(text_of(final))["inputResponses"]["q"]["content"]
            assert content == {"n": number}

        await asyncio.gather(*map(resume, resumed))
        lines: list[Message] = []
        async with asyncio.timeout(20):
            while len([line for line in lines if _is_cancellation(line)]) < len(forgotten):
                lines = await seen(client)
        assert len([line for line in lines if line.get("result") == {"action": "cancel"}]) == len(forgotten)
        questions = [line["id"] for line in lines if "method" not in line]
        assert len(questions) == len(set(questions)), "a question was answered twice"
        assert await client.ask("pid") == child
        assert edge.children == 1


def _is_cancellation(line: Message) -> bool:
    return line.get("method") == "notifications/cancelled"


async def test_with_turns_from_the_start_thirty_two_calls_that_all_ask_are_all_answered() -> None:
    """Issue 4, "Done when" 3; design decision 5: once a child has asked, each question is certain."""
    async with modern() as (_, client):
        await client.complete(client.tool("ask"), respond)

        async def ask(number: int) -> None:
            def tell(_key: str, request: Message) -> Message:
                assert request["params"]["message"] == str(number)
                return {"action": "accept", "content": {"n": number}}

            question = {**ELICIT, "params": {**FORM, "message": str(number)}}
            final = await client.complete(client.tool("ask", requests={"q": question}, rounds=2), tell)
            assert json.loads(text_of(final))["inputResponses"]["q"]["content"] == {"n": number}

        await asyncio.gather(*(ask(number) for number in range(32)))


async def test_changes_come_on_a_stream_and_what_is_watched_is_counted() -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions."""
    async with (
        modern("resources") as (_, client),
        client.listen(toolsListChanged=True, resourceSubscriptions=["test:one"]) as first,
        client.listen(resourceSubscriptions=["test:one"]) as second,
    ):
        for stream in (first, second):
            assert (await stream.message())["method"] == "notifications/subscriptions/acknowledged"
        await client.call("change", method="notifications/resources/updated", params={"uri": "test:one"})
        await client.call("change", method="notifications/tools/list_changed")
        assert (await first.message())["method"] == "notifications/resources/updated"
        assert (await first.message())["method"] == "notifications/tools/list_changed"
        assert (await second.message())["method"] == "notifications/resources/updated"
        told = json.loads(await client.ask("subscriptions"))
        assert told["history"] == [["subscribe", "test:one"]]
