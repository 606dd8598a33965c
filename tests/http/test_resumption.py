"""Streams that a client lost and comes back to: ids, what is repeated, what is refused, and polling."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.http import Settings
from stdio_broker.protocol.revisions import KNOWN_VERSIONS, LATEST
from tests.support.edge import Edge, child_config, serving
from tests.support.mcp_client import ANSWER_TIMEOUT, McpClient, Message, text_of

QUICK = Settings(keep_alive_interval=0.02)
POLLING = Settings(poll_interval=0.05, retry_interval=0.02)
LIST_CHANGED = "notifications/tools/list_changed"
OLDER = [version for version in KNOWN_VERSIONS if version != LATEST]


@dataclass(frozen=True, slots=True)
class Event:
    """One event. A comment has neither id nor data."""

    id: str | None
    data: str | None
    retry: int | None

    @property
    def message(self) -> Message:
        """The message in it."""
        assert self.data, self
        message: Message = json.loads(self.data)
        return message


class Events:
    """The events of one answer, with all of their fields."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> Event | None:
        """Return the next event or comment; None at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(ANSWER_TIMEOUT):
            async for line in self._lines:
                if not line:
                    retry = fields.get("retry")
                    return Event(fields.get("id"), fields.get("data"), None if retry is None else int(retry))
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
        return None

    async def message(self) -> Event:
        """Return the next event with a message in it."""
        while (event := await self.next()) is not None:
            if event.data:
                return event
        raise AssertionError("the stream has ended")

    async def rest(self) -> list[Event]:
        """Return the events with messages until the end."""
        events = []
        while (event := await self.next()) is not None:
            if event.data:
                events.append(event)
        return events


@contextlib.asynccontextmanager
async def connected(
    client: McpClient, message: Message | list[Message] | None = None, *, after: str | None = None
) -> AsyncIterator[Events]:
    """POST a message, or GET if there is none; leaving the block hangs up.

    Args:
        client: Whose session it is in.
        message: What to POST.
        after: What to resume: the id of an event.
    """
    fields = client.headers({"last-event-id": after})
    content = None if message is None else json.dumps(message).encode()
    verb = "GET" if message is None else "POST"
    async with (
        httpx.AsyncClient(timeout=ANSWER_TIMEOUT, trust_env=False) as http,
        http.stream(verb, client.url, content=content, headers=fields) as response,
    ):
        yield Events(response)


async def refusal(client: McpClient, after: str) -> tuple[int, Any]:
    """Resume in vain; return status and error."""
    async with connected(client, after=after) as events:
        await events.response.aread()
        return events.response.status_code, events.response.json()["error"]


async def release(client: McpClient) -> None:
    """Let the tool `wait` answer."""
    assert (await client.notify("notifications/test/release")).status_code == 202


async def say(client: McpClient, count: int, method: str = "notifications/message") -> None:
    """Make the child send notifications in a call of their own, which answers last."""
    assert await client.ask("say", count=count, method=method) == "said"


def number_in(event: Event) -> int:
    """Return the number of a notification of the tool `say`."""
    number: int = event.message["params"]["data"]
    return number


# Ids.


async def test_a_stream_is_primed_with_an_id_and_told_when_to_come_back() -> None:
    """2025-11-25, transports: an event ID and empty data, to prime the client to reconnect; `retry`."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        for message in (client.tool("wait"), None):
            async with connected(client, message) as events:
                event = await events.next()
                assert event is not None
                assert event.id
                assert (event.data, event.retry) == ("", 1000)
                comment = await events.next()
                assert comment == Event(None, None, None)
        await release(client)


@pytest.mark.parametrize("version", OLDER)
async def test_older_clients_get_ids_with_messages_only_and_no_empty_data(version: str) -> None:
    """protocol.md, 7: clients of before 2025-11-25 choke on empty data."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open(version)
        async with connected(client) as get, connected(client, client.tool("wait")) as post:
            for events in (get, post):
                assert await events.next() == Event(None, None, None)
            await release(client)
            (answer,) = await post.rest()
            assert answer.id == "1_1"
            assert answer.retry is None


async def test_ids_are_unique_in_the_session_and_tell_the_stream() -> None:
    """2025-11-25, transports: globally unique across all streams, and enough to identify the stream."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with connected(client) as get:
            streams = []
            for _ in range(3):
                async with connected(client, client.tool("say", count=3)) as post:
                    streams.append(await post.rest())
            await say(client, 3, LIST_CHANGED)
            streams.append([await get.message() for _ in range(3)])
        ids = [[event.id or "" for event in events] for events in streams]
        assert len({identifier for stream in ids for identifier in stream}) == sum(map(len, ids)) == 15
        names = [{identifier.partition("_")[0] for identifier in stream} for stream in ids]
        assert all(len(stream) == 1 for stream in names)
        assert len(set.union(*names)) == 4


async def test_a_batch_is_answered_without_ids() -> None:
    """Ours: it is several streams on one connection; the last id would name only one of them."""
    async with serving() as edge, edge.client() as client:
        await client.open("2025-03-26")
        async with connected(client, [client.tool("say", count=1), client.tool("say", count=1)]) as post:
            events = await post.rest()
        assert len(events) == 4
        assert not any(event.id for event in events)


# Coming back.


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
async def test_a_call_whose_stream_broke_is_answered_on_the_stream_that_resumes_it(version: str) -> None:
    """2025-11-25, transports, "Resumability": always by GET, whatever the stream was; then it goes on."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open(version)
        async with connected(client, client.tool("wait")) as lost:
            await say(client, 3)  # of a second call, but there is no GET: on the oldest
            first = await lost.message()
            assert number_in(first) == 0
        async with connected(client, after=first.id) as resumed:
            assert resumed.response.status_code == 200
            assert resumed.response.headers["content-type"] == "text/event-stream"
            assert [number_in(await resumed.message()) for _ in range(2)] == [1, 2]
            await release(client)
            (answer,) = await resumed.rest()
            assert text_of(answer.message) == "released"


async def test_an_answer_that_came_while_the_client_was_away_waits_for_it() -> None:
    """Issue 4: the exchange goes on collecting; the answer is kept."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        async with connected(client, client.tool("wait")) as lost:
            primed = await lost.next()
        assert primed is not None
        await release(client)
        assert await client.ask("echo", text="hello") == "hello"
        assert primed.id is not None
        async with connected(client, after=primed.id) as resumed:
            (answer,) = await resumed.rest()
            assert text_of(answer.message) == "released"
        # And it may be fetched again, should that connection have broken too.
        async with connected(client, after=primed.id) as again:
            assert await again.rest() == [answer]
        async with connected(client, after=answer.id) as nothing:
            assert await nothing.rest() == []


async def test_a_call_of_a_modern_child_is_resumed_and_polled_likewise() -> None:
    """Issue 4: the duties of the old transport do not depend on the child."""
    async with serving(child_config("era=modern"), http=POLLING) as edge, edge.client() as client:
        await client.open()
        async with connected(client, client.tool("wait", seconds=0.3)) as post:
            event = await post.next()
            assert await post.rest() == []
        answers: list[Event] = []
        while not answers:
            assert event is not None
            async with connected(client, after=event.id) as get:
                event = await get.next()
                answers = [event] if event is not None and event.data else await get.rest()
        assert [text_of(answer.message) for answer in answers] == ["waited"]


async def test_a_stream_that_was_written_to_its_end_is_repeated_from_any_of_its_events() -> None:
    """Ours: written is not read; a broken connection loses what it held."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with connected(client, client.tool("say", count=4)) as whole:
            events = await whole.rest()
        for seen, event in enumerate(events):
            async with connected(client, after=event.id) as resumed:
                assert await resumed.rest() == events[seen + 1 :]


async def test_only_the_stream_that_was_lost_is_repeated() -> None:
    """2025-11-25, transports: MUST NOT replay messages that would have been on a different stream."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        async with connected(client) as get, connected(client, client.tool("wait")) as post:
            primed = await post.next()
            await say(client, 2, LIST_CHANGED)
            seen = [await get.message() for _ in range(2)]
        assert primed is not None
        await release(client)
        async with connected(client, after=primed.id) as resumed:
            (answer,) = await resumed.rest()
            assert text_of(answer.message) == "released"
        async with connected(client, after=seen[0].id) as resumed:
            assert await resumed.message() == seen[1]


async def test_a_get_stream_goes_on_where_it_was_left_with_what_came_meanwhile() -> None:
    """2025-11-25, transports: regardless of how the original stream was initiated."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with connected(client) as lost:
            await client.call("say", count=2, method=LIST_CHANGED, after=True)
            first, second = [await lost.message() for _ in range(2)]
        async with connected(client, after=first.id) as resumed:
            assert await resumed.message() == second
            await client.call("say", count=3, method=LIST_CHANGED, after=True)
            events = [await resumed.message() for _ in range(3)]
            assert [number_in(event) for event in events] == [0, 1, 2]
            assert len({event.id for event in (first, second, *events)}) == 5


async def test_an_empty_last_event_id_opens_a_stream_as_none_does() -> None:
    """WHATWG, server-sent events: a client with an empty last event id has none."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with connected(client, after="") as events:
            assert events.response.status_code == 200


async def test_the_later_of_two_resumes_takes_over() -> None:
    """Issue 4; 2025-11-25, transports: each message on one stream only."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        async with connected(client, client.tool("wait")) as lost:
            primed = await lost.next()
            assert primed is not None
            async with connected(client, after=primed.id) as first:
                assert await lost.rest() == []
                async with connected(client, after=primed.id) as second:
                    assert await first.rest() == []
                    await release(client)
                    (answer,) = await second.rest()
                    assert text_of(answer.message) == "released"


async def test_a_question_is_asked_again_on_the_stream_that_resumes_its_call() -> None:
    """Ours: the child waits for its answer, whatever happened to the connection."""
    asking = {"questions": [{"id": 1, "method": "roots/list"}]}
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with connected(client, client.tool("ask", **asking)) as lost:
            primed = await lost.next()
            question = await lost.message()
        assert primed is not None
        async with connected(client, after=primed.id) as resumed:
            assert await resumed.message() == question
            reply = {"jsonrpc": "2.0", "id": question.message["id"], "result": {"roots": []}}
            assert (await client.post(reply)).status_code == 202
            (answer,) = await resumed.rest()
            assert json.loads(json.loads(text_of(answer.message))[0])["result"] == {"roots": []}


# What cannot be resumed.


async def one_call(client: McpClient, count: int = 3) -> list[Event]:
    """Return the events of a call."""
    async with connected(client, client.tool("say", count=count)) as events:
        return await events.rest()


@pytest.mark.parametrize(
    ("event_id", "status"),
    [
        ("nonsense", 400),
        ("1", 400),
        ("1_1; drop", 400),
        ("-1_1", 400),
        ("99_1", 404),
        ("1_99", 404),
        ("0_0", 404),
    ],
)
async def test_an_id_that_is_none_of_the_session_s_is_refused_in_words(event_id: str, status: int) -> None:
    """protocol.md, 7: 400 or 404; 2025-11-25, transports: after 404 a client opens a new session."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        await one_call(client)
        found, error = await refusal(client, event_id)
        assert (found, error["code"]) == (status, -32600)
        assert "Last-Event-ID" in error["message"]


async def test_a_resume_below_the_horizon_is_refused_and_above_it_is_not() -> None:
    """protocol.md, 7: overflow drops the oldest event of the session."""
    async with serving(bridge=BridgeSettings(max_replay_events=2)) as edge, edge.client() as client:
        await client.open()
        events = await one_call(client)
        assert events[0].id is not None
        status, error = await refusal(client, events[0].id)
        assert status == 404
        assert "initialize" in error["message"]
        async with connected(client, after=events[1].id) as resumed:
            assert await resumed.rest() == events[2:]


async def test_a_stream_of_another_session_is_an_unknown_one() -> None:
    """Issue 4: nothing of a session is reached by way of another."""
    async with serving() as edge, edge.client() as client, edge.client() as stranger:
        await client.open()
        await stranger.open()
        events = await one_call(client)
        assert events[0].id is not None
        assert (await refusal(stranger, events[0].id))[0] == 404


async def test_who_comes_back_too_late_is_refused() -> None:
    """Issue 4: `resume_timeout`."""
    async with serving(bridge=BridgeSettings(resume_timeout=0.01)) as edge, edge.client() as client:
        await client.open()
        events = await one_call(client)
        assert events[0].id is not None
        async with asyncio.timeout(ANSWER_TIMEOUT):
            while (await refused_or_not(client, events[0].id)) != 404:
                pass


async def refused_or_not(client: McpClient, after: str) -> int:
    """Return the status of a resume."""
    async with connected(client, after=after) as events:
        return events.response.status_code


async def test_streams_end_with_their_session() -> None:
    """Issue 4: everything dies with the session."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        async with connected(client, client.tool("wait")) as lost:
            primed = await lost.next()
        assert primed is not None
        assert primed.id is not None
        await client.delete()
        assert (await refusal(client, primed.id))[0] == 404


# A session is busy while a call of it waits for its client.


async def test_a_drain_waits_for_a_client_that_has_lost_the_stream_of_its_call() -> None:
    """Issue 4: suspended exchanges count as busy; resuming is no new call."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        async with connected(client, client.tool("wait")) as lost:
            primed = await lost.next()
        assert primed is not None
        await release(client)
        await client.ask("echo", text="the answer is here")
        drain = asyncio.create_task(edge.sessions.drain(ANSWER_TIMEOUT))
        await asyncio.sleep(0)
        assert not drain.done()
        async with connected(client, after=primed.id) as resumed:
            (answer,) = await resumed.rest()
            assert text_of(answer.message) == "released"
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await drain


# Polling.


async def polled(edge: Edge, client: McpClient, polls: int) -> None:
    """Poll a call a few times in vain, then let it answer."""
    async with connected(client, client.tool("wait")) as post:
        event = await post.next()
        assert event is not None
        assert (event.data, event.retry) == ("", 20)
        assert await post.rest() == []
    ids = [event.id]
    for _ in range(polls):
        async with connected(client, after=ids[-1]) as get:
            event = await get.next()
            assert event is not None
            assert (event.data, event.retry) == ("", 20)
            assert await get.rest() == []
        ids.append(event.id)
    assert len(set(ids)) == polls + 1, "each with an id of its own"
    await release(client)
    assert await client.ask("echo", text="the answer is here") == "the answer is here"
    async with connected(client, after=ids[-1]) as get:
        (answer,) = await get.rest()
        assert text_of(answer.message) == "released"
    assert edge.children == 1


async def test_a_silent_call_is_closed_after_a_while_and_polled_for_its_answer() -> None:
    """SEP-1699: the server MAY disconnect once it has sent an id; it holds the answer until it is fetched."""
    async with serving(http=POLLING) as edge, edge.client() as client:
        await client.open()
        await polled(edge, client, 3)


async def test_an_answer_that_comes_first_is_json_with_polling_too() -> None:
    async with serving(http=POLLING) as edge, edge.client() as client:
        await client.open()
        answer = await client.post(client.tool("echo", text="hello"))
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("version", OLDER)
async def test_older_clients_are_not_made_to_poll(version: str) -> None:
    """SEP-1699 is part of 2025-11-25: an older client would take the end for a failure."""
    async with serving(http=POLLING) as edge, edge.client() as client:
        await client.open(version)
        async with connected(client, client.tool("wait", seconds=0.3)) as post:
            await post.response.aread()
            assert "waited" in post.response.text


async def test_a_stream_is_not_closed_when_its_call_could_not_wait() -> None:
    """SEP-1699 is a MAY; an answer that nobody can fetch would be lost."""
    bridge = BridgeSettings(max_suspended=0)
    async with serving(http=POLLING, bridge=bridge) as edge, edge.client() as client:
        await client.open()
        async with connected(client, client.tool("wait", seconds=0.3)) as post:
            (answer,) = await post.rest()
            assert text_of(answer.message) == "waited"


async def test_the_stream_of_a_get_is_not_closed() -> None:
    """Issue 4: polling is for calls."""
    async with serving(http=POLLING) as edge, edge.client() as client:
        await client.open()
        async with connected(client) as get:
            await polled(edge, client, 3)  # which takes longer than the GET would be left open
            await client.call("say", count=1, method=LIST_CHANGED, after=True)
            assert number_in(await get.message()) == 0


async def test_the_official_client_polls_for_an_answer() -> None:
    """The Python SDK reconnects by itself: it does not notice that its call was closed many times."""
    async with (
        serving(http=POLLING) as edge,
        streamable_http_client(edge.url) as (read, write, *_),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        async with asyncio.timeout(ANSWER_TIMEOUT):
            result = await session.call_tool("wait", {"seconds": 0.5})
        assert "waited" in str(result.content)
