"""Clients up to 2025-11-25 over a server of 2026-07-28, from the socket to a real child and back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stdio_broker.http import Settings as HttpSettings
from stdio_broker.supervisor import Config
from tests.support.edge import Edge, child_config, serving
from tests.support.mcp_client import EventStream, McpClient, Message, message_in, text_of
from tests.support.modern_client import ModernClient
from tests.support.processes import wait_until

CAPABILITIES: Message = {
    "elicitation": {"form": {}, "url": {}},
    "sampling": {},
    "roots": {"listChanged": True},
}
FORM: Message = {
    "method": "elicitation/create",
    "params": {"mode": "form", "message": "?", "requestedSchema": {"type": "object", "properties": {}}},
}
URL: Message = {
    "method": "elicitation/create",
    "params": {"mode": "url", "message": "?", "url": "https://a.example"},
}
ROOTS: Message = {"method": "roots/list"}


def modern(*modes: str, **options: Any) -> Config:  # noqa: ANN401 -- passed on
    """Return how to run a modern child with everything."""
    return child_config("era=modern", "resources", "prompts", "instructions=Use it.", *modes, **options)


@contextlib.asynccontextmanager
async def connected(*modes: str, version: str = "2025-11-25") -> AsyncIterator[tuple[Edge, McpClient]]:
    """Serve a modern child to one client that has a session. A stream begins soon, whatever the call does."""
    async with (
        serving(modern(*modes), http=HttpSettings(keep_alive_interval=0.05)) as edge,
        edge.client() as client,
    ):
        await open_with(client, version)
        yield edge, client


async def open_with(client: McpClient, version: str = "2025-11-25") -> Message:
    """Open a session that declares capabilities; return the answer to `initialize`."""
    answer = await client.post(client.initialize_request(version, capabilities=CAPABILITIES))
    client.session_id = answer.headers["mcp-session-id"]
    client.version = message_in(answer)["result"]["protocolVersion"]
    assert (await client.notify("notifications/initialized")).status_code == 202
    return message_in(answer)


async def answer(client: McpClient, question: Message, **members: object) -> None:
    """POST the answer to a question."""
    posted = await client.post({"jsonrpc": "2.0", "id": question["id"], **members})
    assert posted.status_code == 202


async def watched(client: McpClient) -> Message:
    """Return what the child is listened to for."""
    told: Message = json.loads(await client.ask("subscriptions"))
    return told


async def until_watched(client: McpClient, **wanted: object) -> None:
    """Look until exactly this is listened for; each look is a round trip."""
    async with asyncio.timeout(20):
        while True:
            if [one["notifications"] for one in (await watched(client))["listens"]] == [wanted]:
                return


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_every_legacy_revision_is_served_from_the_discovery(version: str) -> None:
    """protocol.md, 5."""
    async with serving(modern()) as edge, edge.client() as client:
        result = (await open_with(client, version))["result"]
        assert result["protocolVersion"] == version
        assert result["serverInfo"]["name"] == "mcp-child"
        assert result["instructions"] == "Use it."
        assert result["x-member"] == "kept"
        assert result.keys().isdisjoint({"resultType", "supportedVersions", "ttlMs", "cacheScope", "_meta"})
        assert result["capabilities"]["resources"] == {"listChanged": True, "subscribe": True}
        assert await client.ask("echo", text="hello") == "hello"
        await wait_until(lambda: edge.children == 1)
        assert (await client.delete()).status_code == 200
        assert (await client.post(client.request("ping"))).status_code == 404


async def test_a_ping_is_answered_with_exactly_an_empty_object() -> None:
    """protocol.md, 5: TypeScript v1 and Rust peers validate it strictly."""
    async with connected() as (_, client):
        posted = await client.post({"jsonrpc": "2.0", "id": "p", "method": "ping"})
        assert posted.content == b'{"jsonrpc":"2.0","id":"p","result":{}}'


async def test_lists_and_results_are_those_of_the_older_revision() -> None:
    """protocol.md, 5: stripped; an output that is no object, and its schema, are dropped."""
    async with connected() as (_, client):
        for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list"):
            result = (await client.exchange(client.request(method)))["result"]
            assert result.keys().isdisjoint({"resultType", "ttlMs", "cacheScope", "_meta"})
            assert result["x-member"] == "kept"
        tools = (await client.exchange(client.request("tools/list")))["result"]["tools"]
        structured = next(tool for tool in tools if tool["name"] == "structured")
        assert "outputSchema" not in structured
        assert structured["inputSchema"]["$anchor"] == "structured"
        assert "structuredContent" not in (await client.call("structured", value=[1]))["result"]
        assert (await client.call("structured", value={"a": 1}))["result"]["structuredContent"] == {"a": 1}
        params = {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "who", "value": "a"}}
        completed = await client.exchange(client.request("completion/complete", params=params))
        assert completed["result"]["completion"]["values"] == ["a1", "a2"]


@pytest.mark.parametrize("method", ["tasks/get", "tasks/list", "server/discover", "acme/none"])
async def test_what_there_is_not_is_not_found_in_band(method: str) -> None:
    """protocol.md, 9: -32601 with 200 to a legacy client."""
    async with connected() as (_, client):
        assert (await client.exchange(client.request(method, params={})))["error"]["code"] == -32601


async def stream_questions(stream: EventStream, count: int) -> list[Message]:
    """Return the next messages of a stream."""
    return [await stream.message() for _ in range(count)]


async def test_questions_come_on_the_stream_of_the_call_and_answers_go_back_with_it() -> None:
    """protocol.md, 5 and 13.9."""
    async with connected() as (_, client), client.listen() as get:
        state = 'é "\\ 7'
        requests = {"a": FORM, "b": ROOTS, "c": URL}
        async with client.stream(client.tool("ask", requests=requests, state=state)) as stream:
            asked = await stream_questions(stream, 3)
            assert [one["method"] for one in asked] == [
                "elicitation/create",
                "roots/list",
                "elicitation/create",
            ]
            assert asked[2]["params"]["elicitationId"]
            results = [{"action": "accept", "content": {"n": 1}}, {"roots": []}, {"action": "decline"}]
            for index in (2, 0, 1):
                await answer(client, asked[index], result=results[index])
            told = json.loads(text_of(await stream.message()))
        assert told == {"inputResponses": dict(zip("abc", results, strict=True)), "requestState": state}
        # The GET has had nothing of it.
        await client.exchange(client.tool("change", method="notifications/tools/list_changed"))
        assert (await get.message())["method"] == "notifications/tools/list_changed"


async def test_a_server_that_asks_for_ever_is_cut_off_in_words() -> None:
    """protocol.md, 5: a cap on rounds."""
    async with connected() as (_, client), client.stream(client.tool("ask", rounds=99)) as stream:
        asked = 0
        while "method" in (message := await stream.message()):
            asked += 1
            await answer(client, message, result={"action": "accept", "content": {}})
        assert asked == 10
        assert message["error"]["code"] == -32603
        assert "again and again" in message["error"]["message"]


async def test_what_a_client_has_not_declared_it_is_not_asked() -> None:
    """protocol.md, 5: in plain words."""
    async with connected() as (_, client):
        params: Message = {"messages": [], "maxTokens": 1, "tools": []}
        error = (
            await client.call("ask", requests={"a": {"method": "sampling/createMessage", "params": params}})
        )["error"]
        assert error["code"] == -32603
        assert "does not declare sampling.tools" in error["message"]


async def test_a_server_that_only_wants_to_be_asked_again_is() -> None:
    """protocol.md, 5: state-only results."""
    async with connected() as (_, client):
        assert json.loads(await client.ask("ask", polls=3)) == {"requestState": "step#3"}


async def test_prompts_and_resources_may_ask_too() -> None:
    """MCP 2026-07-28, basic/patterns/mrtr."""
    async with connected() as (_, client):
        for message in (
            client.request("prompts/get", params={"name": "ask", "arguments": {"ask": "{}"}}),
            client.request("resources/read", params={"uri": "ask:"}),
        ):
            async with client.stream(message) as stream:
                (question,) = await stream_questions(stream, 1)
                await answer(client, question, result={"action": "cancel"})
                assert '"cancel"' in json.dumps(await stream.message()).replace('\\"', '"')


async def test_a_client_that_refuses_to_answer_ends_its_call() -> None:
    """protocol.md, 5: its error is the answer to its call."""
    async with connected() as (_, client), client.stream(client.tool("ask")) as stream:
        (question,) = await stream_questions(stream, 1)
        await answer(client, question, error={"code": -1, "message": "not today"})
        assert "not today" in (await stream.message())["error"]["message"]


async def test_a_cancellation_ends_a_call_that_runs_and_one_that_asks() -> None:
    """protocol.md, 5: also while waiting for answers."""
    async with connected() as (_, client):
        for tool in (client.tool("wait"), client.tool("ask")):
            async with client.stream(tool) as stream:
                if tool["params"]["name"] == "ask":
                    await stream.message()
                await client.notify("notifications/cancelled", requestId=tool["id"])
                assert (await stream.message())["error"]["code"] == -32800
        heard = json.loads(await client.ask("release"))
        assert heard == 0  # the child knows it, too


async def test_a_client_that_goes_away_cancels_nothing() -> None:
    """MCP 2025-11-25, basic/transports: a disconnect SHOULD NOT be taken for a cancellation."""
    async with connected() as (_, client):
        async with client.stream(client.tool("ask")) as stream:
            (question,) = await stream_questions(stream, 1)
        await answer(client, question, result={"action": "accept"})
        wait = client.tool("wait")
        with contextlib.suppress(TimeoutError):
            await client.post(wait, timeout=0.3)
        assert await client.ask("release") == "1"


async def test_logs_and_progress_come_with_their_call() -> None:
    """protocol.md, 5: logging/setLevel is kept here, and goes with every request."""
    async with connected() as (_, client):
        set_level = client.request("logging/setLevel", params={"level": "error"})
        assert (await client.exchange(set_level))["result"] == {}
        assert await client.ask("log", level="info", polite=True) == "kept"
        async with client.stream(client.tool("log", level="error", polite=True)) as stream:
            messages = await stream.rest()
            assert [one.get("method") for one in messages] == ["notifications/message", None]
        call = client.tool("progress", steps=2)
        call["params"]["_meta"] = {"progressToken": "mine"}
        async with client.stream(call) as stream:
            messages = await stream.rest()
        assert [one["params"]["progressToken"] for one in messages[:-1]] == ["mine", "mine"]


async def test_subscriptions_are_told_on_the_get_stream_or_wait_for_one() -> None:
    """protocol.md, 5: `{}`; backlog while no GET is open."""
    async with connected() as (_, client):
        lists = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}
        await until_watched(client, **lists)
        subscribe = client.request("resources/subscribe", params={"uri": "test:one"})
        assert (await client.exchange(subscribe))["result"] == {}
        await until_watched(client, **lists, resourceSubscriptions=["test:one"])
        history = [event[0] for event in (await watched(client))["history"]]
        assert history == ["listen", "listen", "cancelled"]
        async with client.listen() as get:
            await client.ask("change", method="notifications/resources/updated", params={"uri": "test:one"})
            told = await get.message()
            assert told["params"] == {"uri": "test:one"}
        unsubscribe = client.request("resources/unsubscribe", params={"uri": "test:one"})
        assert (await client.exchange(unsubscribe))["result"] == {}
        assert (
            await client.ask("change", method="notifications/resources/updated", params={"uri": "test:one"})
            == "0"
        )


async def test_a_crash_is_told_to_the_running_call_and_the_session_lives_on() -> None:
    """protocol.md, 2.2."""
    async with connected() as (edge, client):
        await until_watched(client, toolsListChanged=True, promptsListChanged=True, resourcesListChanged=True)
        async with client.listen() as get:
            error = (await client.call("die", code=3))["error"]
            assert error["data"] == {
                "reason": "server process ended",
                "retryable": True,
                "exitCode": 3,
            }
            assert await client.ask("echo", text="alive") == "alive"
            told = [(await get.message())["method"] for _ in range(3)]
            assert told == [
                f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources")
            ]
        await wait_until(lambda: edge.children == 1)


async def test_batches_are_answered_request_by_request() -> None:
    """protocol.md, 5; MCP 2025-03-26: split, each answered as it comes."""
    async with connected(version="2025-03-26") as (_, client):
        batch = [
            client.tool("echo", text="one"),
            client.request("ping"),
            {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"},
            client.tool("ask", polls=1),
            client.request("tasks/list"),
        ]
        posted = await client.post(batch)
        answers = [
            json.loads(line.removeprefix("data:"))
            for line in posted.text.splitlines()
            if line.startswith("data:")
        ]
        assert {one["id"] for one in answers} == {one["id"] for one in batch if "id" in one}
        assert sum("error" in one for one in answers) == 1


async def test_clients_of_both_eras_share_one_child_of_their_principal() -> None:
    """protocol.md, D3."""
    async with connected() as (edge, client), ModernClient(edge.url) as newer, edge.client() as other:
        await open_with(other)
        pids = {await client.ask("pid"), await newer.ask("pid"), await other.ask("pid")}
        assert len(pids) == 1
        assert edge.sessions.statistics().places == 1


async def test_a_slow_client_costs_its_own_call_only() -> None:
    """design.md, section 4."""
    async with connected() as (_, client):
        async with client.stream(client.tool("say", count=3000, bytes=8000)) as _slow:
            assert await client.ask("echo", text="quick") == "quick"
        assert await client.ask("echo", text="again") == "again"
