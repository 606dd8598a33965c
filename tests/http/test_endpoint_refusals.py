"""What the endpoint refuses: bodies, versions and sessions that make no sense. One table of statuses."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.http import Settings
from stdio_broker.protocol.revisions import KNOWN_VERSIONS, SUPPORTED_VERSIONS
from stdio_broker.sessions import SessionIds
from tests.support.edge import serving, serving_without_sockets

MODERN = "2026-07-28"


def error_in(answer: httpx.Response) -> dict[str, Any]:
    """Return the JSON-RPC error of an answer, with its id under "id"."""
    message = answer.json()
    assert set(message) == {"jsonrpc", "id", "error"}
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = message["error"]
    return {**error, "id": message["id"]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b'{"jsonrpc":"2.0","id":1,"method":"ping"',
        b'{"jsonrpc":"2.0","id":1,"method":"ping"}{}',
        b'{"jsonrpc":"2.0","id":1,"method":"echo/\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
async def test_a_body_that_is_no_json_is_a_parse_error(body: bytes) -> None:
    """JSON-RPC 2.0, 5.1; protocol.md, 9: -32700 with 400 and no id."""
    async with serving_without_sockets() as (_, client):
        await client.open()
        answer = await client.post(body)
        assert (answer.status_code, error_in(answer)["code"]) == (400, -32700)


@pytest.mark.parametrize(
    ("body", "request_id"),
    [
        (b"1", None),
        (b"null", None),
        (b'"text"', None),
        (b"[]", None),
        (b"{}", None),
        (b'{"id":1,"method":"ping"}', 1),
        (b'{"jsonrpc":"1.0","id":"a","method":"ping"}', "a"),
        (b'{"jsonrpc":2.0,"id":1,"method":"ping"}', 1),
        (b'{"jsonrpc":"2.0","id":1}', 1),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', 1),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', None),
        (b'{"jsonrpc":"2.0","id":[1],"method":"ping"}', None),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', None),
    ],
)
async def test_json_that_is_no_json_rpc_is_an_invalid_request(body: bytes, request_id: object) -> None:
    """JSON-RPC 2.0, 4 and 5.1; protocol.md, 9: -32600 with 400, and the id where it could be read."""
    async with serving_without_sockets() as (_, client):
        await client.open()
        answer = await client.post(body)
        error = error_in(answer)
        assert (answer.status_code, error["code"], error["id"]) == (400, -32600, request_id)


@pytest.mark.parametrize("version", [version for version in KNOWN_VERSIONS if version != "2025-03-26"])
async def test_a_batch_is_refused_outside_2025_03_26(version: str) -> None:
    """2025-06-18 and later, transports: the body MUST be a single message."""
    async with serving_without_sockets() as (_, client):
        await client.open(version)
        answer = await client.post([client.request("ping"), client.request("ping")])
        assert (answer.status_code, error_in(answer)["code"]) == (400, -32600)
        assert "POST of its own" in error_in(answer)["message"]


async def test_a_batch_without_a_session_opens_none() -> None:
    """2025-03-26, lifecycle: `initialize` MUST NOT be part of a batch."""
    async with serving_without_sockets() as (edge, client):
        answer = await client.post([client.initialize_request("2025-03-26")])
        assert answer.status_code == 400
        assert edge.supervisor.statistics().started == 0


async def test_a_request_without_a_session_is_told_how_to_open_one() -> None:
    """2025-11-25, transports: without an Mcp-Session-Id, other than for `initialize`, 400."""
    async with serving_without_sockets() as (edge, client):
        answer = await client.post(client.request("tools/list"))
        error = error_in(answer)
        assert (answer.status_code, error["code"], error["id"]) == (400, -32600, 1)
        assert "initialize" in error["message"]
        assert (await client.notify("notifications/initialized")).status_code == 400
        assert (await client.delete()).status_code == 400
        assert (await client.send("GET")).status_code == 400
        assert edge.supervisor.statistics().started == 0


@pytest.mark.parametrize("version", ["1999-01-01", "2025-11-26", "latest", "", "2025-11-25, 2025-11-25"])
async def test_a_version_that_nobody_speaks_is_refused_with_those_that_we_do(version: str) -> None:
    """2025-11-25, transports: an unsupported MCP-Protocol-Version MUST be 400; -32022 as of 2026-07-28."""
    async with serving_without_sockets() as (_, client):
        await client.open()
        headers = {"mcp-protocol-version": version}
        answer = await client.post(client.request("echo/x"), headers)
        error = error_in(answer)
        assert (answer.status_code, error["code"], error["id"]) == (400, -32022, 2)
        assert error["data"] == {"supported": list(SUPPORTED_VERSIONS), "requested": version}
        for verb in ("GET", "DELETE"):
            assert (await client.send(verb, headers)).status_code == 400
        # The session has not noticed.
        assert await client.ask("echo", text="still here") == "still here"


async def test_initialize_under_a_version_header_that_nobody_speaks_opens_no_session() -> None:
    """2025-11-25, transports: an unsupported MCP-Protocol-Version MUST be 400."""
    async with serving_without_sockets() as (edge, client):
        answer = await client.post(client.initialize_request(), {"mcp-protocol-version": "1999-01-01"})
        assert (answer.status_code, error_in(answer)["code"]) == (400, -32022)
        assert edge.supervisor.statistics().started == 0


@pytest.mark.parametrize("version", [None, *KNOWN_VERSIONS])
async def test_every_revision_that_we_speak_and_none_is_a_good_version_header(version: str | None) -> None:
    """2025-11-25, transports: SHOULD be the negotiated one; a missing one is 2025-03-26."""
    async with serving_without_sockets() as (_, client):
        await client.open()
        client.version = version
        assert await client.ask("echo", text="hello") == "hello"


async def test_the_modern_version_header_is_understood_in_a_live_session() -> None:
    """protocol.md, 1, row 0: claude.ai negotiates 2025-11-25 and then names 2026-07-28 in that session."""
    async with serving_without_sockets() as (_, client):
        await client.open()
        client.version = MODERN
        assert await client.ask("echo", text="hello") == "hello"
        assert (await client.notify("notifications/x")).status_code == 202
        assert (await client.delete()).status_code == 200


async def test_a_modern_version_header_over_a_body_without_its_meta_is_refused_for_that() -> None:
    """2026-07-28, basic, "_meta": a request without its version and capabilities MUST be -32602 and 400."""
    async with serving_without_sockets() as (edge, client):
        answer = await client.post(client.request("server/discover"), {"mcp-protocol-version": MODERN})
        assert (answer.status_code, error_in(answer)["code"]) == (400, -32602)
        assert edge.supervisor.statistics().started == 0


async def test_a_session_id_that_is_unknown_ended_or_made_up_is_not_found_on_every_verb() -> None:
    """2025-11-25, transports: an ended session MUST be 404; ours: nobody can tell the four apart."""
    async with serving_without_sockets() as (_, client):
        await client.open()
        ended = client.session_id
        assert ended is not None
        await client.delete()
        last = "0" if ended[-1] != "0" else "1"
        made_up = [ended, ended[:-1] + last, SessionIds().mint(), "x", "../../etc/passwd", "é", ""]
        answers = []
        for client.session_id in made_up:
            answers.append(await client.post(client.request("echo/x", id=1)))
            answers += [await client.send(verb) for verb in ("GET", "DELETE")]
        assert {answer.status_code for answer in answers} == {404}
        assert len({answer.text.replace('"id":1', '"id":null') for answer in answers}) == 1
        assert error_in(answers[0])["id"] == 1


async def test_initialize_within_a_session_is_refused_and_leaves_the_session_alone() -> None:
    """2025-11-25, transports: a new session is opened by an `initialize` without a session id."""
    async with serving_without_sockets() as (edge, client):
        await client.open()
        message = client.initialize_request()
        answer = await client.post(message)
        error = error_in(answer)
        assert (answer.status_code, error["code"], error["id"]) == (400, -32600, message["id"])
        assert "mcp-session-id" not in answer.headers
        assert edge.supervisor.statistics().started == 1
        assert await client.ask("echo", text="hello") == "hello"


@pytest.mark.parametrize("params", [{}, {"params": {}}, {"params": {"protocolVersion": 3}}, {"params": []}])
async def test_initialize_without_a_version_starts_no_child(params: dict[str, Any]) -> None:
    """2025-11-25, lifecycle: `initialize` MUST name a protocol version."""
    async with serving_without_sockets() as (edge, client):
        answer = await client.post(client.request("initialize", **params))
        error = error_in(answer)
        assert (answer.status_code, error["code"], error["id"]) == (400, -32602, 1)
        assert edge.supervisor.statistics().started == 0


async def test_a_body_over_the_limit_is_too_large_and_one_at_the_limit_is_not() -> None:
    """protocol.md, 1: 413; design.md, 5: `max_body_bytes`."""
    async with serving_without_sockets(http=Settings(max_body_bytes=1000)) as (_, client):
        await client.open()
        text = "x" * (1000 - len(json.dumps(client.tool("echo", text=""))) - 1)
        assert await client.ask("echo", text=text) == text
        answer = await client.post(client.tool("echo", text=text + "xx"))
        assert (answer.status_code, error_in(answer)["code"]) == (413, -32600)
        assert await client.ask("echo", text="hello") == "hello"


async def test_a_call_over_the_limit_of_calls_in_flight_is_refused_for_a_while() -> None:
    """Ours: a bounded table of calls; 503 with Retry-After, and only for that call."""
    quick = Settings(keep_alive_interval=0.02)
    async with serving(http=quick, bridge=BridgeSettings(max_calls=2)) as edge, edge.client() as client:
        await client.open()
        async with client.stream(client.tool("wait")), client.stream(client.tool("wait")):
            answer = await client.post(client.tool("echo", text="too many"))
            assert (answer.status_code, error_in(answer)["code"]) == (503, -32603)
            assert int(answer.headers["retry-after"]) >= 1
            await client.notify("notifications/test/release")
        assert await client.ask("echo", text="hello") == "hello"
