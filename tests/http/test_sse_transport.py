"""The HTTP+SSE transport of 2024-11-05: one stream for everything the server says, and a path to POST to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from urllib.parse import urljoin

import httpx
import pytest
from click.testing import CliRunner
from mcp import ClientSession
from mcp.client.sse import sse_client

from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.cli import main
from stdio_broker.http import Settings, sse_transport
from stdio_broker.sessions import Settings as SessionSettings
from stdio_broker.supervisor import Config
from tests.support.edge import Edge, child_config, serving, serving_without_sockets
from tests.support.mcp_client import ANSWER_TIMEOUT, McpClient, Message, text_of
from tests.support.processes import wait_until

ON = Settings(legacy_sse=True)
QUICK = Settings(legacy_sse=True, keep_alive_interval=0.02)
JSON = {"content-type": "application/json"}


class SseClient(McpClient):
    """A client of the old transport; it makes the messages, as its base does.

    Attributes:
        messages: Where to POST.
        comments: How many there were.
    """

    def __init__(self, edge: Edge) -> None:
        super().__init__(edge.url.replace("/mcp", "/sse"))
        self.messages = ""
        self.comments = 0
        self._response: httpx.Response | None = None

    @contextlib.asynccontextmanager
    async def connect(self, **headers: str) -> AsyncIterator[SseClient]:
        """Open the stream and read where to POST; leaving the block hangs up."""
        fields = {"accept": "text/event-stream", **headers}
        async with self._http.stream("GET", self.url, headers=fields) as response:
            self._response = response
            self._lines = response.aiter_lines()
            assert response.status_code == 200
            kind, data = await self._event() or ("", "")
            assert kind == "endpoint"
            self.messages = urljoin(self.url, data)
            yield self

    async def say(
        self, message: Message | list[Message] | bytes, *, to: str | None = None, **headers: str
    ) -> httpx.Response:
        """POST a message."""
        content = message if isinstance(message, bytes) else json.dumps(message).encode()
        return await self._http.post(to or self.messages, content=content, headers={**JSON, **headers})

    async def hear(self) -> Message:
        """Return the next message of the server."""
        event = await self._event()
        assert event is not None, "the stream has ended"
        assert event[0] == "message"
        message: Message = json.loads(event[1])
        return message

    async def ended(self) -> bool:
        """Whether the stream ends here."""
        return await self._event() is None

    async def open_session(self, version: str = "2024-11-05") -> Message:
        """Send `initialize`; return its answer."""
        assert (await self.say(self.initialize_request(version))).status_code == 202
        answer = await self.hear()
        notification = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await self.say(notification)).status_code == 202
        return answer

    async def call_tool(self, name: str, **arguments: object) -> str:
        """Call a tool; return the text of the next message, which must be its answer."""
        request = self.tool(name, **arguments)
        assert (await self.say(request)).status_code == 202
        answer = await self.hear()
        assert answer["id"] == request["id"]
        return text_of(answer)

    async def _event(self) -> tuple[str, str] | None:
        fields: dict[str, str] = {}
        async with asyncio.timeout(ANSWER_TIMEOUT):
            async for line in self._lines:
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    assert set(fields) == {"event", "data"}, (
                        "an id would promise what this transport cannot do"
                    )
                    return fields["event"], fields["data"]
        return None


@contextlib.asynccontextmanager
async def sse_edge(
    config: Config | None = None,
    *,
    http: Settings = ON,
    settings: SessionSettings | None = None,
    bridge: BridgeSettings | None = None,
) -> AsyncIterator[tuple[Edge, SseClient]]:
    """Serve a child, with a client that is not connected yet."""
    async with (
        serving(config, http=http, settings=settings, bridge=bridge) as edge,
        SseClient(edge) as client,
    ):
        yield edge, client


# The switch.


@pytest.mark.parametrize(("method", "path"), [("GET", "/sse"), ("POST", "/messages?session_id=x")])
async def test_it_is_off_by_default(method: str, path: str) -> None:
    """design.md, 5: deprecated, so only for who asks for it."""
    async with serving_without_sockets() as (edge, client):
        client.url = edge.url.replace("/mcp", path)
        assert (await client.send(method)).status_code == 404


def test_the_switch_says_that_it_is_deprecated() -> None:
    """Issue 4: off by default, one switch."""
    help_text = " ".join(CliRunner().invoke(main, ["run", "--help"]).output.split())
    _, _, text = help_text.partition("--legacy-sse")
    assert "Deprecated" in text[:160]


async def test_the_endpoint_of_the_newer_revisions_is_served_as_ever() -> None:
    """2025-11-25, transports, "Backwards Compatibility": both, side by side."""
    async with serving(http=ON) as edge, edge.client() as client:
        await client.open()
        assert await client.ask("echo", text="hello") == "hello"


async def test_the_paths_stand_beside_the_endpoint_s() -> None:
    """protocol.md, 1: `/{server}/sse` and `/{server}/messages`."""
    http = Settings(path="/git/mcp", legacy_sse=True)
    async with sse_edge(http=http) as (_, client), client.connect():
        assert "/git/messages?session_id=" in client.messages
        await client.open_session()


# A session.


async def test_the_first_event_tells_where_to_post_and_answers_come_on_the_stream() -> None:
    """2024-11-05, transports: an `endpoint` event, then every message of the server as a `message` event."""
    async with sse_edge() as (edge, client), client.connect():
        assert client._response is not None  # noqa: SLF001 - of this file
        assert client._response.headers["content-type"] == "text/event-stream"  # noqa: SLF001
        assert client.messages.startswith(edge.url.replace("/mcp", "/messages?session_id="))
        assert edge.children == 0, "nothing is started for a client that says nothing"
        answer = await client.open_session()
        assert answer["result"]["protocolVersion"] == "2024-11-05"
        response = await client.say(client.tool("echo", text="hello"))
        assert (response.status_code, response.content) == (202, b"")
        assert "mcp-session-id" not in response.headers
        assert text_of(await client.hear()) == "hello"


async def test_the_session_ends_with_its_stream() -> None:
    """Issue 4; the place is free and the child gone."""
    async with sse_edge() as (edge, client):
        async with client.connect():
            await client.open_session()
            assert edge.children == 1
        await wait_until(lambda: edge.children == 0)
        assert edge.sessions.statistics().sessions == 0
        assert (await client.say(client.tool("pid"))).status_code == 404


async def test_the_stream_ends_with_its_session() -> None:
    """Ours: the client shall notice at once; and first it gets what its calls come to."""
    async with sse_edge(http=QUICK) as (edge, client), client.connect():
        await client.open_session()
        call = client.tool("wait")
        assert (await client.say(call)).status_code == 202
        edge.sessions.end_all("the test says so")
        answer = await client.hear()
        assert answer["id"] == call["id"]
        assert answer["error"]["data"]["reason"] == "session ended"
        assert await client.ended()
        assert (await client.say(client.tool("pid"))).status_code == 404


async def test_calls_are_answered_in_any_order_beside_what_the_server_says_by_itself() -> None:
    """2024-11-05, transports: one stream for all of it."""
    async with sse_edge(http=QUICK) as (_, client), client.connect():
        await client.open_session()
        waiting = client.tool("wait")
        assert (await client.say(waiting)).status_code == 202
        assert await client.call_tool("echo", text="hello") == "hello"
        assert (await client.say(client.tool("say", count=3))).status_code == 202
        messages = [await client.hear() for _ in range(4)]
        assert sum("method" in message for message in messages) == 3
        assert await client.call_tool("wait", seconds=0.2) == "waited"
        await client.say({"jsonrpc": "2.0", "method": "notifications/test/release"})
        assert (await client.hear())["id"] == waiting["id"]
        assert client.comments > 0, "a silent stream gets comments, as every other one"


async def test_what_the_server_asks_is_answered_by_a_post() -> None:
    """2024-11-05: sampling and roots are requests of the server."""
    async with sse_edge() as (_, client), client.connect():
        await client.open_session()
        asking = client.tool("ask", questions=[{"id": 1, "method": "roots/list"}])
        assert (await client.say(asking)).status_code == 202
        question = await client.hear()
        reply = {"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}}
        assert (await client.say(reply)).status_code == 202
        assert "roots" in text_of(await client.hear())


async def test_a_call_can_be_cancelled() -> None:
    """2024-11-05, cancellation: a notification."""
    async with sse_edge() as (_, client), client.connect():
        await client.open_session()
        call = client.tool("wait")
        await client.say(call)
        params = {"requestId": call["id"]}
        await client.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        assert (await client.hear())["error"]["code"] == -32800


async def test_a_batch_is_taken_in_a_session_whose_revision_has_them() -> None:
    """2025-03-26, basic: batches MUST be received, over whatever transport."""
    async with sse_edge() as (_, client), client.connect():
        batch = [client.tool("echo", text="a"), client.tool("echo", text="b")]
        assert (await client.say(batch)).status_code == 400
        await client.open_session("2025-03-26")
        assert (await client.say(batch)).status_code == 202
        assert {text_of(await client.hear()) for _ in batch} == {"a", "b"}


async def test_it_works_over_a_modern_child_too() -> None:
    """Issue 4: any client, any child."""
    async with sse_edge(child_config("era=modern")) as (_, client), client.connect():
        assert (await client.open_session())["result"]["protocolVersion"] == "2024-11-05"
        assert await client.call_tool("echo", text="hello") == "hello"
        assert (await client.say(client.request("ping"))).status_code == 202
        assert (await client.hear())["result"] == {}


async def test_two_clients_do_not_see_each_other() -> None:
    async with sse_edge() as (edge, one), SseClient(edge) as other, one.connect(), other.connect():
        assert one.messages != other.messages
        await one.open_session()
        await other.open_session()
        assert await one.call_tool("pid") != await other.call_tool("pid")


async def test_the_official_client_works() -> None:
    """The Python SDK's client of this transport."""
    async with (
        serving(http=ON) as edge,
        sse_client(edge.url.replace("/mcp", "/sse")) as (read, write),
        ClientSession(read, write) as session,
    ):
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await session.initialize()
            result = await session.call_tool("say", {"count": 2})
        assert "said" in str(result.content)


# `initialize`.


async def test_a_message_before_initialize_is_refused() -> None:
    """2024-11-05, lifecycle: initialization MUST be the first interaction."""
    async with sse_edge() as (edge, client), client.connect():
        for message in (client.tool("pid"), {"jsonrpc": "2.0", "method": "notifications/initialized"}):
            answer = await client.say(message)
            assert answer.status_code == 400
            assert "initialize" in answer.json()["error"]["message"]
        assert edge.children == 0


async def test_initialize_is_taken_once() -> None:
    async with sse_edge() as (edge, client), client.connect():
        await client.open_session()
        answer = await client.say(client.initialize_request())
        assert answer.status_code == 400
        assert "already" in answer.json()["error"]["message"]
        assert edge.children == 1


async def test_a_server_that_cannot_be_started_is_told_on_the_stream_and_the_client_may_try_again() -> None:
    """Ours: the POST is answered at once; starting a server may take a minute."""
    async with sse_edge(Config(cmd=("/nonexistent/server",))) as (_, client), client.connect():
        for _ in range(2):
            request = client.initialize_request()
            assert (await client.say(request)).status_code == 202
            answer = await client.hear()
            assert answer["id"] == request["id"]
            assert "could not be started" in answer["error"]["message"]
            assert "nonexistent" not in answer["error"]["message"]


async def test_a_refusal_of_the_server_is_passed_on_and_the_client_may_try_again() -> None:
    async with sse_edge(child_config("refuse=not you")) as (edge, client), client.connect():
        for _ in range(2):
            assert (await client.say(client.initialize_request())).status_code == 202
            assert (await client.hear())["error"]["message"] == "not you"
        await wait_until(lambda: edge.children == 0)


async def test_a_client_that_goes_while_its_server_starts_leaves_no_child() -> None:
    async with sse_edge(child_config("silent")) as (edge, client):
        async with client.connect():
            assert (await client.say(client.initialize_request())).status_code == 202
            await wait_until(lambda: edge.children == 1)
        await wait_until(lambda: edge.children == 0)


async def test_a_client_that_never_sends_initialize_does_not_stay() -> None:
    """Ours: `receive_timeout` bounds what a client may leave unsaid."""
    async with sse_edge(http=Settings(legacy_sse=True, receive_timeout=0.2)) as (_, client), client.connect():
        assert await client.ended()
        assert (await client.say(client.initialize_request())).status_code == 404


async def test_clients_that_have_not_sent_initialize_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: they cost no child, so `max_sessions` does not bound them."""
    monkeypatch.setattr(sse_transport, "MAX_WAITING", 1)
    async with sse_edge() as (edge, client), SseClient(edge) as other, client.connect():
        answer = await other.send("GET", {"accept": "text/event-stream"})
        assert answer.status_code == 503
        assert "retry-after" in answer.headers
        await client.open_session()
        async with other.connect():
            pass


async def test_the_bounds_of_a_session_hold_here_too() -> None:
    settings = SessionSettings(max_sessions=1)
    async with (
        sse_edge(settings=settings) as (edge, client),
        SseClient(edge) as other,
        client.connect(),
        other.connect(),
    ):
        await client.open_session()
        assert (await other.say(other.initialize_request())).status_code == 202
        assert "in use" in (await other.hear())["error"]["message"]


async def test_a_call_over_the_limit_is_refused_with_its_post() -> None:
    async with sse_edge(bridge=BridgeSettings(max_calls=1)) as (_, client), client.connect():
        await client.open_session()
        assert (await client.say(client.tool("wait"))).status_code == 202
        answer = await client.say(client.tool("pid"))
        assert answer.status_code == 503
        assert "in flight" in answer.json()["error"]["message"]


# Guards.


@pytest.mark.parametrize(
    "query", ["", "?", "?session_id=", "?session_id=unknown", "?x=$ID", "?session_id=$ID&session_id=$ID"]
)
async def test_an_unknown_stream_is_404(query: str) -> None:
    """Issue 4: foreign and unknown ids are alike."""
    async with sse_edge() as (_, client), client.connect():
        path, _, own = client.messages.partition("?session_id=")
        to = path + query.replace("$ID", own)
        for message in (client.initialize_request(), client.tool("pid")):
            answer = await client.say(message, to=to)
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == -32600


async def test_the_session_behind_a_stream_cannot_be_reached_by_the_endpoint_with_its_id() -> None:
    """Ours: the two ids are different things."""
    async with sse_edge() as (edge, client), client.connect(), edge.client() as stranger:
        await client.open_session()
        stranger.session_id = client.messages.partition("=")[2]
        assert (await stranger.post(stranger.tool("pid"))).status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example.com"}, 421),
        ({"origin": "https://evil.example.com"}, 403),
        ({"content-type": "text/plain"}, 415),
    ],
)
async def test_a_post_is_guarded_as_everywhere(headers: dict[str, str], status: int) -> None:
    """2024-11-05, transports: servers MUST validate the Origin header."""
    async with sse_edge() as (_, client), client.connect():
        answer = await client.say(client.initialize_request(), **headers)
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example.com"}, 421),
        ({"origin": "https://evil.example.com"}, 403),
        ({"accept": "application/json"}, 406),
    ],
)
async def test_a_get_is_guarded_as_everywhere(headers: dict[str, str], status: int) -> None:
    async with sse_edge() as (_, client):
        answer = await client.send("GET", {"accept": "text/event-stream", **headers})
        assert answer.status_code == status


async def test_a_body_is_bounded_and_must_be_json_rpc() -> None:
    async with sse_edge(http=Settings(legacy_sse=True, max_body_bytes=1000)) as (_, client), client.connect():
        await client.open_session()
        assert (await client.say(client.tool("echo", text="x" * 1000))).status_code == 413
        assert (await client.say(b"nonsense")).json()["error"]["code"] == -32700
        assert await client.call_tool("echo", text="hello") == "hello"


@pytest.mark.parametrize(("path", "verb", "allowed"), [("/sse", "POST", "GET"), ("/messages", "GET", "POST")])
async def test_the_other_method_is_refused(path: str, verb: str, allowed: str) -> None:
    async with sse_edge() as (edge, client):
        client.url = edge.url.replace("/mcp", path)
        answer = await client.send(verb, {"accept": "text/event-stream"})
        assert answer.status_code == 405
        assert answer.headers["allow"] == allowed


async def test_a_page_of_an_allowed_origin_may_use_it() -> None:
    """WHATWG Fetch: the preflight, and the answers."""
    page = "https://app.example.com"
    http = Settings(legacy_sse=True, allowed_origins=frozenset({page}))
    async with sse_edge(http=http) as (edge, client):
        client.url = edge.url.replace("/mcp", "/messages")
        preflight = await client.send("OPTIONS", {"origin": page, "access-control-request-method": "POST"})
        assert preflight.status_code == 204
        client.url = edge.url.replace("/mcp", "/sse")
        async with client.connect(origin=page):
            assert client._response is not None  # noqa: SLF001 - of this file
            assert client._response.headers["access-control-allow-origin"] == page  # noqa: SLF001


# Slow readers, and the end.


async def test_a_client_that_does_not_read_costs_its_own_session_only() -> None:
    """design.md, 4: what waits is bounded, and so is the time."""
    http = Settings(legacy_sse=True, write_timeout=0.2)
    async with sse_edge(http=http) as (edge, slow), SseClient(edge) as other:
        async with slow.connect():
            await slow.open_session()
            async with other.connect():
                await other.open_session()
                status = 202
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    while status != 404:
                        status = (await slow.say(slow.tool("blob", bytes=1_000_000))).status_code
                        assert status in {202, 503, 404}
                assert await other.call_tool("echo", text="hello") == "hello"
        await wait_until(lambda: edge.children == 0)


@pytest.mark.parametrize(("bound", "value"), [("MAX_CALLS", 2), ("MAX_WAITING_BYTES", 100_000)])
async def test_answers_that_nobody_reads_are_bounded(
    monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """Ours: a POST is over at once here, so its connection bounds nothing."""
    monkeypatch.setattr(sse_transport, bound, value)
    async with sse_edge() as (_, client), client.connect():
        await client.open_session()
        async with asyncio.timeout(ANSWER_TIMEOUT):
            while (answer := await client.say(client.tool("blob", bytes=1_000_000))).status_code != 503:
                pass
        assert "wait for this client" in answer.json()["error"]["message"]
        text = await _until_accepted(client)
        assert text == "hello"


async def _until_accepted(client: SseClient) -> str:
    """Read what waits until there is room for a call again; return its answer."""
    request = client.tool("echo", text="hello")
    while (await client.say(request)).status_code == 503:
        await client.hear()
    while (answer := await client.hear())["id"] != request["id"]:
        pass
    return text_of(answer)


async def test_a_child_that_dies_fails_its_calls_and_ends_the_stream() -> None:
    async with sse_edge() as (edge, client), client.connect():
        await client.open_session()
        assert (await client.say(client.tool("die", code=3))).status_code == 202
        assert (await client.hear())["error"]["data"]["exitCode"] == 3
        assert await client.ended()
        await wait_until(lambda: edge.sessions.statistics().places == 0)


async def test_an_idle_session_ends_though_its_stream_is_open() -> None:
    """Sessions' rule: the client may have vanished without a word."""
    async with sse_edge(settings=SessionSettings(idle_timeout=0.2)) as (_, client), client.connect():
        await client.open_session()
        assert await client.ended()


async def test_while_draining_nothing_new_begins_and_calls_finish() -> None:
    async with sse_edge() as (edge, client), SseClient(edge) as other, client.connect(), other.connect():
        await client.open_session()
        call = client.tool("wait")
        await client.say(call)
        drain = asyncio.create_task(edge.sessions.drain(ANSWER_TIMEOUT))
        await asyncio.sleep(0)
        assert (await client.say(client.tool("pid"))).status_code == 503
        assert (await other.say(other.initialize_request())).status_code == 503
        assert await other.ended(), "it would only wait for what cannot come"
        other.url = edge.url.replace("/mcp", "/sse")
        assert (await other.send("GET", {"accept": "text/event-stream"})).status_code == 503
        await client.say({"jsonrpc": "2.0", "method": "notifications/test/release"})
        assert (await client.hear())["id"] == call["id"]
        await drain
