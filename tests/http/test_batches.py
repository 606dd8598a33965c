"""Batches, which 2025-03-26 has and no other revision: received as the specification demands."""

from __future__ import annotations

import json

import pytest

from stdio_broker.http import Settings
from tests.support.edge import serving, serving_without_sockets
from tests.support.mcp_client import McpClient, Message, text_of

REVISION = "2025-03-26"
QUICK = Settings(keep_alive_interval=0.02)


def by_id(messages: list[Message]) -> dict[object, Message]:
    """Return the answers by their id."""
    return {message["id"]: message for message in messages if "id" in message}


async def rest(client: McpClient, batch: list[Message]) -> list[Message]:
    """POST a batch and return all messages of its stream."""
    async with client.stream(json.dumps(batch).encode()) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream"
        return await stream.rest()


async def test_every_request_of_a_batch_is_answered_on_one_stream() -> None:
    """2025-03-26, transports: requests in the body are answered with a stream or with JSON; a MUST, 10.12."""
    async with serving() as edge, edge.client() as client:
        await client.open(REVISION)
        calls = [client.tool("echo", text=str(number)) for number in range(5)]
        calls[3]["id"] = "three"
        answers = by_id(await rest(client, calls))
        assert [text_of(answers[call["id"]]) for call in calls] == ["0", "1", "2", "3", "4"]


async def test_the_answers_of_a_batch_come_as_soon_as_they_are_there() -> None:
    """Ours: a slow call of a batch does not hold up the others; silence gets comments."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open(REVISION)
        batch = [client.tool("wait"), client.tool("say", count=2), client.tool("echo", text="quick")]
        async with client.stream(json.dumps(batch).encode()) as stream:
            told = [await stream.message() for _ in range(4)]
            assert {batch[1]["id"], batch[2]["id"]} == set(by_id(told))
            await client.notify("notifications/test/release")
            (last,) = await stream.rest()
            assert (last["id"], text_of(last)) == (batch[0]["id"], "released")


async def test_a_batch_without_requests_is_accepted() -> None:
    """2025-03-26, transports: only responses and notifications: 202 without a body."""
    async with serving_without_sockets() as (_, client):
        await client.open(REVISION)
        batch: list[Message] = [
            {"jsonrpc": "2.0", "method": "notifications/one"},
            {"jsonrpc": "2.0", "id": "unknown", "result": {}},
            {"jsonrpc": "2.0", "method": "notifications/two"},
        ]
        answer = await client.post(batch)
        assert (answer.status_code, answer.content) == (202, b"")
        methods = [json.loads(line).get("method") for line in json.loads(await client.ask("seen"))]
        assert methods[2:4] == ["notifications/one", "notifications/two"]


async def test_a_batch_of_a_child_reaches_each_of_its_owners() -> None:
    """2025-03-26, base protocol: batches MUST be received; protocol.md, 2.2: from a child too."""
    told, answered = (
        '{"jsonrpc":"2.0","method":"notifications/message"}',
        '{"jsonrpc":"2.0","id":$ID,"result":{}}',
    )
    async with serving_without_sockets() as (_, client):
        await client.open(REVISION)
        answer = await client.post(client.tool("raw", lines=[f"[{told},{answered}]"]))
        assert len([line for line in answer.text.splitlines() if line.startswith("data:")]) == 2


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param([], id="empty"),
        pytest.param([1, "text"], id="no messages"),
        pytest.param([{"jsonrpc": "2.0", "id": 1, "method": "ping"}, {"id": 2}], id="one that is none"),
        pytest.param([{"jsonrpc": "2.0", "id": n, "method": "ping"} for n in range(1000)], id="too many"),
        pytest.param([[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]], id="a batch in a batch"),
    ],
)
async def test_a_batch_that_makes_no_sense_is_refused_whole(batch: list[Message]) -> None:
    """JSON-RPC 2.0, 6; ours: bounded, and nothing of a refused batch reaches the child."""
    async with serving_without_sockets() as (_, client):
        await client.open(REVISION)
        answer = await client.post(batch)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32600)
        assert len(json.loads(await client.ask("seen"))) == 3


async def test_initialize_in_a_batch_is_refused_and_nothing_else_of_it_is_done() -> None:
    """2025-03-26, lifecycle: `initialize` MUST NOT be part of a batch."""
    async with serving_without_sockets() as (_, client):
        await client.open(REVISION)
        answer = await client.post([client.request("echo/x"), client.initialize_request()])
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32600)
        assert len(json.loads(await client.ask("seen"))) == 3


async def test_a_child_that_dies_fails_every_call_of_a_batch() -> None:
    """protocol.md, 2.2: every open exchange gets its error at once."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open(REVISION)
        batch = [client.tool("wait"), client.tool("wait"), client.tool("die", code=1)]
        answers = by_id(await rest(client, batch))
        assert [answers[call["id"]]["error"]["code"] for call in batch] == [-32603] * 3


async def test_a_client_that_hangs_up_on_a_batch_does_not_cancel_it() -> None:
    """2025-03-26, transports: disconnection SHOULD NOT be interpreted as a cancellation."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open(REVISION)
        async with client.stream(json.dumps([client.tool("wait"), client.tool("wait")]).encode()) as stream:
            await stream.next()
        await client.notify("notifications/test/release")
        assert "cancelled" not in await client.ask("seen")
