"""What the endpoint refuses of modern requests: the order of the checks, the codes and the statuses."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from stdio_broker.protocol.modern import REMOVED_METHODS
from stdio_broker.protocol.revisions import KNOWN_VERSIONS, SUPPORTED_VERSIONS
from tests.support.edge import child_config, serving_without_sockets
from tests.support.mcp_client import Message
from tests.support.modern_client import MODERN, PREFIX

VERSION, METHOD, NAME = "mcp-protocol-version", "mcp-method", "mcp-name"


def error_in(answer: httpx.Response, status: int, code: int) -> dict[str, Any]:
    """Return the error of an answer with this status and code; its id is under "id"."""
    message = answer.json()
    assert (answer.status_code, message["error"]["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/json"
    assert "mcp-session-id" not in answer.headers
    return {**message["error"], "id": message["id"]}


def without(message: Message, *names: str) -> Message:
    """Return a request without these members of `_meta`."""
    meta = {name: value for name, value in message["params"]["_meta"].items() if name not in names}
    return {**message, "params": {**message["params"], "_meta": meta}}


# Bodies.


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b'{"jsonrpc":"2.0","id":1,"method":"x"}{}', b'{"a":' * 99_999]
)
async def test_a_body_that_is_no_json_is_a_parse_error(body: bytes) -> None:
    """protocol.md, 9: -32700 with 400 and no id."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        assert error_in(await client.post(body), 400, -32700)["id"] is None


@pytest.mark.parametrize(
    "body",
    [
        [{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}],
        {"jsonrpc": "2.0", "id": 1, "result": {}},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "m"}},
    ],
)
async def test_a_batch_or_a_response_is_an_invalid_request(body: Any) -> None:  # noqa: ANN401 - JSON
    """2026-07-28, streamable-http, "Sending Messages" 4: a single request or notification."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        assert error_in(await client.post(body), 400, -32600)["id"] is None
        assert edge.supervisor.statistics().started == 0


@pytest.mark.parametrize("method", ["notifications/cancelled", "notifications/initialized", "x"])
async def test_a_notification_is_accepted_and_starts_nothing(method: str) -> None:
    """2026-07-28, streamable-http, "Sending Messages" 5: 202 without a body; protocol.md, 4.2."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        answer = await client.notify(method, requestId=1)
        assert (answer.status_code, answer.content) == (202, b"")
        assert edge.supervisor.statistics().started == 0


# Other methods of HTTP, and what is left of sessions.


@pytest.mark.parametrize("verb", ["GET", "DELETE"])
async def test_other_methods_than_post_are_not_allowed(verb: str) -> None:
    """2026-07-28, streamable-http, "Earlier Streamable HTTP Revisions": 405."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        for session in (None, "x"):
            answer = await client.send(verb, {"mcp-session-id": session})
            error_in(answer, 405, -32600)
            assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "headers",
    [{"mcp-session-id": "made up"}, {"last-event-id": "0_1"}, {"mcp-session-id": "", "last-event-id": ""}],
)
async def test_a_session_id_and_an_event_id_mean_nothing(headers: dict[str, str]) -> None:
    """2026-07-28, streamable-http: neither is in this revision; protocol.md, 1: ignored, never sent."""
    async with serving_without_sockets(child_config("era=modern")) as (edge, _), edge.modern() as client:
        answer = await client.post(client.tool("echo", text="hello"), headers)
        assert answer.status_code == 200
        assert not {"mcp-session-id", "last-event-id"} & set(answer.headers)
        assert json.loads(answer.text)["result"]["content"][0]["text"] == "hello"


async def test_a_modern_request_under_the_id_of_a_live_session_is_modern() -> None:
    """protocol.md, 1, row 2: `_meta` decides, so the session's child is not asked."""
    async with serving_without_sockets(child_config("era=both")) as (edge, legacy), edge.modern() as client:
        await legacy.open()
        headers = {"mcp-session-id": legacy.session_id}
        modern = await client.post(client.tool("pid"), headers)
        assert modern.json()["result"]["content"][0]["text"] != await legacy.ask("pid")


async def test_the_modern_header_in_a_live_session_is_no_modern_request() -> None:
    """peers.md, 1, field bug (b): claude.ai negotiates 2025-11-25, then names 2026-07-28 in that session."""
    async with serving_without_sockets(child_config("era=both")) as (edge, legacy), edge.modern() as client:
        await legacy.open()
        pid = await legacy.ask("pid")
        legacy.version = MODERN
        assert await legacy.ask("pid") == pid
        # The same request without the session is modern by its header, and lacks what that needs.
        legacy.session_id = None
        error_in(await legacy.post(legacy.tool("pid")), 400, -32602)
        assert await client.ask("pid") != pid


# `_meta`.


@pytest.mark.parametrize("missing", ["protocolVersion", "clientCapabilities"])
async def test_what_must_be_in_meta_must_be_there(missing: str) -> None:
    """2026-07-28, basic, "_meta": MUST be refused with -32602 and 400."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        message = without(client.tool("echo", text="x"), PREFIX + missing)
        error = error_in(await client.post(message, {VERSION: MODERN}), 400, -32602)
        assert PREFIX + missing in error["message"]
        assert error["id"] == message["id"]
        assert edge.supervisor.statistics().started == 0


@pytest.mark.parametrize(
    "params",
    [None, [], {}, {"_meta": None}, {"_meta": []}, {"_meta": {}}, {"_meta": {PREFIX + "protocolVersion": 7}}],
)
async def test_params_without_a_proper_meta_are_refused(params: Any) -> None:  # noqa: ANN401 - JSON
    """2026-07-28, basic, "_meta"."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        message = {"jsonrpc": "2.0", "id": "a", "method": "tools/list"} | (
            {} if params is None else {"params": params}
        )
        headers = {VERSION: MODERN, METHOD: "tools/list"}
        answer = await client.post(json.dumps(message).encode(), headers)
        assert error_in(answer, 400, -32602)["id"] == "a"


async def test_a_client_need_not_say_who_it_is() -> None:
    """2026-07-28, basic, "_meta": clientInfo is optional."""
    async with serving_without_sockets(child_config("era=modern")) as (edge, _), edge.modern() as client:
        client.client_info = None
        assert await client.ask("echo", text="hello") == "hello"


# Headers against the body.


@pytest.mark.parametrize("header", [VERSION, METHOD, NAME])
@pytest.mark.parametrize("value", [None, "", "other", "=?base64?!?=", "é"])
async def test_a_header_that_does_not_say_what_the_body_says_is_refused(
    header: str, value: str | None
) -> None:
    """2026-07-28, streamable-http, "Server Validation": -32020 and 400."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        message = client.tool("echo", text="x")
        error = error_in(await client.post(message, {header: value}), 400, -32020)
        assert error["id"] == message["id"]
        assert edge.supervisor.statistics().started == 0


@pytest.mark.parametrize("version", [None, *KNOWN_VERSIONS])
async def test_a_header_of_an_older_revision_over_a_modern_body_is_a_mismatch(version: str | None) -> None:
    """protocol.md, 1, row 2."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        error_in(await client.post(client.tool("echo", text="x"), {VERSION: version}), 400, -32020)


@pytest.mark.parametrize("header", [VERSION, METHOD, NAME])
async def test_a_header_that_stands_twice_is_refused_even_if_both_copies_are_right(header: str) -> None:
    """protocol.md, 8, 1: readers of the first copy and of the last one may differ."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        message = client.tool("echo", text="x")
        answer = await client.post(message, extra=[(header, client.headers(message)[header])])
        assert "more than once" in error_in(answer, 400, -32020)["message"]


async def test_a_name_in_two_headers_is_not_the_name_that_they_make_together() -> None:
    """protocol.md, 8, 1; RFC 9110, 5.3: repeated fields may be joined with a comma."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        answer = await client.post(client.tool("a, b"), {NAME: "a"}, extra=[(NAME, "b")])
        assert "more than once" in error_in(answer, 400, -32020)["message"]


async def test_a_field_that_is_no_standard_header_may_stand_twice() -> None:
    """RFC 9110, 5.3: then the standard ones are read one by one."""
    async with serving_without_sockets(child_config("era=modern")) as (edge, _), edge.modern() as client:
        message = client.tool("echo", text="x")
        twice = [("x-forwarded-for", "a"), ("x-forwarded-for", "b")]
        assert (await client.post(message, extra=twice)).status_code == 200
        error_in(await client.post(message, {NAME: "other"}, extra=twice), 400, -32020)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "écho \n"}),
        ("prompts/get", {"name": "=?base64?x?="}),
        ("resources/read", {"uri": "test:ü"}),
        ("tasks/get", {"taskId": " x"}),
        ("tasks/update", {"taskId": "x"}),
        ("tasks/cancel", {"taskId": "x"}),
    ],
)
async def test_a_name_that_no_header_can_hold_is_encoded_and_compared_decoded(
    method: str, params: Message
) -> None:
    """2026-07-28, streamable-http, "Value Encoding"; SEP-2663 for tasks."""
    async with serving_without_sockets(child_config("era=modern")) as (edge, _), edge.modern() as client:
        message = client.request(method, params)
        answer = await client.post(message)
        assert answer.status_code == 200, answer.text
        error_in(await client.post(message, {NAME: "other"}), 400, -32020)
        error_in(await client.post(message, {NAME: None}), 400, -32020)


# Versions.


@pytest.mark.parametrize("version", ["2099-01-01", "latest", "", "x" * 500])
async def test_a_version_that_nobody_speaks_is_refused_with_those_that_can_be_named(version: str) -> None:
    """2026-07-28, basic/versioning: -32022 and 400, with `supported` and `requested`."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        client.version = version
        message = client.tool("echo", text="x")
        error = error_in(await client.post(message), 400, -32022)
        assert error["data"] == {"supported": [MODERN], "requested": version}
        assert error["id"] == message["id"]
        assert len(error["message"]) < 300
        bare = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        error = error_in(await client.post(bare, {VERSION: version}), 400, -32022)
        assert error["data"] == {"supported": list(SUPPORTED_VERSIONS), "requested": version}
        assert edge.supervisor.statistics().started == 0


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
async def test_an_older_revision_is_not_spoken_in_the_modern_way(version: str) -> None:
    """2026-07-28, basic/versioning; protocol.md, 1, row 2."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        client.version = version
        error = error_in(await client.post(client.tool("echo", text="x")), 400, -32022)
        assert error["data"] == {"supported": [MODERN], "requested": version}


# Methods.


@pytest.mark.parametrize("method", sorted(REMOVED_METHODS))
async def test_what_the_revision_has_not_any_more_is_not_found_and_starts_nothing(method: str) -> None:
    """2026-07-28, changelog; streamable-http: MUST be 404 with -32601."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        message = client.request(method)
        assert error_in(await client.post(message), 404, -32601)["id"] == message["id"]
        assert edge.supervisor.statistics().started == 0


async def test_an_initialize_that_is_modern_by_its_header_only_is_not_found() -> None:
    """protocol.md, 1, row 3: a client that tries the new header with the old method must learn of it."""
    async with serving_without_sockets() as (_, client):
        answer = await client.post(client.initialize_request(), {VERSION: MODERN})
        assert "'initialize'" in error_in(answer, 404, -32601)["message"]


async def test_a_method_that_the_child_does_not_know_is_not_found() -> None:
    """2026-07-28, streamable-http: 404 with -32601, and the child's own words."""
    async with serving_without_sockets(child_config("era=modern")) as (edge, _), edge.modern() as client:
        message = client.request("com.example/unknown")
        error = error_in(await client.post(message), 404, -32601)
        assert (error["message"], error["id"]) == ("no method com.example/unknown", message["id"])


# The order of the checks.


async def test_the_checks_come_in_their_order() -> None:
    """protocol.md, 8, 5: duplicates, `_meta`, header = body, version, method, parameters."""
    async with (
        serving_without_sockets(child_config("era=modern", "headers")) as (edge, _),
        edge.modern() as client,
    ):
        message = client.tool("annotated", region="us")
        message["method"] = "ping"
        wrong = without(message, PREFIX + "clientCapabilities")
        wrong["params"]["_meta"][PREFIX + "protocolVersion"] = "2099-01-01"
        headers: dict[str, str | None] = {VERSION: "2098-01-01"}
        twice = [("mcp-method", "x")]
        error_in(await client.post(wrong, headers, extra=twice), 400, -32020)
        error_in(await client.post(wrong, headers), 400, -32602)
        wrong["params"]["_meta"][PREFIX + "clientCapabilities"] = {}
        error_in(await client.post(wrong, headers), 400, -32020)
        error_in(await client.post(wrong), 400, -32022)
        wrong["params"]["_meta"][PREFIX + "protocolVersion"] = MODERN
        error_in(await client.post(wrong), 404, -32601)
        assert edge.supervisor.statistics().started == 0
        wrong["method"] = "tools/call"
        error_in(await client.post(wrong), 400, -32020)
        answer = await client.post(wrong, {"mcp-param-region": "us"})
        assert answer.status_code == 200


async def test_the_guards_come_first() -> None:
    """protocol.md, 1: Host, Origin, types; whatever the era."""
    async with serving_without_sockets() as (edge, _), edge.modern() as client:
        message = client.tool("echo", text="x")
        bad: Message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        assert (await client.post(bad, {"host": "evil.example.com"})).status_code == 421
        assert (await client.post(bad, {"origin": "http://evil.example.com"})).status_code == 403
        assert (await client.post(message, {"content-type": "text/plain"})).status_code == 415
        assert (await client.post(message, {"accept": "application/json"})).status_code == 406
        assert edge.supervisor.statistics().started == 0


def test_removed_methods_are_no_methods_of_this_revision() -> None:
    """2026-07-28, changelog; SEP-2663: a task that is got, updated or cancelled is one of the extension."""
    assert not REMOVED_METHODS & {"tools/call", "server/discover", "subscriptions/listen", "tasks/get"}
