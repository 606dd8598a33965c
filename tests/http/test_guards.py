"""Who may talk to the endpoint, and in which form: refused before anything is started."""

from __future__ import annotations

import httpx
import pytest

from stdio_broker.http import LOOPBACK_HOSTS, Settings
from tests.support.edge import serving_without_sockets
from tests.support.mcp_client import McpClient

Headers = dict[str, str | None]


async def refusal(
    headers: Headers, *, verb: str = "POST", settings: Settings | None = None
) -> httpx.Response:
    """Return the answer to an `initialize` with these header fields; fail if it started a child."""
    async with serving_without_sockets(http=settings) as (edge, client):
        answer = await _send(client, verb, headers)
        assert edge.supervisor.statistics().started == 0
    error = answer.json()
    assert error["jsonrpc"] == "2.0"
    assert error["id"] is None
    assert error["error"]["message"]
    return answer


async def accepted(headers: Headers, *, settings: Settings | None = None) -> bool:
    """Tell whether an `initialize` with these header fields opens a session."""
    async with serving_without_sockets(http=settings) as (_, client):
        answer = await _send(client, "POST", headers)
        return answer.status_code == 200 and "mcp-session-id" in answer.headers


async def _send(client: McpClient, verb: str, headers: Headers) -> httpx.Response:
    if verb == "POST":
        return await client.post(client.initialize_request(), headers)
    return await client.send(verb, headers)


@pytest.mark.parametrize("verb", ["POST", "GET", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "host",
    [
        "evil.example.com",
        "evil.example.com:8080",
        "127.0.0.1.evil.example.com",
        "localhost.evil.example.com:8080",
        "localhost@evil.example.com",
        "[::2]:8080",
        "",
    ],
)
async def test_a_request_for_another_host_is_misdirected(host: str, verb: str) -> None:
    """protocol.md, 1: Host outside the allow-list is 421; the guard against DNS rebinding, on every verb."""
    assert (await refusal({"host": host}, verb=verb)).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "LocalHost:1", "[::1]:8080"])
async def test_every_name_of_this_machine_is_our_host(host: str) -> None:
    """Ours: on a loopback address, the name that a client uses for it does not matter."""
    assert await accepted({"host": host})


async def test_a_host_that_the_operator_allows_is_ours_whatever_the_port() -> None:
    """Ours: `--allow-host`."""
    settings = Settings(allowed_hosts=LOOPBACK_HOSTS | {"mcp.example.com"})
    assert await accepted({"host": "MCP.example.com:443"}, settings=settings)


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example.com",
        "https://evil.example.com:8080",
        "http://127.0.0.1.evil.example.com",
        "http://localhost:80@evil.example.com",
        "http://[::1",
        "null",
        "",
        "file://",
        "localhost",
    ],
)
async def test_a_page_of_another_origin_is_forbidden(origin: str) -> None:
    """2025-11-25, transports: an invalid Origin MUST be answered with 403."""
    assert (await refusal({"origin": origin})).status_code == 403


@pytest.mark.parametrize("verb", ["GET", "DELETE", "OPTIONS"])
async def test_the_origin_is_checked_on_every_verb(verb: str) -> None:
    """2025-11-25, transports: Origin is validated on all incoming connections."""
    assert (await refusal({"origin": "http://evil.example.com"}, verb=verb)).status_code == 403


@pytest.mark.parametrize("origin", ["http://localhost:5173", "http://127.0.0.1", "https://[::1]:8443"])
async def test_a_page_of_this_machine_is_welcome(origin: str) -> None:
    """Ours: local development tools run in a browser."""
    assert await accepted({"origin": origin})


async def test_an_origin_that_the_operator_allows_is_welcome() -> None:
    """Ours: `--allow-origin`."""
    settings = Settings(allowed_origins=frozenset({"https://app.example.com"}))
    assert await accepted({"origin": "https://App.example.com"}, settings=settings)
    assert (await refusal({"origin": "https://other.example.com"}, settings=settings)).status_code == 403


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/jsonp", "application/x-www-form-urlencoded"]
)
async def test_a_body_that_is_not_json_is_unsupported(content_type: str | None) -> None:
    """protocol.md, 1: `Content-Type: application/json`, else 415; a form of a web page cannot send that."""
    assert (await refusal({"content-type": content_type})).status_code == 415


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
async def test_parameters_and_case_of_the_content_type_do_not_matter(content_type: str) -> None:
    """RFC 9110, 8.3.1."""
    assert await accepted({"content-type": content_type})


@pytest.mark.parametrize("accept", [None, "", "application/json", "text/event-stream", "text/html, image/*"])
async def test_a_client_that_cannot_take_both_kinds_of_answer_is_not_acceptable(accept: str | None) -> None:
    """2025-11-25, transports: a POST MUST accept both JSON and an event stream."""
    assert (await refusal({"accept": accept})).status_code == 406


@pytest.mark.parametrize(
    "accept", ["*/*", "application/*, text/*", "text/event-stream;q=0.5,Application/JSON", "text/html, */*"]
)
async def test_any_way_to_accept_both_kinds_of_answer_will_do(accept: str) -> None:
    """RFC 9110, 12.5.1."""
    assert await accepted({"accept": accept})


@pytest.mark.parametrize("accept", [None, "application/json"])
async def test_a_get_that_cannot_take_a_stream_is_not_acceptable(accept: str | None) -> None:
    """2025-11-25, transports: a GET MUST accept an event stream."""
    assert (await refusal({"accept": accept}, verb="GET")).status_code == 406


@pytest.mark.parametrize("verb", ["PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
async def test_another_verb_is_told_which_ones_there_are(verb: str) -> None:
    """RFC 9110, 15.5.6: 405 MUST list the allowed methods."""
    answer = await refusal({}, verb=verb)
    assert answer.status_code == 405
    assert {word.strip() for word in answer.headers["allow"].split(",")} == {"POST", "GET", "DELETE"}
