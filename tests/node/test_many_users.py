"""Many principals, each with children and credentials of their own, and nothing of anybody else's.

Source: issue 5, "Done when" 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import re
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
import pytest

from stdio_broker.sessions import Settings as SessionSettings
from stdio_broker.supervisor import RestartPolicy
from tests.support.edge import UNBOUNDED, child_config
from tests.support.eras import AnyClient, open_session, with_token
from tests.support.mcp_client import EventStream, McpClient
from tests.support.modern_client import ModernClient
from tests.support.nodes import (
    TOKEN,
    ServingNode,
    TokenFiles,
    node_configuration,
    recorded_logs,
    report,
    server,
    serving_node,
)
from tests.support.processes import children_of, command_of

PRINCIPALS = 50
#: Server → the eras that its children speak.
SERVERS = {"alpha": "legacy", "beta": "modern", "gamma": "both"}
CALLS = 20
# Of so many principals one has a listener at each of its servers, and a child there that dies.
FEW = 5
# Requests in flight at once, of all clients.
IN_FLIGHT = 24
CANARY = re.compile(r"canary-[0-9a-z-]+")


@dataclass(frozen=True, slots=True)
class User:
    """One principal at one server.

    Attributes:
        number: Of the principal.
        client: Its client there.
        canary: Its credential there.
        transparent: Whether its child is of the era of its client.
    """

    number: int
    client: AnyClient
    canary: str
    transparent: bool

    @property
    def is_one_of_a_few(self) -> bool:
        return self.number % FEW == 0

    def check(self, text: str, *, expected: bool = True) -> None:
        """Fail if there is a canary in a text that is not its own, or none if one is expected."""
        found = set(CANARY.findall(text))
        assert found <= {self.canary}, f"found {found}, expected {self.canary} at most"
        assert found or not expected, f"expected {self.canary}: {text}"


@contextlib.asynccontextmanager
async def users_of(node: ServingNode, tokens: dict[str, TokenFiles]) -> AsyncIterator[list[User]]:
    """Give every principal a credential for each server and a client there, half of them of each era."""
    async with contextlib.AsyncExitStack() as stack:
        users = []
        for number in range(PRINCIPALS):
            for place, (name, spoken) in enumerate(SERVERS.items()):
                canary = f"canary-{name}-{number}-{secrets.token_hex(8)}"
                tokens[name].write(f"user-{number}", canary)
                modern = (number + place) % 2 == 0
                client = (node.modern if modern else node.legacy)(name, f"user-{number}")
                if isinstance(client, ModernClient):
                    client.log_level = "debug"
                await stack.enter_async_context(client)
                era = "modern" if modern else "legacy"
                users.append(User(number, client, canary, spoken in {era, "both"}))
        yield users


async def work(user: User, turns: asyncio.Semaphore) -> None:
    """Do all that a user does, while the others do the same."""
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(user.client, McpClient):
            async with turns:
                await open_session(user.client)
        heard: list[str] = []
        if user.is_one_of_a_few:
            stream = await stack.enter_async_context(listening(user.client))
            listener = asyncio.create_task(listen(stream, heard))
            stack.push_async_callback(ended, listener)
        for number in range(CALLS):
            async with turns:
                await call(user, number)
        # After the death of a child there is a message of ours, too, in which nothing is.
        user.check("\n".join(heard), expected=user.is_one_of_a_few and user.transparent)
        assert heard or not user.is_one_of_a_few


async def call(user: User, number: int) -> None:
    """Have a user's child tell its credential, in one way or another."""
    dies = user.is_one_of_a_few and number == CALLS // 2
    if number % 4 == 0:
        message = user.client.tool("environment")
    else:
        message = user.client.tool("reveal", variable=TOKEN, fails=number % 4 == 1, dies=dies)
    if number % 4 == 2:
        message = with_token(message, number)
    answer = await user.client.post(message)
    assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
    user.check(f"{answer.headers}\n{answer.text}", expected=not dies)
    if dies:
        assert '"exitCode":3' in answer.text, answer.text


@contextlib.asynccontextmanager
async def listening(client: AnyClient) -> AsyncIterator[EventStream]:
    """Open a stream of changes."""
    stream = client.listen(toolsListChanged=True) if isinstance(client, ModernClient) else client.listen()
    async with stream as events:
        if isinstance(client, ModernClient):
            await events.message()  # the acknowledgement
        yield events


async def listen(stream: EventStream, heard: list[str]) -> None:
    """Write down all that comes, until it is cancelled."""
    while True:
        heard.append(json.dumps(await stream.message()))


async def ended(task: asyncio.Task[None]) -> None:
    """End a task that nobody waits for any more; fail if it has failed."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def expect_no_canary_in_refusals(node: ServingNode, tokens: dict[str, TokenFiles]) -> None:
    """Fail if somebody hears of a credential who has none, or one that cannot be used."""
    tokens["alpha"].write("careless", "canary-of-the-careless", mode=0o644)
    tokens["alpha"].write("broken", "canary-of\tthe-broken")
    for subject, status in (("nobody", 200), ("careless", 503), ("broken", 503)):
        async with node.legacy("alpha", subject) as legacy, node.modern("alpha", subject) as modern:
            answers = [await legacy.post(legacy.initialize_request()), await modern.post(modern.tool("pid"))]
            for answer in answers:
                assert answer.status_code == status, answer.text
                assert "error" in answer.json()
                assert "canary" not in answer.text


@pytest.mark.timeout(240)
async def test_nobody_ever_sees_the_credential_of_another_principal(tmp_path: Path) -> None:
    """Issue 5: 50 principals × 3 servers × 20 interleaved calls, each child echoing its canary.

    In answers, streams, errors, logs, what is told of the node's state, and command lines.
    """
    tokens = {name: TokenFiles(tmp_path, name) for name in SERVERS}
    settings = SessionSettings(breaker=RestartPolicy(max_restarts=1000))
    configuration = node_configuration(
        *(
            server(name, child_config(f"era={spoken}"), credentials=tokens[name].source, settings=settings)
            for name, spoken in SERVERS.items()
        )
    )
    turns = asyncio.Semaphore(IN_FLIGHT)
    with recorded_logs(logging.DEBUG) as logs:
        async with serving_node(configuration) as node, users_of(node, tokens) as users:
            async with asyncio.TaskGroup() as tasks:
                for user in users:
                    tasks.create_task(work(user, turns))
            assert node.children == PRINCIPALS * len(SERVERS)
            told = [command_of(pid) for pid in children_of(os.getpid())]
            told += [repr(configuration), repr(node.app.readiness()), repr(node.supervisor.statistics())]
            told += [(await node.get(path)).text for path in ("/readyz", "/healthz")]
            await expect_no_canary_in_refusals(node, tokens)
    assert CANARY.findall("\n".join(told)) == []
    assert CANARY.findall("\n".join(logs.lines)) == []
    # The children's stderr is in the log, without what they were given.
    assert sum("the variable is [redacted]" in line for line in logs.lines) > PRINCIPALS * len(SERVERS)
    report(f"{len(users)} users, {len(users) * CALLS} calls, {len(logs.lines)} log lines")


# One principal that takes all it can get.

#: Sessions that one principal may have, and those that it tries to have beyond them.
MOST_SESSIONS, TOO_MANY = 50, 10
# Calls that are measured, on each of two nodes.
MEASURED = 400


class Knocking:
    """A client that tries to open a session on a connection of its own, as cheaply as can be done.

    What it costs shall be the broker's work, not the client's: all of them share this process.
    """

    def __init__(self, client: McpClient, subject: str) -> None:
        self._url = httpx.URL(client.url)
        body = json.dumps(client.initialize_request()).encode()
        fields = {
            **client.headers(),
            "host": self._url.netloc.decode(),
            "authorization": f"Bearer {subject}",
            "content-length": str(len(body)),
        }
        lines = [f"POST {self._url.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        self._request = "\r\n".join([*lines, "", ""]).encode() + body

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._url.host, self._url.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def knock(self) -> bytes:
        """Try once; return the head of the answer."""
        self._writer.write(self._request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        (length,) = re.findall(rb"content-length: (\d+)", head)
        await self._reader.readexactly(int(length))
        return head


@contextlib.asynccontextmanager
async def taking_all(node: ServingNode) -> AsyncIterator[Knocking]:
    """Have one principal open as many sessions as it may, each with a running call, and try for more."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [node.legacy("alpha", "greedy") for _ in range(MOST_SESSIONS + TOO_MANY)]
        for client in clients:
            await stack.enter_async_context(client)
        answers = await asyncio.gather(*(one.post(one.initialize_request()) for one in clients))
        refused = [answer for answer in answers if answer.status_code != 200]
        assert [answer.status_code for answer in refused] == [503] * TOO_MANY
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        knocking = await stack.enter_async_context(Knocking(clients[-1], "greedy"))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        opened = []
        for client, answer in zip(clients, answers, strict=True):
            if answer.status_code == 200:
                client.session_id, client.version = answer.headers["mcp-session-id"], "2025-11-25"
                tasks.create_task(client.call("wait"))
                opened.append(client)
        yield knocking
        released = await asyncio.gather(*(client.ask("release") for client in opened))
        assert released == ["1"] * MOST_SESSIONS


async def measure(client: McpClient, knocking: Knocking | None = None) -> float:
    """Return how many seconds a call takes; somebody else knocks meanwhile."""

    async def knock() -> None:
        if knocking is not None:
            assert (await knocking.knock()).startswith(b"HTTP/1.1 503 ")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(knock())
        began = time.perf_counter()
        assert await client.ask("echo", text="hello") == "hello"
        return time.perf_counter() - began


@pytest.mark.timeout(120)
async def test_a_principal_at_its_limit_is_refused_and_slows_nobody_else() -> None:
    """Issue 5: it stops at the limit with 503, and another one's calls are slowed by less than half.

    Two nodes, of which one has the greedy principal, with a call running in each of its sessions, and a
    request for one more beside every call of the other. Call by call alternately, so that whatever else
    the machine does slows both.
    """
    quotas = dataclasses.replace(UNBOUNDED, max_sessions_per_principal=MOST_SESSIONS)
    configuration = node_configuration(server("alpha"), quotas=quotas)
    async with (
        serving_node(configuration) as calm,
        serving_node(configuration) as crowded,
        calm.legacy("alpha", "modest") as alone,
        crowded.legacy("alpha", "modest") as beside,
        taking_all(crowded) as knocking,
    ):
        # At the limit of somebody else there is still room for this one.
        await open_session(alone)
        await open_session(beside)
        quiet, pressed = [], []
        for _ in range(MEASURED):
            quiet.append(await measure(alone))
            pressed.append(await measure(beside, knocking))
        ratio = statistics.median(pressed) / statistics.median(quiet)
        report(f"{statistics.median(quiet) * 1000:.2f} ms alone, slowed by {ratio:.2f}")
        assert ratio < 1.5
        readiness = await crowded.get("/readyz")
        assert (readiness.status_code, readiness.text) == (200, "ready\n")
