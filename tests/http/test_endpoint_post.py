"""How a POST is answered: as JSON, as a stream, or not at all; and what crosses it untouched."""

from __future__ import annotations

import json
import re

import pytest

from stdio_broker.http import Settings
from stdio_broker.protocol.revisions import KNOWN_VERSIONS, LATEST
from tests.support.edge import child_config, serving, serving_without_sockets
from tests.support.mcp_client import COMMENT, message_in, text_of

QUICK = Settings(keep_alive_interval=0.02)


async def test_an_answer_that_comes_first_is_json() -> None:
    """2025-11-25, transports: a request is answered with one JSON object or a stream; design.md, 4: which."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        answer = await client.post(client.tool("echo", text="hello"))
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert "mcp-session-id" not in answer.headers
        assert text_of(answer.json()) == "hello"


async def test_an_error_of_the_server_is_json_with_status_200() -> None:
    """protocol.md, 9: -32601 of a legacy child is no failure of HTTP."""
    async with serving_without_sockets() as (_, client):
        await client.open()
        answer = await client.post(client.request("tools/unknown"))
        assert answer.status_code == 200
        assert answer.json()["error"] == {"code": -32601, "message": "no method tools/unknown"}


async def test_an_answer_behind_a_notification_is_a_stream_that_ends_with_it() -> None:
    """2025-11-25, transports: notifications come before the response, and the stream ends behind it."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with client.stream(client.tool("say", count=3)) as stream:
            assert stream.status == 200
            assert stream.headers["content-type"] == "text/event-stream"
            assert "no-cache" in stream.headers["cache-control"]
            assert stream.headers["x-accel-buffering"] == "no"
            *said, answer = await stream.rest()
        assert [message["params"]["data"] for message in said] == [0, 1, 2]
        assert text_of(answer) == "said"


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
async def test_every_event_is_a_message_event_with_an_id(version: str) -> None:
    """WHATWG, server-sent events; 2025-11-25, transports: from it on, a stream is primed first."""
    async with serving_without_sockets() as (_, client):
        await client.open(version)
        answer = await client.post(client.tool("say", count=1))
        *events, end = answer.text.split("\n\n")
        assert end == ""
        if version == LATEST:
            assert events.pop(0) == "id: 1_1\nretry: 1000\ndata: "
        assert len(events) == 2
        assert all(re.fullmatch(r"event: message\nid: 1_\d\ndata: \{.*\}", event) for event in events)


async def test_silence_becomes_a_stream_of_comments_that_ends_with_the_answer() -> None:
    """design.md, 4: proxies give up on silence, so a stream begins when the keep-alive falls due."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        async with client.stream(client.tool("wait")) as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            assert [await stream.next() for _ in range(3)] == [COMMENT] * 3
            await client.notify("notifications/test/release")
            assert text_of(await stream.message()) == "released"
            assert await stream.rest() == []


async def test_ten_thousand_notifications_arrive_in_order_before_their_answer() -> None:
    """protocol.md, 3: per request, notifications in the child's order, then the response, nothing after."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with client.stream(client.tool("say", count=10_000)) as stream:
            *said, answer = await stream.rest()
        assert [message["params"]["data"] for message in said] == list(range(10_000))
        assert text_of(answer) == "said"


async def test_one_notification_may_be_as_long_as_a_line() -> None:
    """design.md, 5: `max_line_bytes`; what waits is bounded, but a single message must be able to pass."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with client.stream(client.tool("say", count=2, bytes=5 * 1024 * 1024)) as stream:
            *said, answer = await stream.rest()
        assert [len(message["params"]["padding"]) for message in said] == [5 * 1024 * 1024] * 2
        assert text_of(answer) == "said"


async def test_a_notification_is_accepted_without_a_body() -> None:
    """2025-11-25, transports: an accepted notification MUST be 202 with no body."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        answer = await client.notify("notifications/x/y", deep={"a": [1.0]})
        assert (answer.status_code, answer.content) == (202, b"")
        assert json.loads(await client.ask("seen"))[-2].endswith(
            '"method":"notifications/x/y","params":{"deep": {"a": [1.0]}}}'
        )


async def test_an_answer_to_nothing_is_accepted_and_dropped() -> None:
    """protocol.md, 3: an answer to an unknown id is 202, and the child never sees it."""
    async with serving_without_sockets() as (_, client):
        await client.open()
        for message in (
            {"jsonrpc": "2.0", "id": "unknown", "result": {}},
            {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "?"}},
        ):
            answer = await client.post(message)
            assert (answer.status_code, answer.content) == (202, b"")
        assert len(json.loads(await client.ask("seen"))) == 3


@pytest.mark.parametrize(
    "token",
    [
        "1",
        '"1"',
        "0",
        "-5",
        "1.50",
        "123456789012345678901234567890",
        '""',
        '"a b\\"c"',
        '"\\u00e9"',
        '"é"',
        '"\\ud83d\\ude00"',
    ],
)
async def test_the_id_of_an_answer_is_the_very_token_of_the_request(token: str) -> None:
    """protocol.md, 3: restore the exact JSON token: the string "1" is not the number 1, big integers stay."""
    async with serving_without_sockets() as (_, client):
        await client.open()
        body = f'{{"jsonrpc":"2.0","id":{token},"method":"ping"}}'
        answer = await client.post(body.encode())
        assert answer.content == f'{{"jsonrpc":"2.0","id":{token},"result":{{}}}}'.encode()


async def test_two_calls_with_the_same_id_get_an_answer_each() -> None:
    """protocol.md, 3: some clients reuse ids within a session."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        waiting = {**client.tool("wait"), "id": "same"}
        async with client.stream(waiting) as stream:
            second = await client.post({**client.tool("echo", text="second"), "id": "same"})
            assert (second.json()["id"], text_of(second.json())) == ("same", "second")
            await client.notify("notifications/test/release")
            first = await stream.message()
        assert (first["id"], text_of(first)) == ("same", "released")


UNTOUCHED = (
    '{"b":1.0,"a":1e400,"b2":12345678901234567890123,"cursor":"é\\u00e9\\/","deep":[1, 2,  {"x" :null}],'
    '"_meta":{"com.example/k":{"x":[]},"traceparent":"00-1"},"":""}'
)


async def test_what_we_do_not_understand_crosses_untouched_in_both_directions() -> None:
    """design.md, 6.2: unknown methods, members, `_meta` and cursors stay the bytes that they were."""
    async with serving_without_sockets() as (_, client):
        await client.open()
        members = f'"method":"echo/unknown","params":{UNTOUCHED},"x-member":[1.0, "é"]'
        answer = await client.post(f'{{"jsonrpc":"2.0","id":"a",{members}}}'.encode())
        line = answer.json()["result"]["line"]
        assert re.fullmatch(r'\{"jsonrpc":"2\.0","id":\d+,' + re.escape(members) + r"\}", line)

        rest = f'"result":{UNTOUCHED},"x-member":[1.0, "é"]'
        answer = await client.post(
            {**client.tool("raw", lines=[f'{{"jsonrpc":"2.0","id":$ID,{rest}}}']), "id": "a"}
        )
        assert answer.text == f'{{"jsonrpc":"2.0","id":"a",{rest}}}'


async def test_notifications_and_errors_of_the_child_cross_untouched() -> None:
    """design.md, 6.2: only ids and progress tokens are rewritten."""
    told = f'{{"jsonrpc":"2.0","method":"notifications/unknown","params":{UNTOUCHED},"x-member":1.0}}'
    failed = '"error":{"code":-1.0,"message":"é","data":{"b": 1, "a":2}},"x-member":null'
    async with serving_without_sockets() as (_, client):
        await client.open()
        call = client.tool("raw", lines=[told, f'{{"jsonrpc":"2.0","id":$ID,{failed}}}'])
        answer = await client.post({**call, "id": 7})
        events = [line for line in answer.text.splitlines() if line.startswith("data: {")]
        assert events == [f"data: {told}", f'data: {{"jsonrpc":"2.0","id":7,{failed}}}']


async def test_a_message_over_several_lines_reaches_the_child_on_one() -> None:
    """2025-11-25, transports, stdio: a message MUST NOT contain an embedded newline."""
    async with serving_without_sockets() as (_, client):
        await client.open()
        body = json.dumps({**client.request("echo/x", params={"a": ["b\n", {"c": 1}]})}, indent=2)
        answer = await client.post(body.replace("\n", "\r\n").encode())
        line = answer.json()["result"]["line"]
        assert json.loads(line)["params"] == {"a": ["b\n", {"c": 1}]}


@pytest.mark.parametrize("token", ["7", '"7"', '"token é"', "1.50"])
async def test_progress_comes_under_the_token_of_the_client(token: str) -> None:
    """2025-11-25, progress: the token of the request, restored; never after the response."""
    async with serving_without_sockets() as (_, client):
        await client.open()
        body = (
            '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"progress","x":1.0,'
            f'"_meta":{{"progressToken":{token},"com.example/k":1.0}},"arguments":{{"steps":2}}}}}}'
        )
        answer = await client.post(body.encode())
        events = [line for line in answer.text.splitlines() if line.startswith("data: {")]
        assert events[:2] == [
            'data: {"jsonrpc":"2.0","method":"notifications/progress","params":'
            f'{{"progressToken":{token},"progress":{step},"x-field":null}}}}'
            for step in range(2)
        ]
        assert len(events) == 3
        seen = json.loads(text_of(message_in(answer)))
        assert seen["_meta"]["com.example/k"] == 1.0
        # What the broker cannot tell apart would be mixed up: the child's token is the broker's.
        assert seen["_meta"]["progressToken"] != json.loads(token)
        # The step behind the answer has no owner any more, and went nowhere.
        assert await client.ask("echo", text="hello") == "hello"


async def test_progress_without_a_token_of_the_client_is_dropped() -> None:
    """2025-11-25, progress: only for tokens that were given in an active request."""
    async with serving_without_sockets() as (_, client):
        await client.open()
        answer = await client.post(client.tool("progress", steps=3))
        assert answer.headers["content-type"] == "application/json"


async def test_progress_of_two_calls_at_once_goes_to_its_own_call() -> None:
    """protocol.md, 6.2: progress is routed by its token, exactly."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()

        def call() -> dict[str, object]:
            message = client.tool("wait")
            message["params"]["_meta"] = {"progressToken": "same"}
            return message

        async with client.stream(call()) as first, client.stream(call()) as second:
            seen = json.loads(await client.ask("seen"))
            tokens = [
                json.loads(line)["params"]["_meta"]["progressToken"] for line in seen if "_meta" in line
            ]
            lines = [
                json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
                for params in (
                    {"progressToken": tokens[1], "progress": 2},
                    {"progressToken": tokens[0], "progress": 1},
                )
            ]
            await client.call("raw", lines=[*lines, '{"jsonrpc":"2.0","id":$ID,"result":{}}'])
            for stream, progress in ((first, 1), (second, 2)):
                params = (await stream.message())["params"]
                assert params == {"progressToken": "same", "progress": progress}
            await client.notify("notifications/test/release")
            assert len(await first.rest()) == len(await second.rest()) == 1


async def test_initialize_and_its_answer_cross_verbatim() -> None:
    """design.md, 6.2; protocol.md, 6.2: forward the client's `initialize` verbatim."""
    params = (
        '{"protocolVersion":"2025-06-18","capabilities":{"roots":{"listChanged":true},"experimental":{"x":1.0}},'
        '"clientInfo":{"name":"é","version":"1","icons":[]},"x-param":[1, 2],"_meta":{"a/b":1}}'
    )
    async with serving_without_sockets() as (_, client):
        answer = await client.post(
            f'{{"jsonrpc":"2.0","id":"i","method":"initialize","params":{params},"x-member":1.0}}'.encode()
        )
        assert answer.headers["content-type"] == "application/json"
        assert answer.text == (
            '{"jsonrpc":"2.0","id":"i","result":{"protocolVersion":"2025-06-18","capabilities":'
            '{"tools":{"listChanged":true},"logging":{}},"serverInfo":{"name":"mcp-child","version":"1.0",'
            '"x-field":[1,2.5]},"x-member":"kept"}}'
        )
        client.session_id = answer.headers["mcp-session-id"]
        line = json.loads(await client.ask("seen"))[0]
        assert re.fullmatch(
            r'\{"jsonrpc":"2\.0","id":\d+,"method":"initialize","params":'
            + re.escape(params)
            + r',"x-member":1\.0\}',
            line,
        )


@pytest.mark.parametrize("version", ["2099-01-01", "2026-07-28", "1999-01-01", "nonsense"])
async def test_a_version_that_we_do_not_speak_is_replaced_by_our_newest_and_nothing_else_is(
    version: str,
) -> None:
    """protocol.md, 2.1: clamped, because every later request would be refused (supergateway #117)."""
    async with serving_without_sockets() as (_, client):
        answer = await client.initialize(version)
        assert answer.json()["result"]["protocolVersion"] == LATEST
        line = json.loads(await client.ask("seen"))[0]
        expected = client.initialize_request(LATEST)["params"]
        assert list(json.loads(line)["params"].items()) == list(expected.items())


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
async def test_every_revision_that_we_speak_is_agreed_on_end_to_end(version: str) -> None:
    """protocol.md, 6.2: all legacy versions negotiate end to end."""
    async with serving_without_sockets() as (_, client):
        await client.open(version)
        assert client.version == version
        assert await client.ask("echo", text="hello") == "hello"


async def test_a_server_may_choose_an_older_revision_than_asked_for() -> None:
    """2025-11-25, lifecycle: the server may answer with another version that it supports."""
    async with serving_without_sockets(child_config("version=2024-11-05")) as (_, client):
        await client.open("2025-11-25")
        assert client.version == "2024-11-05"
        assert await client.ask("echo", text="hello") == "hello"


async def test_what_the_server_says_before_it_answers_initialize_comes_first_on_its_stream() -> None:
    """2025-11-25, lifecycle: a server may log before the initialization is over."""
    async with serving_without_sockets(child_config("early-log")) as (_, client):
        answer = await client.initialize()
        assert answer.headers["content-type"] == "text/event-stream"
        _, first, *_ = [line for line in answer.text.splitlines() if line.startswith("data:")]
        assert '"early"' in first
        assert client.session_id is not None
        assert await client.ask("echo", text="hello") == "hello"


async def test_a_session_id_is_visible_ascii_and_never_the_same() -> None:
    """2025-11-25, transports: visible ASCII, unique; design.md, 6.7: `[A-Za-z0-9-]`, 64 at most."""
    async with serving_without_sockets() as (_, client):
        answers = [await client.post(client.initialize_request()) for _ in range(3)]
        ids = {answer.headers["mcp-session-id"] for answer in answers}
        assert len(ids) == 3
        assert all(re.fullmatch(r"[A-Za-z0-9-]{32,64}", session_id) for session_id in ids)


async def test_a_banner_and_bytes_that_are_no_utf_8_on_stdout_harm_nobody() -> None:
    """protocol.md, 2.2: no JSON on stdout is counted, logged once and skipped."""
    async with serving_without_sockets(child_config("banner")) as (_, client):
        await client.open()
        assert await client.ask("echo", text="hello") == "hello"


async def test_an_answer_with_bytes_that_are_no_utf_8_is_an_answer_still() -> None:
    """Ours: somebody waits for it; what is wrong with it becomes U+FFFD."""
    line = '{"jsonrpc":"2.0","id":$ID,"result":{"content":[{"type":"text","text":"caf\xe9"}]}}'
    async with serving_without_sockets() as (_, client):
        await client.open()
        assert await client.ask("raw", lines=[line], encoding="latin-1") == "caf�"


async def test_an_answer_over_the_limit_of_a_line_fails_its_call_only() -> None:
    """protocol.md, 2.2: -32603 as soon as the head of the line tells the id; sync is kept."""
    async with serving_without_sockets(child_config(max_line_bytes=100_000)) as (_, client):
        await client.open()
        answer = await client.call("blob", bytes=200_000)
        assert answer["error"]["code"] == -32603
        assert "limit" in answer["error"]["message"]
        assert answer["error"]["data"]["bytes"] > 200_000
        assert len(await client.ask("blob", bytes=90_000)) == 90_000
