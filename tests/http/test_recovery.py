"""Sessions that outlive their children, over HTTP and with real processes (`recovery = "replay"`)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
from collections import Counter

import pytest

from stdio_broker.http import Settings
from stdio_broker.sessions import ANONYMOUS
from stdio_broker.sessions import Settings as SessionSettings
from stdio_broker.supervisor.restart import RestartPolicy
from tests.support.edge import Edge, child_config, serving
from tests.support.mcp_client import COMMENT, McpClient, text_of
from tests.support.processes import is_alive, wait_until

QUICK = Settings(keep_alive_interval=0.02)
# However often a child of these tests is killed, that is no reason to leave it alone.
PATIENT = SessionSettings(breaker=RestartPolicy(max_restarts=1000))

TOOLS_CHANGED = "notifications/tools/list_changed"


async def pid_of(client: McpClient) -> int:
    """Return the process that serves a session now."""
    return int(await client.ask("pid"))


async def kill_between_calls(client: McpClient) -> None:
    """End the child of a session."""
    pid = await pid_of(client)
    os.kill(pid, signal.SIGKILL)
    await wait_until(lambda: not is_alive(pid))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("die", {"reason": "server process ended", "exitCode": 3}),
        ("close_stdout", {"reason": "server closed its output"}),
    ],
)
async def test_a_call_that_ends_its_child_fails_with_how_and_the_next_one_has_another(
    how: str, reason: dict[str, object]
) -> None:
    """Issue 5: a typed error, never a silent retry; then the same session goes on."""
    config = child_config(eof_grace=0.1)
    async with serving(config, settings=PATIENT, recovery="replay") as edge, edge.client() as client:
        await client.open()
        session_id, before = client.session_id, await pid_of(client)
        answer = await client.post(client.tool(how, **({"code": 3} if how == "die" else {})), timeout=10)
        assert answer.status_code == 200
        assert {name: answer.json()["error"]["data"].get(name) for name in reason} == reason
        assert await pid_of(client) != before
        assert client.session_id == session_id
        await wait_until(lambda: edge.children == 1)
        # The new one was told what this session is, once.
        seen = [json.loads(line)["method"] for line in json.loads(await client.ask("seen"))]
        assert seen[:2] == ["initialize", "notifications/initialized"]
        assert seen.count("initialize") == 1


async def test_a_child_that_reads_no_more_is_replaced_for_the_call_that_finds_out() -> None:
    """Ours: nothing was sent, so nothing is repeated."""
    config = child_config(eof_grace=0.1, stop_grace=0.1)
    async with serving(config, settings=PATIENT, recovery="replay") as edge, edge.client() as client:
        await client.open()
        before = await pid_of(client)
        await client.call("close_stdin")
        for _ in range(2):  # the first one may find out
            assert (await client.notify("notifications/x")).status_code == 202
        assert await pid_of(client) != before
        await wait_until(lambda: edge.children == 1)


async def test_a_get_stream_lives_through_a_crash_and_tells_that_lists_may_have_changed() -> None:
    """Issue 5: listeners stay connected."""
    async with (
        serving(http=QUICK, settings=PATIENT, recovery="replay") as edge,
        edge.client() as client,
    ):
        await client.open()
        async with client.listen() as get:
            await kill_between_calls(client)
            await pid_of(client)
            async with asyncio.timeout(10):
                assert (await get.message())["method"] == TOOLS_CHANGED


async def test_an_idle_session_has_no_process_and_its_next_call_has_one() -> None:
    """Issue 5, "Done when" 4."""
    settings = SessionSettings(idle_timeout=0.3)
    async with serving(http=QUICK, settings=settings, recovery="replay") as edge, edge.client() as client:
        await client.open()
        async with client.listen() as get:
            before = await client.ask("echo", text="hello")
            await wait_until(lambda: edge.children == 0)
            assert edge.sessions.statistics().asleep == 1
            assert await client.ask("echo", text="hello") == before
            await wait_until(lambda: edge.children == 0)
            assert await get.next() == COMMENT


async def test_a_session_that_is_asleep_can_be_ended() -> None:
    """2025-11-25, transports: DELETE; nobody is woken for it."""
    settings = SessionSettings(idle_timeout=0.2)
    async with serving(settings=settings, recovery="replay") as edge, edge.client() as client:
        await client.open()
        await wait_until(lambda: edge.children == 0)
        started = edge.supervisor.statistics().started
        assert (await client.delete()).status_code == 200
        assert (await client.post(client.request("ping"))).status_code == 404
        assert edge.supervisor.statistics().started == started


async def talk(edge: Edge, client: McpClient, dice: random.Random) -> list[str]:
    """Make calls, and now and then kill the child that answers them; return what came of each."""
    outcomes: list[str] = []
    for number in range(40):
        if dice.random() < 0.15:
            link = edge.sessions.find(ANONYMOUS, str(client.session_id)).link
            if link is not None and link.child.pid is not None:
                os.kill(link.child.pid, signal.SIGKILL)
        answer = await client.call("echo", text=str(number))
        outcomes.append("result" if "result" in answer else answer["error"]["data"]["reason"])
        assert "error" in answer or text_of(answer) == str(number)
    return outcomes


async def test_whatever_is_killed_every_call_is_answered_and_no_session_is_lost() -> None:
    """Issue 5, "Done when" 2, in small: results or typed errors, in time, and nothing is left."""
    dice = random.Random(5)  # noqa: S311 - no secret
    async with serving(settings=PATIENT, recovery="replay") as edge, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(edge.client()) for _ in range(4)]
        for client in clients:
            await client.open()
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*(talk(edge, client, dice) for client in clients))
        kinds = Counter(itertools.chain(*outcomes))
        assert kinds.total() == 160
        assert kinds.keys() <= {"result", "server process ended"}
        assert kinds["result"] > 80
        assert edge.sessions.statistics().sessions == 4
        assert edge.supervisor.statistics().started > 8
        for client in clients:
            await client.delete()
        await wait_until(lambda: edge.children == 0)
