"""Modern clients on a modern server, over HTTP: answers, states, headers of tools, and how calls end."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from typing import Any

import httpx
import pytest

from stdio_broker.http import Settings as HttpSettings
from stdio_broker.sessions import Settings as SessionSettings
from tests.support.edge import child_config, serving, serving_without_sockets
from tests.support.mcp_client import COMMENT, Message, message_in, text_of
from tests.support.modern_client import EVERYTHING, PREFIX, ModernClient
from tests.support.processes import wait_until

MODERN_CHILD = child_config("era=modern")


async def lines_seen(client: ModernClient) -> list[Message]:
    """Return the messages that the child has seen."""
    return [json.loads(line) for line in json.loads(await client.ask("seen"))]


async def wait_cancelled(client: ModernClient, count: int = 1) -> list[object]:
    """Return the ids of what the child was told to stop, once it is so many."""
    async with asyncio.timeout(20):
        while True:
            ids = [
                message["params"]["requestId"]
                for message in await lines_seen(client)
                if message["method"] == "notifications/cancelled"
            ]
            if len(ids) >= count:
                return ids
            await asyncio.sleep(0.01)


def child_id_of(lines: list[Message], tool: str) -> object:
    """Return the id under which the child knows the call of a tool."""
    (call_id,) = [line["id"] for line in lines if line.get("params", {}).get("name") == tool]
    return call_id


# Answers.


async def test_an_answer_that_comes_first_is_json_and_whole() -> None:
    """2026-07-28, streamable-http, "Sending Messages" 6; protocol.md, 6.1."""
    async with serving(MODERN_CHILD) as edge, edge.modern() as client:
        message = client.tool("echo", text="hello")
        answer = await client.post(message)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json()["id"] == message["id"]
        assert text_of(answer.json()) == "hello"


async def test_all_requests_of_a_principal_go_to_one_child_which_starts_once() -> None:
    """protocol.md, D3 and 13.4."""
    async with serving(MODERN_CHILD) as edge, edge.modern() as one, edge.modern() as other:
        pids = await asyncio.gather(*(client.ask("pid") for client in (one, other) for _ in range(5)))
        assert len(set(pids)) == 1
        assert edge.supervisor.statistics().started == 1


@pytest.mark.parametrize("identifier", [1, "1", 0, -7, 9007199254740993, "ü", "", 1.5])
async def test_two_clients_may_use_the_same_id_at_once(identifier: object) -> None:
    """protocol.md, 3: each gets its own answer, under the very id that it sent."""
    async with serving(MODERN_CHILD) as edge, edge.modern() as one, edge.modern() as other:
        texts = [f"text {number}" for number in range(6)]
        messages = [{**one.tool("echo", text=text), "id": identifier} for text in texts]
        answers = await asyncio.gather(
            *((one, other)[number % 2].post(message) for number, message in enumerate(messages))
        )
        assert [text_of(answer.json()) for answer in answers] == texts
        for answer in answers:
            assert f'"id":{json.dumps(identifier)}'.encode() in answer.content.replace(
                json.dumps(identifier, ensure_ascii=False).encode(), json.dumps(identifier).encode()
            )


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (-32601, 404),
        (-32021, 400),
        (-32022, 400),
        (-32602, 200),
        (-32603, 200),
        (-32000, 200),
        (7, 200),
        (-32020, 200),
    ],
)
async def test_the_status_follows_from_the_childs_code(code: int, status: int) -> None:
    """protocol.md, 6.1, the table; 2026-07-28, basic, "Error Codes"."""
    async with serving_without_sockets(MODERN_CHILD) as (edge, _), edge.modern() as client:
        data: Message = {"requiredCapabilities": {"x": {}}}
        answer = await client.post(client.tool("fail", code=code, message="m", data=data))
        assert answer.status_code == status
        assert answer.json()["error"] == {"code": code, "message": "m", "data": data}


async def test_a_status_does_not_exist_any_more_once_something_was_streamed() -> None:
    """protocol.md, 13.3."""
    async with serving(MODERN_CHILD) as edge, edge.modern() as client:
        client.log_level = "info"
        lines = [
            '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}',
            '{"jsonrpc":"2.0","id":$ID,"error":{"code":-32601,"message":"m"}}',
        ]
        answer = await client.post(client.tool("raw", lines=lines))
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        assert message_in(answer)["error"]["code"] == -32601


async def test_unknown_methods_and_extensions_reach_the_child_untouched() -> None:
    """protocol.md, 6.1: tasks/get, update and cancel, and what nobody has heard of."""
    async with serving_without_sockets(MODERN_CHILD) as (edge, _), edge.modern() as client:
        client.capabilities = {"extensions": {"com.example/x": {"y": [1]}}}
        for method, params in (
            ("tasks/get", {"taskId": "t", "x": None}),
            ("echo/this", {"z": [1.5, {"a": None}], "requestState": "mine", "inputResponses": 7}),
        ):
            meta = {"traceparent": "00-1", "com.example/k": {"v": 1}}
            message = client.request(method, params, meta=meta)
            result = (await client.exchange(message))["result"]
            line = json.loads(result["line"])
            assert line == {**message, "id": line["id"]}


async def test_what_the_child_says_is_never_overwritten_and_its_unknown_members_cross() -> None:
    """protocol.md, 6.1."""
    async with serving_without_sockets(MODERN_CHILD) as (edge, _), edge.modern() as client:
        result = (await client.exchange(client.request("tools/list")))["result"]
        assert (result["ttlMs"], result["cacheScope"], result["x-member"]) == (1234, "public", "kept")
        assert result["tools"][0]["inputSchema"]["$anchor"] == result["tools"][0]["name"]
        assert result["_meta"][PREFIX + "serverInfo"]["x-field"] == [1, 2.5]
        result = (await client.discover())["result"]
        assert (result["x-member"], result["supportedVersions"]) == ("kept", ["2026-07-28"])


async def test_what_a_sloppy_child_leaves_out_is_filled_in() -> None:
    """2026-07-28, basic, "Responses", and server/utilities/caching; protocol.md, 6.1."""
    async with (
        serving_without_sockets(child_config("era=modern", "sloppy", "pages=2")) as (edge, _),
        edge.modern() as client,
    ):
        first = (await client.exchange(client.request("tools/list")))["result"]
        second = (await client.exchange(client.request("tools/list", {"cursor": first["nextCursor"]})))[
            "result"
        ]
        for page in (first, second):
            assert (page["resultType"], page["ttlMs"], page["cacheScope"]) == ("complete", 0, "private")
        called = (await client.call("echo", text="x"))["result"]
        assert called["resultType"] == "complete"
        assert "ttlMs" not in called
        assert "cacheScope" not in called


# Progress and logs.


@pytest.mark.parametrize("token", [7, "7", "ü", 1.5, 9007199254740993])
async def test_progress_comes_under_the_clients_token_and_not_after_the_answer(token: object) -> None:
    """2026-07-28, basic/patterns/progress."""
    async with serving(MODERN_CHILD) as edge, edge.modern() as client:
        message = client.request(
            "tools/call", {"name": "progress", "arguments": {"steps": 3}}, meta={"progressToken": token}
        )
        async with client.stream(message) as stream:
            assert stream.headers["x-accel-buffering"] == "no"
            *steps, answer = await stream.rest()
        assert [step["params"]["progress"] for step in steps] == [0, 1, 2]
        for step in steps:
            assert (step["params"]["progressToken"], type(step["params"]["progressToken"])) == (
                token,
                type(token),
            )
            assert step["params"]["x-field"] is None
        assert answer["id"] == message["id"]


async def test_logs_come_on_the_stream_of_the_request_that_wants_them_and_nowhere_else() -> None:
    """2026-07-28, server/utilities/logging."""
    async with serving(MODERN_CHILD) as edge, edge.modern() as client:
        wanting = client.request(
            "tools/call", {"name": "log", "arguments": {"data": "x"}}, meta={"logLevel": "debug"}
        )
        async with client.stream(wanting) as stream:
            message, answer = await stream.rest()
        assert (message["params"]["data"], text_of(answer)) == ("x", "sent")
        assert (await client.post(client.tool("log"))).headers["content-type"] == "application/json"


# A client that goes.


async def test_a_client_that_goes_before_the_answer_cancels_its_call() -> None:
    """2026-07-28, streamable-http, "Cancellation"; stdio MUST have `notifications/cancelled`."""
    async with serving(MODERN_CHILD) as edge, edge.modern() as client:
        await client.ask("pid")
        calling = asyncio.create_task(client.post(client.tool("wait", confesses=True)))
        await wait_until(lambda: edge.sessions.leases.busy)
        calling.cancel()
        await asyncio.wait({calling})
        ids = await wait_cancelled(client)
        assert ids == [child_id_of(await lines_seen(client), "wait")]
        await wait_until(lambda: not edge.sessions.leases.busy)


async def test_a_client_that_goes_in_the_middle_of_its_stream_cancels_its_call() -> None:
    """2026-07-28, streamable-http, "Cancellation": MUST."""
    async with (
        serving(MODERN_CHILD, http=HttpSettings(keep_alive_interval=0.02)) as edge,
        edge.modern() as client,
    ):
        async with client.stream(client.tool("wait")) as stream:
            assert await stream.next() == COMMENT
        assert len(await wait_cancelled(client)) == 1


async def test_a_client_that_goes_while_its_child_starts_leaves_the_child_to_others() -> None:
    """protocol.md, 13.4: a start is nobody's own."""
    async with serving(child_config("era=modern", "slow-start=0.3")) as edge, edge.modern() as client:
        leaving = asyncio.create_task(client.post(client.tool("wait")))
        await wait_until(lambda: edge.children == 1)
        leaving.cancel()
        await asyncio.wait({leaving})
        assert await client.ask("echo", text="hello") == "hello"
        methods = [line["method"] for line in await lines_seen(client)]
        assert "notifications/cancelled" not in methods
        assert edge.supervisor.statistics().started == 1


async def test_a_client_that_does_not_read_is_cut_off_and_its_call_cancelled() -> None:
    """Issue 4, done when 6: a client that opens streams and never reads."""
    quick = HttpSettings(write_timeout=0.2)
    async with serving(MODERN_CHILD, http=quick) as edge, edge.modern() as client:
        client.log_level = "info"
        message = client.tool("say", count=3000, bytes=8000)
        host = httpx.URL(edge.url)
        reader, writer = await asyncio.open_connection(host.host, host.port, limit=1024)
        body = json.dumps(message).encode()
        head = "".join(f"{name}: {value}\r\n" for name, value in client.headers(message).items())
        writer.write(
            f"POST /mcp HTTP/1.1\r\nhost: {host.host}\r\n{head}content-length: {len(body)}\r\n\r\n".encode()
        )
        writer.write(body)
        await writer.drain()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await wait_until(lambda: not edge.sessions.leases.busy)
        client.log_level = None
        assert await client.ask("echo", text="still here") == "still here"
        writer.close()


# A server that misbehaves, or ends.


@pytest.mark.parametrize("how", [{"code": 3}, {"signal": signal.SIGKILL}])
async def test_a_child_that_ends_fails_its_calls_at_once_and_the_next_one_has_a_new_child(
    how: dict[str, Any],
) -> None:
    """protocol.md, 2.2; issue 4, done when 5."""
    async with serving(MODERN_CHILD) as edge, edge.modern() as client:
        first = await client.ask("pid")
        waiting = asyncio.create_task(client.post(client.tool("wait")))
        await wait_until(lambda: edge.sessions.leases.busy)
        answers = [await client.post(client.tool("die", **how)), await waiting]
        for answer in answers:
            assert answer.status_code == 200
            error = answer.json()["error"]
            assert (error["code"], error["data"]["reason"]) == (-32603, "server process ended")
            assert error["data"].get("exitCode", error["data"].get("signal")) == next(iter(how.values()))
        assert await client.ask("pid") != first


async def test_nonsense_on_stdout_costs_nothing() -> None:
    """protocol.md, 2.2: count, log once, skip."""
    async with (
        serving_without_sockets(child_config("era=modern", "banner")) as (edge, _),
        edge.modern() as client,
    ):
        lines = ["nonsense", "", "{}", '{"jsonrpc":"2.0","id":$ID,"result":{"content":[]}}', "more"]
        answer = await client.exchange(client.tool("raw", lines=lines))
        assert answer["result"]["content"] == []
        assert await client.ask("echo", text="x") == "x"


async def test_an_answer_over_the_limit_on_a_line_is_told_in_words() -> None:
    """protocol.md, 2.2."""
    config = child_config("era=modern", max_line_bytes=50_000)
    async with serving_without_sockets(config) as (edge, _), edge.modern() as client:
        message = client.tool("blob", bytes=100_000)
        answer = await client.post(message)
        assert (answer.status_code, answer.json()["id"]) == (200, message["id"])
        assert answer.json()["error"]["data"]["reason"] == "answer too long"
        assert await client.ask("echo", text="x") == "x"


async def test_a_child_that_asks_gets_no_answer_and_the_client_no_question() -> None:
    """2026-07-28, streamable-http: MUST NOT send requests on a stream; protocol.md, 2.1."""
    async with (
        serving_without_sockets(MODERN_CHILD) as (edge, _),
        edge.modern(capabilities=EVERYTHING) as client,
    ):
        question = '{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":{}}'
        answer = '{"jsonrpc":"2.0","id":$ID,"result":{"content":[]}}'
        response = await client.post(client.tool("raw", lines=[question, answer]))
        assert response.headers["content-type"] == "application/json"
        assert response.json()["result"]["content"] == []
        assert all("method" in line for line in await lines_seen(client))


async def test_a_server_that_cannot_be_started_is_told_without_its_path() -> None:
    """protocol.md, 9; ours: the command is the operator's business."""
    config = child_config("era=modern")
    broken = type(config)(cmd=["/nowhere/at-all"])
    async with serving_without_sockets(broken) as (edge, _), edge.modern() as client:
        message = client.tool("echo", text="x")
        answer = await client.post(message)
        assert (answer.status_code, answer.json()["error"]["code"]) == (200, -32603)
        assert answer.json()["id"] == message["id"]
        assert "nowhere" not in answer.text


async def test_a_server_that_does_not_answer_in_time_is_told() -> None:
    """protocol.md, 2.1."""
    config = child_config("era=modern", "silent-discover", "silent")
    settings = SessionSettings(start_timeout=0.5)
    async with serving_without_sockets(config, settings=settings) as (edge, _), edge.modern() as client:
        answer = await client.post(client.tool("echo", text="x"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (200, -32603)


# Questions, and the state that goes with them.


async def _asked(client: ModernClient, **arguments: object) -> tuple[Message, Message]:
    message = client.tool("ask", **arguments)
    answer = await client.exchange(message)
    assert answer["result"]["resultType"] == "input_required"
    return message, answer["result"]


ANSWERS: Message = {"name": {"action": "accept", "content": {"name": "Ada", "x": 1.5}}}


async def test_a_question_and_its_answers_cross_and_the_state_comes_back_to_the_byte() -> None:
    """2026-07-28, basic/patterns/mrtr."""
    state = 'é "\\ \n\u2028 {}'
    async with (
        serving_without_sockets(MODERN_CHILD) as (edge, _),
        edge.modern(capabilities=EVERYTHING) as client,
    ):
        message, result = await _asked(client, state=state)
        assert result["inputRequests"]["name"]["method"] == "elicitation/create"
        assert state not in result["requestState"]
        answer = await client.exchange(client.retry(message, result, ANSWERS))
        assert json.loads(text_of(answer)) == {"inputResponses": ANSWERS, "requestState": state}


async def test_a_question_of_several_rounds_has_a_state_for_each() -> None:
    """2026-07-28, basic/patterns/mrtr: also a round with a state and no question."""
    async with (
        serving_without_sockets(MODERN_CHILD) as (edge, _),
        edge.modern(capabilities=EVERYTHING) as client,
    ):
        message = client.tool("ask", rounds=3, state="s")
        answer = await client.complete(message, lambda key, _request: ANSWERS[key])
        assert json.loads(text_of(answer)) == {"inputResponses": ANSWERS, "requestState": "s#3"}
        answer = await client.complete(client.tool("ask", polls=2, state="s"), lambda _key, _request: {})
        assert json.loads(text_of(answer)) == {"requestState": "s#2"}


async def test_a_question_without_a_state_is_asked_again_until_its_answers_are_there() -> None:
    """2026-07-28, basic/patterns/mrtr: the state is optional."""
    async with (
        serving_without_sockets(MODERN_CHILD) as (edge, _),
        edge.modern(capabilities=EVERYTHING) as client,
    ):
        message, result = await _asked(client)
        assert "requestState" not in result
        answer = await client.exchange(client.retry(message, result, ANSWERS))
        assert json.loads(text_of(answer)) == {"inputResponses": ANSWERS}


async def test_every_state_that_is_no_good_gets_the_same_answer_and_the_child_hears_nothing() -> None:
    """2026-07-28, basic/patterns/mrtr, "Server Requirements"; protocol.md, 9: -32602 with 400."""
    async with (
        serving_without_sockets(MODERN_CHILD) as (edge, _),
        edge.modern(capabilities=EVERYTHING) as client,
    ):
        message, result = await _asked(client, state="s")
        state = result["requestState"]
        heard = len(await lines_seen(client))
        refusals = []
        for bad, arguments in (
            ("made up", {"state": "s"}),
            ("", {"state": "s"}),
            (state[:-2], {"state": "s"}),
            (state[:40] + ("A" if state[40] != "A" else "B") + state[41:], {"state": "s"}),
            ("A" * 2_000_000, {"state": "s"}),
            (state, {"state": "s", "other": 1}),
            (state, {"state": "t"}),
        ):
            retry = client.retry(message, {"requestState": bad}, ANSWERS)
            retry["params"]["arguments"] = arguments
            answer = await client.post({**retry, "id": 1})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)
            refusals.append(answer.content)
        assert len(set(refusals)) == 1
        assert len(await lines_seen(client)) == heard + 1
        assert "result" in await client.exchange(client.retry(message, result, ANSWERS))


async def test_a_state_of_a_child_that_has_ended_is_refused_at_once() -> None:
    """protocol.md, 6.1: servers keep the keys of their states in their process."""
    async with serving(MODERN_CHILD) as edge, edge.modern(capabilities=EVERYTHING) as client:
        message, result = await _asked(client, state="s")
        await client.call("die")
        await client.ask("pid")
        answer = await client.post(client.retry(message, result, ANSWERS))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)
        assert "Invalid or expired requestState" in answer.json()["error"]["message"]


@pytest.mark.parametrize("member", [{"requestState": 7}, {"inputResponses": []}])
async def test_what_a_retry_brings_must_have_its_type(member: Message) -> None:
    """2026-07-28, schema; protocol.md, 9."""
    async with serving_without_sockets(MODERN_CHILD) as (edge, _), edge.modern() as client:
        answer = await client.post(client.request("tools/call", {"name": "ask", **member}))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)


# `Mcp-Param-*`.

ANNOTATED = child_config("era=modern", "headers", "pages=3")
RIGHT = {"mcp-param-region": "us", "mcp-param-dry-run": "true", "mcp-param-depth": "2"}
ARGUMENTS: Message = {"region": "us", "dry": True, "limits": {"depth": 2}, "note": "x"}


async def lists_seen(client: ModernClient) -> int:
    """Return how often the child has listed its first page of tools."""
    lines = await lines_seen(client)
    return sum(line["method"] == "tools/list" and "cursor" not in line["params"] for line in lines)


async def test_headers_that_repeat_arguments_are_checked_and_the_list_is_fetched_once() -> None:
    """2026-07-28, streamable-http, "Server Behavior for Custom Headers"; protocol.md, 8, 4."""
    async with serving_without_sockets(ANNOTATED) as (edge, _), edge.modern() as client:
        message = client.tool("annotated", **ARGUMENTS)
        assert json.loads(text_of(message_in(await client.post(message, RIGHT)))) == ARGUMENTS
        for name in RIGHT:
            for value in (None, "other"):
                answer = await client.post(message, {**RIGHT, name: value})
                assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)
                assert answer.json()["id"] == message["id"]
        twice = await client.post(message, RIGHT, extra=[("mcp-param-region", "us")])
        assert twice.json()["error"]["code"] == -32020
        assert (await client.post(message, {**RIGHT, "mcp-param-note": "y"})).status_code == 200
        assert await lists_seen(client) == 1


async def test_a_tool_whose_annotation_breaks_a_rule_validates_nothing() -> None:
    """protocol.md, 8, 4."""
    async with serving_without_sockets(ANNOTATED) as (edge, _), edge.modern() as client:
        message = client.tool("misannotated", ratio=1.5)
        assert (await client.post(message, {"mcp-param-ratio": "7"})).status_code == 200


async def test_the_list_is_fetched_again_after_it_has_changed() -> None:
    """protocol.md, 8, 4: dropped on list_changed."""
    async with serving(MODERN_CHILD) as edge, edge.modern() as client:
        message = client.tool("annotated", region="us")
        assert (await client.post(message)).status_code == 200
        await client.ask("annotate")
        assert (await client.post(message)).status_code == 200
        async with client.listen(toolsListChanged=True) as stream:
            await stream.message()
            await client.ask("change", method="notifications/tools/list_changed")
            await stream.message()
            assert (await client.post(message)).status_code == 400
            assert (await client.post(message, {"mcp-param-region": "us"})).status_code == 200
        assert await lists_seen(client) == 2


@pytest.mark.parametrize("mode", ["without=tools/list", "die-on=tools/list"])
async def test_a_child_that_does_not_list_its_tools_blocks_no_call(mode: str) -> None:
    """protocol.md, 8, 4: no schema available must not block the call."""
    async with serving(child_config("era=modern", mode)) as edge, edge.modern() as client:
        answer = await client.post(client.tool("echo", text="x"), {"mcp-param-region": "us"})
        assert answer.status_code == 200
        assert text_of(answer.json()) == "x"
        assert edge.children == 1


# The end.


async def test_while_we_shut_down_calls_end_and_new_ones_are_sent_elsewhere() -> None:
    """Design, decision 12: 503 with Retry-After; calls in flight may finish."""
    async with serving(MODERN_CHILD) as edge, edge.modern() as client:
        await client.ask("pid")
        running = asyncio.create_task(client.post(client.tool("wait", seconds=0.3)))
        await wait_until(lambda: edge.sessions.leases.busy)
        draining = asyncio.create_task(edge.sessions.drain(20.0))
        await asyncio.sleep(0)
        refused = await client.post(client.tool("echo", text="x"))
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert text_of((await running).json()) == "waited"
        await draining


async def test_the_log_tells_what_a_lease_could_not_pass_on_and_what_its_server_complained_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """docs/running.md, "Logs"; docs/revisions.md, "What does not cross": dropped, and counted."""
    caplog.set_level(logging.DEBUG, "stdio_broker.sessions")
    config = child_config("era=legacy")
    async with serving(config) as edge, ModernClient(edge.url) as client:
        assert await client.ask("log", level="error", data="nobody asked for logs") == "sent"
        assert await client.ask("complain", text="of everything") == "complained"
    (ended,) = [vars(record) for record in caplog.records if record.msg == "lease.ended"]
    assert (ended["reason"], ended["dropped_logs"]) == ("server stopped", 1)
    assert "ambiguous_questions" not in ended
    complaints = [vars(record) for record in caplog.records if record.msg == "child.stderr"]
    assert ("of everything", ended["lease"]) in [(one["line"], one["lease"]) for one in complaints]
