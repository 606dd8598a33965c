"""Servers and clients that others wrote, with the broker between them.

Servers: `mcp-server-git` and `mcp-server-time` from PyPI (Python), `server-everything` from npm (Node).
Clients: the official SDKs for Python and TypeScript. A server that is not installed fails its tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.session import ClientRequestContext, IncomingMessage
from pydantic import FileUrl

from tests.support.broker_process import BrokerProcess, running_broker
from tests.support.node import NODE, npm_folder

FIXTURES = Path(__file__).parents[1] / "children" / "conformance_server.py"
# The longest that one answer or one notification may take.
ANSWER_TIMEOUT = 20.0
# The newest revision that opens with a handshake, and so the newest that the broker serves.
REVISION = "2025-11-25"

Kind = TypeVar("Kind", bound=types.ServerNotification)

pytestmark = [
    # Logging and subscribing belong to these revisions; that a later one deprecates them is no news.
    pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning"),
    # The first of all tests may have to install the npm packages.
    pytest.mark.timeout(300),
]
# `legacy` opens with `initialize`; `auto` asks `server/discover` first and must find its way back.
both_modes = pytest.mark.parametrize("mode", ["legacy", "auto"])


class Host:
    """A client that keeps what it is told and asked, and answers every question with its own name."""

    def __init__(self, name: str = "anna") -> None:
        self.name = name
        self.prompts: list[str] = []
        self._told: list[types.ServerNotification] = []
        self._changed = anyio.Condition()

    def connect(self, url: str, mode: str = "legacy") -> Client:
        async def sample(
            context: ClientRequestContext, params: types.CreateMessageRequestParams
        ) -> types.CreateMessageResult:
            self.prompts.append(str(params.messages[0].content))
            content = types.TextContent(text=f"{self.name} thinks")
            return types.CreateMessageResult(role="assistant", content=content, model="none")

        async def elicit(
            context: ClientRequestContext, params: types.ElicitRequestParams
        ) -> types.ElicitResult:
            return types.ElicitResult(action="accept", content={"name": self.name})

        async def list_roots(context: ClientRequestContext) -> types.ListRootsResult:
            return types.ListRootsResult(roots=[types.Root(uri=FileUrl(f"file:///home/{self.name}"))])

        return Client(
            url,
            mode=mode,
            read_timeout_seconds=ANSWER_TIMEOUT,
            message_handler=self._on_message,
            sampling_callback=sample,
            elicitation_callback=elicit,
            list_roots_callback=list_roots,
        )

    def told(self, kind: type[Kind]) -> list[Kind]:
        return [message for message in self._told if isinstance(message, kind)]

    async def wait_until_told(self, kind: type[Kind]) -> Kind:
        with anyio.fail_after(ANSWER_TIMEOUT):
            async with self._changed:
                while not self.told(kind):
                    await self._changed.wait()
        return self.told(kind)[0]

    async def _on_message(self, message: IncomingMessage) -> None:
        if isinstance(message, Exception):
            raise message
        async with self._changed:
            self._told.append(message)
            self._changed.notify_all()


def everything() -> AbstractAsyncContextManager[BrokerProcess]:
    program = npm_folder() / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
    return running_broker(NODE, str(program), "stdio")


def installed(command: str) -> str:
    """Return the path of a command of the environment that runs the tests."""
    return str(Path(sys.executable).with_name(command))


def said(result: types.CallToolResult) -> str:
    assert not result.is_error, result
    return "\n".join(block.text for block in result.content if isinstance(block, types.TextContent))


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
        assert client.protocol_version == REVISION
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


@both_modes
async def test_node_server_lists_its_tools_and_echoes(mode: str) -> None:
    """The issue's: an unchanged Node server behind the broker, an unchanged client before it."""
    async with everything() as broker, Host().connect(broker.url, mode) as client:
        assert client.server_info is not None
        assert client.server_info.name == "mcp-servers/everything"
        assert "echo" in {tool.name for tool in (await client.list_tools()).tools}
        assert said(await client.call_tool("echo", {"message": "grüezi"})) == "Echo: grüezi"


async def test_progress_arrives_in_order_before_the_answer() -> None:
    """The specification's (basic/utilities/progress): tokens are restored, and progress increases."""
    steps: list[tuple[float, float | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total))

    async with everything() as broker, Host().connect(broker.url) as client:
        arguments = {"duration": 0.2, "steps": 4}
        await client.call_tool("trigger-long-running-operation", arguments, progress_callback=on_progress)

        assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


@both_modes
async def test_sampling_reaches_the_client_and_its_answer_the_server(mode: str) -> None:
    """The specification's (client/sampling): a server may ask while it answers."""
    host = Host()
    async with everything() as broker, host.connect(broker.url, mode) as client:
        answer = said(await client.call_tool("trigger-sampling-request", {"prompt": "a riddle"}))

    assert "anna thinks" in answer
    assert len(host.prompts) == 1
    assert "a riddle" in host.prompts[0]


async def test_elicitation_reaches_the_client_and_its_answer_the_server() -> None:
    """The specification's (client/elicitation): a server may ask the user."""
    async with everything() as broker, Host().connect(broker.url) as client:
        assert "- Name: anna" in said(await client.call_tool("trigger-elicitation-request"))


async def test_roots_of_the_client_reach_the_server() -> None:
    """The specification's (client/roots); this server asks of itself, outside of any call."""
    async with everything() as broker, Host().connect(broker.url) as client:
        assert "file:///home/anna" in said(await client.call_tool("get-roots-list"))


async def test_subscribed_client_is_told_of_an_update() -> None:
    """The specification's (server/resources, "Subscriptions")."""
    uri = "demo://resource/dynamic/text/1"
    host = Host()
    async with everything() as broker, host.connect(broker.url) as client:
        await client.subscribe_resource(uri)
        await client.call_tool("toggle-subscriber-updates")

        assert (await host.wait_until_told(types.ResourceUpdatedNotification)).params.uri == uri


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


async def test_client_that_cancels_one_call_after_another_can_still_call() -> None:
    """The specification's (basic/utilities/cancellation): a cancelled call is not answered, and lets go.

    The client keeps the connection of a cancelled call until the stream ends, and has 100 of them.
    """
    async with (
        running_broker(sys.executable, str(FIXTURES)) as broker,
        Host().connect(broker.url) as client,
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


async def test_typescript_client_lists_calls_and_closes() -> None:
    """The issue's: the official TypeScript SDK, version 1, against the broker."""
    async with everything() as broker:
        client = subprocess.run(
            [NODE, "--input-type=module", "-", broker.url],
            input=(Path(__file__).parent / "node" / "client.mjs").read_text(),
            cwd=npm_folder(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert client.returncode == 0, client.stderr
    saw = json.loads(client.stdout)
    assert saw.pop("tools")[0] == "echo"
    assert saw == {
        "server": "mcp-servers/everything",
        "protocolVersion": REVISION,
        "hadSession": True,
        "echo": [{"type": "text", "text": "Echo: grüezi"}],
        "progress": [[1, 4], [2, 4], [3, 4], [4, 4]],
    }
