"""How sessions begin and end over HTTP, and what becomes of calls when a child or a client goes away."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.http import Settings
from stdio_broker.sessions import Settings as SessionSettings
from stdio_broker.sessions.settings import Recovery
from stdio_broker.supervisor import Config
from tests.support.edge import UNBOUNDED, child_config, serving
from tests.support.mcp_client import COMMENT, McpClient, message_in, text_of
from tests.support.processes import children_of, is_alive, wait_until

QUICK = Settings(keep_alive_interval=0.02)


async def status_of(client: McpClient) -> int:
    """Return the status of a call in this session."""
    return (await client.post(client.request("ping"))).status_code


# The client ends it.


async def test_delete_ends_the_session_and_its_child() -> None:
    """2025-11-25, transports: an ended session MUST be 404; protocol.md, 6.2: its child is stopped."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        pid = int(await client.ask("pid"))
        answer = await client.delete()
        assert (answer.status_code, answer.content) == (200, b"")
        assert await status_of(client) == 404
        assert (await client.delete()).status_code == 404
        await wait_until(lambda: edge.children == 0)
        assert pid not in children_of(os.getpid())


async def test_delete_answers_open_calls_at_once() -> None:
    """Ours: nobody waits for an answer that cannot come."""
    async with (
        serving(child_config("ignore-eof", eof_grace=0.3), http=QUICK) as edge,
        edge.client() as client,
    ):
        await client.open()
        async with client.stream(client.tool("wait")) as stream:
            await client.delete()
            (answer,) = await stream.rest()
            assert answer["error"]["code"] == -32603
            # The child, which takes its time, is not waited for.
            assert edge.children == 1


# The child ends it.


@pytest.mark.parametrize(
    ("way", "fact"),
    [
        ({"code": 3}, {"exitCode": 3}),
        ({"code": 0}, {"exitCode": 0}),
        ({"signal": signal.SIGSEGV}, {"signal": signal.SIGSEGV}),
        ({"signal": signal.SIGKILL}, {"signal": signal.SIGKILL}),
        ({"code": 3, "text": '{"jsonrpc":"2.0","id":'}, {"exitCode": 3}),
    ],
)
async def test_a_child_that_dies_in_a_call_fails_it_at_once_with_its_exit_status(
    way: dict[str, object], fact: dict[str, object]
) -> None:
    """protocol.md, 2.2: -32603 to every open exchange, with the exit status, never stderr text; then 404."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        async with client.stream(client.tool("wait")) as other:
            async with asyncio.timeout(5):
                answer = await client.post(client.tool("die", **way))
            error = message_in(answer)["error"]  # a stream, on a busy machine
            assert (answer.status_code, error["code"]) == (200, -32603)
            assert error["data"] == {"reason": "server process ended", "retryable": False, **fact}
            assert "stderr of the dying child" not in answer.text
            (other_answer,) = await other.rest()
            assert other_answer["error"] == error
        assert await status_of(client) == 404
        await wait_until(lambda: edge.children == 0)
        assert edge.sessions.statistics().places == 0


async def test_a_child_that_dies_between_calls_ends_its_session() -> None:
    """2025-11-25, transports: the server may end a session at any time, which is then 404."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        os.kill(int(await client.ask("pid")), signal.SIGKILL)
        await wait_until(lambda: edge.children == 0)
        assert await status_of(client) == 404
        client.session_id = None
        await client.open()
        assert await client.ask("echo", text="hello") == "hello"


async def test_a_child_that_closes_its_stdout_is_as_good_as_dead() -> None:
    """Ours: no answer can come any more, so calls fail and the child is stopped."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with asyncio.timeout(5):
            answer = await client.call("close_stdout")
        assert answer["error"]["code"] == -32603
        await wait_until(lambda: edge.children == 0)
        assert await status_of(client) == 404


async def test_a_child_that_closes_its_stdin_is_as_good_as_dead() -> None:
    """Ours: no call can reach it any more, so its session ends and it is stopped."""
    async with serving(child_config(eof_grace=0.1)) as edge, edge.client() as client:
        await client.open()
        await client.call("close_stdin")
        for _ in range(2):  # the first one may find out
            await client.notify("notifications/x")
            await client.post(client.request("ping"), timeout=5)
        assert await status_of(client) == 404
        await wait_until(lambda: edge.children == 0, 5)


# The client goes away.


async def test_a_client_that_hangs_up_in_a_call_does_not_cancel_it() -> None:
    """2025-11-25, transports: disconnection SHOULD NOT be interpreted as a cancellation."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        async with client.stream(client.tool("wait")) as stream:
            assert await stream.next() == COMMENT
        await client.notify("notifications/test/release")
        seen = json.loads(await client.ask("seen"))
        assert [json.loads(line)["method"] for line in seen] == [
            "initialize",
            "notifications/initialized",
            "tools/call",
            "notifications/test/release",
            "tools/call",
        ]


async def test_a_client_that_hangs_up_before_the_answer_begins_does_not_cancel_it() -> None:
    """2025-11-25, transports: the same before the first byte of the answer."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with edge.client() as leaver:
            leaver.session_id = client.session_id
            call = asyncio.create_task(leaver.call("wait"))
            seen: list[str] = []
            while not any('"wait"' in line for line in seen):
                seen = json.loads(await client.ask("seen"))
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        await client.notify("notifications/test/release")
        assert not any("cancelled" in line for line in json.loads(await client.ask("seen")))
        assert edge.children == 1


async def test_a_cancellation_reaches_the_child_under_its_own_id() -> None:
    """2025-11-25, cancellation; protocol.md, 3: the id is translated."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        call = {**client.tool("wait", confesses=True), "id": "mine"}
        async with client.stream(call) as stream:
            assert (await client.notify("notifications/cancelled", requestId="mine", reason="é")).is_success
            (answer,) = await stream.rest()
            assert answer["id"] == "mine"
            assert "error" in answer
        seen = [json.loads(line) for line in json.loads(await client.ask("seen"))]
        assert seen[3]["params"] == {"requestId": seen[2]["id"], "reason": "é"}


@pytest.mark.parametrize("request_id", ["unknown", None, 1])
async def test_a_cancellation_of_nothing_is_accepted_and_dropped(request_id: object) -> None:
    """2025-11-25, cancellation: unknown or finished requests SHOULD be ignored."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        assert (await client.notify("notifications/cancelled", requestId=request_id)).status_code == 202
        assert "cancelled" not in await client.ask("seen")


async def test_a_cancelled_call_that_the_child_never_answers_is_over_for_its_client() -> None:
    """2025-11-25, cancellation: the receiver SHOULD NOT answer; nobody may wait for that."""
    bounds = BridgeSettings(max_calls=2)
    async with serving(http=QUICK, bridge=bounds) as edge, edge.client() as client:
        await client.open()
        for number in range(5):
            call = {**client.tool("wait"), "id": f"call {number}"}
            async with client.stream(call) as stream:
                assert stream.status == 200
                await client.notify("notifications/cancelled", requestId=f"call {number}")
                (answer,) = await stream.rest()
                assert answer["id"] == f"call {number}"
        assert await client.ask("echo", text="hello") == "hello"


# It never begins.


async def test_a_client_that_hangs_up_during_initialize_leaves_no_session() -> None:
    """Ours: it would never learn the id of that session."""
    async with serving(child_config("silent")) as edge:
        async with edge.client() as client:
            opening = asyncio.create_task(client.initialize())
            await wait_until(lambda: edge.children == 1)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        await wait_until(lambda: edge.sessions.statistics().places == 0)
        assert edge.children == 0


async def test_a_server_that_refuses_initialize_is_quoted_and_gets_no_session() -> None:
    """protocol.md, 6.2: the answer crosses verbatim; an error opens no session."""
    async with serving(child_config("refuse=wrong version")) as edge, edge.client() as client:
        answer = await client.initialize()
        assert answer.status_code == 200
        assert answer.text == (
            '{"jsonrpc":"2.0","id":1,"error":'
            '{"code":-32602,"message":"wrong version","data":{"why":["x",1.5]}}}'
        )
        assert "mcp-session-id" not in answer.headers
        await wait_until(lambda: edge.children == 0)


async def test_a_server_that_chooses_an_unknown_revision_gets_no_session() -> None:
    """protocol.md, 6.2: a version that the broker does not speak ends it: -32603, naming the version."""
    async with serving(child_config("version=1999-01-01")) as edge, edge.client() as client:
        answer = await client.initialize()
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], answer.json()["id"]) == (200, -32603, 1)
        assert "1999-01-01" in error["message"]
        assert "mcp-session-id" not in answer.headers
        await wait_until(lambda: edge.children == 0)


async def test_a_server_that_never_answers_initialize_is_given_up_at_the_deadline() -> None:
    """Ours: `start_timeout`; the client is told, and nothing is left."""
    settings = SessionSettings(start_timeout=0.3)
    async with serving(child_config("silent"), settings=settings) as edge, edge.client() as client:
        answer = await client.initialize()
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], answer.json()["id"]) == (200, -32603, 1)
        assert "0.3 s" in error["message"]
        assert "mcp-session-id" not in answer.headers
        await wait_until(lambda: edge.children == 0)


@pytest.mark.parametrize("recovery", ["end", "replay"])
async def test_a_server_that_ends_during_initialize_is_reported_with_its_exit_status(
    recovery: Recovery,
) -> None:
    """protocol.md, 9: -32603 with the exit status, never stderr text."""
    async with (
        serving(child_config("exit-at-start=5"), recovery=recovery) as edge,
        edge.client() as client,
    ):
        answer = await client.initialize()
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], answer.json()["id"]) == (200, -32603, 1)
        assert error["data"]["exitCode"] == 5
        assert "complaint" not in answer.text
        assert "mcp-session-id" not in answer.headers
        await wait_until(lambda: edge.children == 0)


async def test_a_command_that_cannot_be_started_is_the_operators_business() -> None:
    """Ours: the client is told that it failed, but not what the operator runs; the log says the rest."""
    config = Config(cmd=("/nonexistent/secret-path",))
    async with serving(config) as edge, edge.client() as client:
        answer = await client.initialize()
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], answer.json()["id"]) == (200, -32603, 1)
        assert "secret-path" not in answer.text
        assert edge.sessions.statistics().places == 0


# There is no place for it.


def refused_for_a_while(answer: httpx.Response) -> bool:
    """Tell whether an answer says: not now, and when."""
    error = answer.json()["error"]
    return (
        answer.status_code == 503
        and error["code"] == -32603
        and int(answer.headers["retry-after"]) >= 1
        and "mcp-session-id" not in answer.headers
    )


async def test_a_session_too_many_is_refused_until_a_place_is_free() -> None:
    """design.md, 6.12: 503 with Retry-After; a place is free when the process is gone."""
    settings = SessionSettings(max_sessions=1)
    async with (
        serving(child_config("ignore-eof", eof_grace=1.0), settings=settings) as edge,
        edge.client() as first,
        edge.client() as second,
    ):
        await first.open()
        pid = int(await first.ask("pid"))
        assert refused_for_a_while(await second.initialize())
        await first.delete()
        # The child lingers, so its place is still taken.
        assert refused_for_a_while(await second.initialize())
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: edge.sessions.statistics().places == 0)
        await second.open()


async def test_an_initialize_that_waits_too_long_for_its_turn_is_refused(tmp_path: Path) -> None:
    """Ours: starting is bounded (`max_starting`), and so is waiting for it (`queue_timeout`)."""
    quotas = dataclasses.replace(UNBOUNDED, max_starting=1, queue_timeout=0.2)
    go = tmp_path / "go"
    async with (
        serving(child_config(f"start-when={go}"), quotas=quotas) as edge,
        edge.client() as first,
        edge.client() as second,
    ):
        opening = asyncio.create_task(first.open())
        await wait_until(lambda: edge.children == 1)
        assert refused_for_a_while(await second.initialize())
        go.touch()
        await opening
        await second.open()


async def test_while_draining_open_calls_finish_and_nothing_new_begins() -> None:
    """design.md, 4: draining is 503 with Retry-After; what calls in flight need still passes."""
    async with (
        serving(http=QUICK) as edge,
        edge.client() as client,
        edge.client() as second,
    ):
        await client.open()
        asking = client.tool("ask", questions=[{"id": 1, "method": "roots/list"}])
        async with client.stream(client.tool("wait")) as waiting, client.stream(asking) as stream:
            draining = asyncio.create_task(edge.sessions.drain(20))
            await wait_until(lambda: edge.sessions.statistics().draining)
            assert refused_for_a_while(await second.initialize())
            assert refused_for_a_while(await client.post(client.tool("echo", text="too late")))
            question = await waiting.message()
            answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}}
            assert (await client.post(answer)).status_code == 202
            assert "roots" in text_of(await stream.message())
            assert not draining.done()
            assert (await client.notify("notifications/test/release")).status_code == 202
            assert text_of(await waiting.message()) == "released"
            async with asyncio.timeout(5):
                await draining


async def test_ending_everything_answers_open_calls_and_ends_open_streams() -> None:
    """Ours: shutdown leaves no client without a word."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        async with client.listen() as get, client.stream(client.tool("wait")) as stream:
            edge.sessions.end_all("the test says so")
            (answer,) = await stream.rest()
            assert "the test says so" in answer["error"]["message"]
            assert await get.rest() == []
        assert await status_of(client) == 404


async def test_a_child_that_is_stopped_by_us_is_really_gone() -> None:
    """Ours: also one that ignores what it is asked politely."""
    stubborn = child_config("ignore-eof", "ignore-sigterm", eof_grace=0.05, stop_grace=0.05)
    async with serving(stubborn) as edge, edge.client() as client:
        await client.open()
        pid = int(await client.ask("pid"))
        await client.delete()
        await wait_until(lambda: edge.children == 0)
        assert not is_alive(pid)
