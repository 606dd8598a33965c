"""Streams of a modern server over HTTP: keep-alives, and `subscriptions/listen` from beginning to end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.http import Settings as HttpSettings
from stdio_broker.sessions import Settings as SessionSettings
from tests.support.edge import child_config, serving
from tests.support.mcp_client import COMMENT, EventStream, Message
from tests.support.modern_client import SUBSCRIPTION, ModernClient

CHILD = child_config("era=modern", "resources", "prompts")
QUICK = HttpSettings(keep_alive_interval=0.02)
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
TOOLS, PROMPTS, RESOURCES = (
    f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources")
)
UPDATED = "notifications/resources/updated"
EVERYTHING: Message = {
    "toolsListChanged": True,
    "promptsListChanged": True,
    "resourcesListChanged": True,
    "resourceSubscriptions": ["test:one"],
}


@contextlib.asynccontextmanager
async def listening(
    client: ModernClient, identifier: object = None, **notifications: object
) -> AsyncIterator[EventStream]:
    """Open a listen stream whose acknowledgement has come."""
    message = client.listen_request(**(notifications or EVERYTHING))
    message["id"] = message["id"] if identifier is None else identifier
    async with client.stream(message) as stream:
        first = await stream.message()
        assert first["method"] == ACKNOWLEDGED
        assert first["params"]["_meta"][SUBSCRIPTION] == message["id"]
        yield stream


async def told(stream: EventStream, count: int) -> list[tuple[str, str | None]]:
    """Return the methods and URIs of the next messages."""
    messages = [await stream.message() for _ in range(count)]
    return [(message["method"], message["params"].get("uri")) for message in messages]


async def history(client: ModernClient) -> list[list[object]]:
    """Return what has happened to the streams of the child."""
    told: list[list[object]] = json.loads(await client.ask("subscriptions"))["history"]
    return told


async def wait_history(client: ModernClient, kind: str) -> None:
    """Wait until something of this kind has happened to a stream of the child."""
    async with asyncio.timeout(20):
        while kind not in [entry[0] for entry in await history(client)]:
            pass  # each look is a call, which takes a moment


# Keep-alives.


async def test_a_silent_call_becomes_a_stream_with_comments_and_its_answer_at_the_end() -> None:
    """protocol.md, 6.1; 2026-07-28, streamable-http: comments keep a connection open."""
    async with serving(CHILD, http=QUICK) as edge, edge.modern() as client, edge.modern() as other:
        message = client.tool("wait")
        async with client.stream(message) as stream:
            assert stream.status == 200
            assert stream.headers["content-type"] == "text/event-stream"
            assert [await stream.next() for _ in range(3)] == [COMMENT] * 3
            await other.ask("release")
            (answer,) = await stream.rest()
            assert answer["id"] == message["id"]


async def test_a_silent_listen_stream_gets_comments() -> None:
    """2026-07-28, streamable-http, the note on keep-alives."""
    async with serving(CHILD, http=QUICK) as edge, edge.modern() as client, listening(client) as stream:
        assert [await stream.next() for _ in range(3)] == [COMMENT] * 3


# What comes on it.


@pytest.mark.parametrize("identifier", [5, "5", "ü"])
async def test_what_is_listened_for_comes_under_the_clients_own_id(identifier: object) -> None:
    """2026-07-28, basic/patterns/subscriptions."""
    async with serving(CHILD) as edge, edge.modern() as client, listening(client, identifier) as stream:
        await client.ask("change", method=TOOLS, params={"x": [1.5], "_meta": {"y": 1}})
        message = await stream.message()
        assert message["params"] == {"x": [1.5], "_meta": {"y": 1, SUBSCRIPTION: identifier}}
        await client.ask("change", method=UPDATED, params={"uri": "test:one"})
        await client.ask("change", method=UPDATED, params={"uri": "test:two"})
        await client.ask("change", method=PROMPTS)
        assert await told(stream, 2) == [(UPDATED, "test:one"), (PROMPTS, None)]


async def test_nothing_that_was_not_asked_for_comes_even_if_the_child_sends_it() -> None:
    """2026-07-28, basic/patterns/subscriptions: MUST NOT; streamable-http: never progress or logs."""
    async with (
        serving(CHILD) as edge,
        edge.modern() as client,
        listening(client, promptsListChanged=True) as stream,
    ):
        for method in (TOOLS, RESOURCES, "notifications/message", "notifications/progress"):
            await client.ask("change", method=method, force=True)
        await client.ask("change", method=UPDATED, params={"uri": "test:one"}, force=True)
        await client.ask("change", method=PROMPTS)
        assert await told(stream, 1) == [(PROMPTS, None)]


async def test_kinds_that_nobody_knows_reach_the_child_and_come_back() -> None:
    """protocol.md, 12: unknown filter fields and unknown notifications with a subscriptionId must pass."""
    async with (
        serving(CHILD) as edge,
        edge.modern() as client,
        listening(client, comExampleThings=["x"], toolsListChanged=True) as stream,
    ):
        lines = [json.loads(line) for line in json.loads(await client.ask("seen"))]
        (listen,) = [line for line in lines if line["method"] == "subscriptions/listen"]
        assert listen["params"]["notifications"] == {"comExampleThings": ["x"], "toolsListChanged": True}
        await client.ask("change", method="notifications/com.example/thing", force=True)
        assert await told(stream, 1) == [("notifications/com.example/thing", None)]


async def test_two_listeners_with_the_same_id_each_get_their_own() -> None:
    """2026-07-28, basic/patterns/subscriptions, "Multiple Concurrent Subscriptions"."""
    async with (
        serving(CHILD) as edge,
        edge.modern() as one,
        edge.modern() as other,
        listening(one, 1, toolsListChanged=True) as tools,
        listening(other, 1, promptsListChanged=True) as prompts,
    ):
        assert await one.ask("change", method=PROMPTS) == "1"
        assert await one.ask("change", method=TOOLS) == "1"
        assert await told(tools, 1) == [(TOOLS, None)]
        assert await told(prompts, 1) == [(PROMPTS, None)]


@pytest.mark.parametrize(
    "notifications", [None, [], {"toolsListChanged": "yes"}, {"resourceSubscriptions": [1]}]
)
async def test_a_listener_must_say_what_for(notifications: object) -> None:
    """2026-07-28, schema; protocol.md, 9: -32602 with 400."""
    async with serving(CHILD) as edge, edge.modern() as client:
        params = {} if notifications is None else {"notifications": notifications}
        answer = await client.post(client.request("subscriptions/listen", params))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)


async def test_listen_streams_are_bounded() -> None:
    """Ours: 503, and room for calls is left."""
    async with (
        serving(CHILD, bridge=BridgeSettings(max_listeners=1)) as edge,
        edge.modern() as client,
        listening(client),
    ):
        answer = await client.post(client.listen_request(toolsListChanged=True))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert await client.ask("echo", text="x") == "x"


# How it ends.


async def test_a_client_that_hangs_up_is_told_to_the_child() -> None:
    """2026-07-28, basic/patterns/subscriptions, "Cancellation"."""
    async with serving(CHILD) as edge, edge.modern() as client:
        async with listening(client):
            assert [entry[0] for entry in await history(client)] == ["listen"]
        await wait_history(client, "cancelled")


@pytest.mark.parametrize("how", ["result", "cancelled"])
async def test_an_end_by_the_child_is_a_graceful_end_whichever_way_it_is_told(how: str) -> None:
    """protocol.md, 6.1: two pages disagree, so both count."""
    async with serving(CHILD) as edge, edge.modern() as client, listening(client, "mine") as stream:
        await client.ask("end_listens", how=how)
        (message,) = await stream.rest()
        assert (message["id"], message["result"]["resultType"]) == ("mine", "complete")
        assert message["result"]["_meta"][SUBSCRIPTION] == "mine"
        assert [entry[0] for entry in await history(client)] == ["listen", "ended"]


async def test_an_error_of_the_child_ends_the_stream_as_an_error() -> None:
    """JSON-RPC 2.0, 5."""
    async with serving(CHILD) as edge, edge.modern() as client, listening(client, "mine") as stream:
        await client.ask("end_listens", how="error")
        (message,) = await stream.rest()
        assert (message["id"], message["error"]["message"]) == ("mine", "no more listening")


async def test_a_shut_down_ends_streams_gracefully() -> None:
    """2026-07-28, basic/patterns/subscriptions, "Graceful Closure"."""
    async with serving(CHILD) as edge, edge.modern() as client, listening(client, "mine") as stream:
        await edge.sessions.drain(5.0)
        (message,) = await stream.rest()
        assert (message["id"], message["result"]["resultType"]) == ("mine", "complete")


# A child that ends under it.


async def _crash(client: ModernClient) -> None:
    answer = await client.call("die", code=3)
    assert answer["error"]["data"]["reason"] == "server process ended"


async def test_a_stream_outlives_its_child_and_tells_what_may_have_changed() -> None:
    """protocol.md, 2.2: re-opened on a new child, no second acknowledgement, but everything told."""
    async with serving(CHILD) as edge, edge.modern() as client, listening(client, "mine") as stream:
        for _ in range(2):
            first = await client.ask("pid")
            await _crash(client)
            messages = [await stream.message() for _ in range(4)]
            assert [message["method"] for message in messages] == [TOOLS, PROMPTS, RESOURCES, UPDATED]
            assert {message["params"]["_meta"][SUBSCRIPTION] for message in messages} == {"mine"}
            assert await client.ask("pid") != first
            await client.ask("change", method=TOOLS, params={"n": 1})
            assert (await stream.message())["params"]["n"] == 1
        assert edge.supervisor.statistics().started == 3


async def test_a_stream_is_lost_without_an_end_if_there_is_no_other_child(tmp_path: Path) -> None:
    """2026-07-28, basic/patterns/subscriptions: a close without a response is an unexpected disconnect."""
    python = tmp_path / "python"
    python.symlink_to(CHILD.cmd[0])
    config = dataclasses.replace(CHILD, cmd=(str(python), *CHILD.cmd[1:]))
    async with serving(config) as edge, edge.modern() as client, listening(client) as stream:
        python.unlink()
        await _crash(client)
        assert await stream.rest() == []


async def test_a_child_that_dies_of_listening_is_not_started_for_ever() -> None:
    """Ours: each start costs, and the next one would end in the same way."""
    config = child_config("era=modern", "die-on=subscriptions/listen")
    async with serving(config) as edge, edge.modern() as client:
        answer = await client.post(client.listen_request(toolsListChanged=True))
        assert answer.status_code == 200
        assert answer.json()["error"]["data"] == {
            "reason": "server process ended",
            "retryable": True,
            "exitCode": 3,
        }
        assert await client.ask("echo", text="x") == "x"
        assert edge.supervisor.statistics().started == 2


async def test_a_child_with_listeners_is_not_idle() -> None:
    """protocol.md, D6: do not reap a child that owes something."""
    settings = SessionSettings(idle_timeout=0.1)
    async with (
        serving(CHILD, http=QUICK, settings=settings) as edge,
        edge.modern() as client,
        listening(client) as stream,
    ):
        assert [await stream.next() for _ in range(20)] == [COMMENT] * 20
        await client.ask("change", method=TOOLS)
        assert await told(stream, 1) == [(TOOLS, None)]
        assert edge.supervisor.statistics().started == 1
