"""A credential that changes while its principal's children work with it.

Source: issue 5, "Done when" 3; design decision 6.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stdio_broker.sessions import Settings as SessionSettings
from stdio_broker.supervisor import Config, RestartPolicy
from tests.support.eras import CELLS, LEGACY_TO_LEGACY, MODERN_TO_MODERN, AnyClient, Cell, open_session
from tests.support.mcp_client import EventStream, McpClient, Message, message_in, text_of
from tests.support.modern_client import ModernClient
from tests.support.nodes import (
    STREAMING,
    TOKEN,
    ServingNode,
    TokenFiles,
    node_configuration,
    recorded_logs,
    report,
    running_call,
    server,
    serving_node,
)
from tests.support.processes import is_alive, wait_until

TOOLS_CHANGED = "notifications/tools/list_changed"
ROTATIONS = 4
# How many calls of a client are in flight at any time.
IN_FLIGHT = 3
# The longest that a rotation may take to be seen, in seconds.
ROTATION_TIMEOUT = 20.0
QUICK = SessionSettings(refresh_interval=0.05, breaker=RestartPolicy(max_restarts=1000, max_backoff=0.1))

every_cell = pytest.mark.parametrize("cell", CELLS, ids=str)


@dataclass(frozen=True, slots=True)
class Rotating:
    """A node whose principals have credentials in files.

    Attributes:
        node: The node.
        tokens: The files.
    """

    node: ServingNode
    tokens: TokenFiles

    def client(self, cell: Cell, subject: str) -> AnyClient:
        """Return a client of the era of a cell, without a session."""
        if cell.client == "modern":
            return self.node.modern("alpha", subject)
        return self.node.legacy("alpha", subject)


@contextlib.asynccontextmanager
async def rotating(
    directory: Path, config: Config, settings: SessionSettings = QUICK
) -> AsyncIterator[Rotating]:
    """Serve one server to Anna and Bernd, until the block is left."""
    tokens = TokenFiles(directory, "alpha")
    for subject in ("anna", "bernd"):
        tokens.write(subject, f"{subject}-0")
    one = server("alpha", config, credentials=tokens.source, settings=settings)
    configuration = node_configuration(one, http=STREAMING)
    async with serving_node(configuration) as node:
        yield Rotating(node, tokens)


@dataclass(slots=True)
class Load:
    """Calls of one client, one after the other, and what came of them.

    Attributes:
        client: The client.
        answers: How many calls were answered with a result.
        failures: What the others got.
        token: What the last answer said that the credential is.
        over: Set when it shall end.
    """

    client: AnyClient
    answers: int = 0
    failures: list[str] = field(default_factory=list)
    token: str = ""
    over: bool = False

    async def run(self) -> None:
        while not self.over:
            answer = await self.client.post(self.client.tool("environment"))
            if answer.status_code == 200 and "result" in (message := message_in(answer)):
                self.answers += 1
                self.token = token_in(message)
            else:
                self.failures.append(f"{answer.status_code}: {answer.text}")


def token_in(answer: Message) -> str:
    """Return the credential that the tool `environment` tells."""
    token: str = json.loads(text_of(answer))[TOKEN]
    return token


@contextlib.asynccontextmanager
async def listening(client: AnyClient) -> AsyncIterator[EventStream]:
    """Open a session, where there are sessions, and a stream of changes."""
    if isinstance(client, ModernClient):
        async with client.listen(toolsListChanged=True) as stream:
            await stream.message()  # the acknowledgement
            yield stream
    else:
        await open_session(client)
        async with client.listen() as stream:
            yield stream


@every_cell
async def test_a_credential_rotates_under_load_without_a_failed_call(tmp_path: Path, cell: Cell) -> None:
    """Issue 5: zero failed calls with a stateless server; the old child gone; the new one has the new value.

    And its listener has stayed connected all the time.
    """
    async with (
        rotating(tmp_path, cell.config()) as edge,
        edge.client(cell, "anna") as client,
        listening(client) as stream,
        asyncio.TaskGroup() as tasks,
    ):
        load = Load(client)
        for _ in range(IN_FLIGHT):
            tasks.create_task(load.run())
        pids = []
        for number in range(1, ROTATIONS + 1):
            pids.append(int(await client.ask("pid")))
            edge.tokens.write("anna", f"anna-{number}")
            expected = f"anna-{number}"
            await wait_until(
                lambda expected=expected: load.token == expected,  # type: ignore[misc] # a default is bound now
                ROTATION_TIMEOUT,
                what=f"rotation {number}",
            )
        load.over = True
        await wait_until(lambda: not any(map(is_alive, pids)), what="end of the old children")
        await wait_until(lambda: edge.node.children == 1, what="one child")
        assert load.failures == []
        assert len(set(pids)) == ROTATIONS
        assert int(await client.ask("pid")) not in pids
        await client.ask("change", method=TOOLS_CHANGED)
        assert (await stream.message())["method"] == TOOLS_CHANGED
        report(f"{cell}: {ROTATIONS} rotations, {load.answers} calls answered, none failed")


@every_cell
async def test_what_the_old_child_was_asked_it_answers(tmp_path: Path, cell: Cell) -> None:
    """Design decision 6: switch over, then drain. Ours: for new calls nobody waits for the old ones."""
    async with (
        rotating(tmp_path, cell.config()) as edge,
        edge.client(cell, "anna") as client,
        listening(client),
        running_call(client, seconds=1.0) as waiting,
    ):
        old = int(await client.ask("pid"))
        edge.tokens.write("anna", "anna-1")
        while token_in(await client.call("environment")) != "anna-1":  # noqa: ASYNC110 - it is asked
            await asyncio.sleep(0.01)
        assert text_of((await waiting.rest())[-1]) == "waited"
        await wait_until(lambda: not is_alive(old), what="end of the old child")


@every_cell
async def test_a_credential_that_is_withdrawn_ends_its_principal_and_nobody_else(
    tmp_path: Path, cell: Cell
) -> None:
    """Issue 5: killed at once, not drained; and one that comes back is good for a new beginning."""
    config = cell.config(eof_grace=ROTATION_TIMEOUT, stop_grace=ROTATION_TIMEOUT)
    async with (
        rotating(tmp_path, config) as edge,
        edge.client(cell, "anna") as anna,
        edge.client(cell, "bernd") as bernd,
        listening(anna) as stream,
        listening(bernd) as his_stream,
        running_call(anna) as waiting,
        running_call(bernd) as his_waiting,
    ):
        hers, his = int(await anna.ask("pid")), int(await bernd.ask("pid"))
        await anna.ask("turn_stubborn")
        edge.tokens.delete("anna")
        answer = (await waiting.rest())[-1]
        assert answer["error"]["data"]["reason"] in {"session ended", "server stopped"}, answer
        assert "the credential was withdrawn" in answer["error"]["message"]
        assert [message.get("result") is None for message in await stream.rest()] in ([], [False])
        await wait_until(lambda: not is_alive(hers), what="end of her child")
        refused = await anna.post(
            anna.initialize_request() if isinstance(anna, McpClient) else anna.tool("pid"),
            {"mcp-session-id": None},
        )
        assert "you have no credential for the server 'alpha'" in refused.text
        # Nobody else has noticed.
        assert int(await bernd.ask("pid")) == his
        assert await bernd.ask("release") == "1"
        assert text_of((await his_waiting.rest())[-1]) == "released"
        await bernd.ask("change", method=TOOLS_CHANGED)
        assert (await his_stream.message())["method"] == TOOLS_CHANGED
        assert edge.node.children == 1
        edge.tokens.write("anna", "anna-1")
        async with edge.client(cell, "anna") as again, listening(again):
            assert token_in(await again.call("environment")) == "anna-1"


@pytest.mark.parametrize("cell", [LEGACY_TO_LEGACY, MODERN_TO_MODERN], ids=str)
async def test_a_renewal_that_fails_disturbs_nobody_and_is_tried_again(tmp_path: Path, cell: Cell) -> None:
    """Ours: the old child is better than none, and the new credential must not be forgotten over it."""
    gate = tmp_path / "go"
    gate.touch()
    settings = SessionSettings(
        refresh_interval=0.05, start_timeout=2.0, breaker=RestartPolicy(max_restarts=1000, max_backoff=0.1)
    )
    async with (
        rotating(tmp_path, cell.config(f"start-when={gate}", eof_grace=0.1), settings) as edge,
        edge.client(cell, "anna") as client,
        listening(client) as stream,
    ):
        old = int(await client.ask("pid"))
        gate.unlink()
        with recorded_logs(logging.WARNING) as warnings:
            edge.tokens.write("anna", "anna-1")
            await wait_until(lambda: bool(warnings.lines), ROTATION_TIMEOUT, what="failure of the new child")
        assert "did not answer" in warnings.lines[0]
        assert token_in(await client.call("environment")) == "anna-0"
        assert int(await client.ask("pid")) == old
        gate.touch()
        async with asyncio.timeout(ROTATION_TIMEOUT):
            while token_in(await client.call("environment")) != "anna-1":  # noqa: ASYNC110 - it is asked
                await asyncio.sleep(0.01)
        await client.ask("change", method=TOOLS_CHANGED)
        assert (await stream.message())["method"] == TOOLS_CHANGED


async def test_a_session_that_sleeps_wakes_with_the_new_credential(tmp_path: Path) -> None:
    """Ours: and the rotation alone wakes nobody."""
    settings = SessionSettings(refresh_interval=0.05, idle_timeout=0.2)
    async with (
        rotating(tmp_path, LEGACY_TO_LEGACY.config(), settings) as edge,
        edge.client(LEGACY_TO_LEGACY, "anna") as client,
        listening(client),
    ):
        await wait_until(lambda: not edge.node.children, what="sleep")
        edge.tokens.write("anna", "anna-1")
        assert token_in(await client.call("environment")) == "anna-1"


async def test_a_credential_that_cannot_be_had_for_a_while_changes_nothing(tmp_path: Path) -> None:
    """Ours: what a child has is good as far as we know; only new children need one."""
    async with (
        rotating(tmp_path, LEGACY_TO_LEGACY.config()) as edge,
        edge.client(LEGACY_TO_LEGACY, "anna") as client,
        listening(client),
        edge.client(LEGACY_TO_LEGACY, "anna") as another,
    ):
        pid = int(await client.ask("pid"))
        edge.tokens.write("anna", "anna-1", mode=0o644)  # others could read it
        assert isinstance(another, McpClient)
        answer = await another.post(another.initialize_request())
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert "anna-1" not in answer.text
        assert int(await client.ask("pid")) == pid
        edge.tokens.write("anna", "anna-2")
        async with asyncio.timeout(ROTATION_TIMEOUT):
            while token_in(await client.call("environment")) != "anna-2":  # noqa: ASYNC110 - it is asked
                await asyncio.sleep(0.01)
