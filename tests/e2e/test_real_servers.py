"""Servers that others wrote, with the broker between them and the official SDK for Python.

`mcp-server-git` and `mcp-server-time` from PyPI (Python), `server-everything` from npm (Node). A server that
is not installed fails its tests. What every client does with every kind of server is in `test_clients.py`;
here is what is particular to one server, and more than one client or one call at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import anyio
import mcp_types as types
import pytest

from tests.support.broker_process import BrokerProcess, running_broker
from tests.support.hosts import ANSWER_TIMEOUT, Host, said
from tests.support.node import NODE, npm_folder

FIXTURES = Path(__file__).parents[1] / "children" / "conformance_server.py"
# What each mode of the client comes to, whatever the server speaks.
REVISIONS = {"legacy": "2025-11-25", "auto": "2026-07-28"}

pytestmark = [
    # Logging and subscribing belong to these revisions; that a later one deprecates them is no news.
    pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning"),
    # The first of all tests may have to install the npm packages.
    pytest.mark.timeout(300),
]
# `legacy` opens with `initialize`; `auto` asks `server/discover` first.
both_modes = pytest.mark.parametrize("mode", REVISIONS)


def everything() -> AbstractAsyncContextManager[BrokerProcess]:
    program = npm_folder() / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
    return running_broker(NODE, str(program), "stdio")


def installed(command: str) -> str:
    """Return the path of a command of the environment that runs the tests."""
    return str(Path(sys.executable).with_name(command))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit, made without the configuration of the user."""
    (tmp_path / "file").write_text("text\n")
    author = ("-c", "user.name=Anna", "-c", "user.email=anna@example.com", "-c", "commit.gpgsign=false")
    for arguments in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "file"),
        (*author, "commit", "--quiet", "--message", "the first commit"),
    ):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True, timeout=ANSWER_TIMEOUT)
    return tmp_path


@both_modes
async def test_git_server_shows_the_log_and_the_status_of_a_repository(repository: Path, mode: str) -> None:
    """The issue's: an unchanged Python server behind the broker, an unchanged client before it."""
    arguments = {"repo_path": str(repository)}
    async with (
        running_broker(installed("mcp-server-git"), "--repository", str(repository)) as broker,
        Host().connect(broker.url, mode) as client,
    ):
        assert client.protocol_version == REVISIONS[mode]
        assert {"git_log", "git_status"} <= {tool.name for tool in (await client.list_tools()).tools}
        assert "the first commit" in said(await client.call_tool("git_log", arguments))
        assert "On branch main" in said(await client.call_tool("git_status", arguments))


@both_modes
async def test_time_server_tells_the_time(mode: str) -> None:
    """The issue's: an unchanged Python server behind the broker, an unchanged client before it."""
    async with (
        running_broker(installed("mcp-server-time"), "--local-timezone", "UTC") as broker,
        Host().connect(broker.url, mode) as client,
    ):
        answer = json.loads(said(await client.call_tool("get_current_time", {"timezone": "UTC"})))

    assert answer["timezone"] == "UTC"


async def test_roots_of_the_client_reach_the_server() -> None:
    """The specification's (client/roots); this server asks of itself, outside of any call."""
    async with everything() as broker, Host().connect(broker.url) as client:
        assert "file:///home/anna" in said(await client.call_tool("get-roots-list"))


async def test_log_messages_reach_the_client() -> None:
    """The specification's (server/utilities/logging)."""
    host = Host()
    async with everything() as broker, host.connect(broker.url) as client:
        await client.set_logging_level("debug")
        await client.call_tool("toggle-simulated-logging")

        message = await host.wait_until_told(types.LoggingMessageNotification)

    assert "message" in str(message.params.data)


async def test_two_clients_at_once_never_see_each_others_messages() -> None:
    """The specification's (basic/transports): a message goes to the session it belongs to.

    Both clients count their ids and progress tokens from the same number, so every message of one could be
    taken for the other's.
    """

    async def use(host: Host, url: str, steps: int) -> None:
        uri = f"demo://resource/dynamic/text/{steps}"
        async with host.connect(url) as client:
            await client.subscribe_resource(uri)
            await client.call_tool("toggle-subscriber-updates")
            for turn in range(5):
                prompt = f"{host.name} asks {turn}"
                answer = said(await client.call_tool("trigger-sampling-request", {"prompt": prompt}))
                assert f"{host.name} thinks" in answer
                assert prompt in host.prompts[turn]
                totals: list[float | None] = []

                async def on_progress(
                    progress: float,
                    total: float | None,
                    message: str | None,
                    totals: list[float | None] = totals,
                ) -> None:
                    totals.append(total)

                arguments = {"duration": 0.1, "steps": steps}
                await client.call_tool(
                    "trigger-long-running-operation", arguments, progress_callback=on_progress
                )
                assert totals == [steps] * steps
            await host.wait_until_told(types.ResourceUpdatedNotification)
        assert {told.params.uri for told in host.told(types.ResourceUpdatedNotification)} == {uri}
        assert len(host.prompts) == 5

    async with everything() as broker, anyio.create_task_group() as clients:
        clients.start_soon(use, Host("anna"), broker.url, 3)
        clients.start_soon(use, Host("bruno"), broker.url, 7)


@both_modes
async def test_client_that_cancels_one_call_after_another_can_still_call(mode: str) -> None:
    """The specification's (basic/utilities/cancellation): a cancelled call is not answered, and lets go.

    A legacy client keeps the connection of a cancelled call until the stream ends, and has 100 of them.
    """
    async with (
        running_broker(sys.executable, str(FIXTURES)) as broker,
        Host().connect(broker.url, mode) as client,
    ):
        for _ in range(110):
            started = anyio.Event()

            async def on_progress(
                progress: float, total: float | None, message: str | None, started: anyio.Event = started
            ) -> None:
                started.set()

            with anyio.fail_after(ANSWER_TIMEOUT):
                async with anyio.create_task_group() as calls:
                    call = partial(client.call_tool, "sleep", {"seconds": 600}, progress_callback=on_progress)
                    calls.start_soon(call)
                    await started.wait()
                    calls.cancel_scope.cancel()

        assert said(await client.call_tool("test_simple_text"))
