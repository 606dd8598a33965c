"""Children that are killed at random under everybody's calls, and sessions that go on.

Source: issue 5, "Done when" 2; design decision 6.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from stdio_broker.sessions import Settings as SessionSettings
from stdio_broker.supervisor import RestartPolicy
from tests.support.edge import child_config
from tests.support.eras import AnyClient, open_session
from tests.support.mcp_client import McpClient, message_in, text_of
from tests.support.nodes import ServingNode, node_configuration, report, server, serving_node
from tests.support.processes import children_of, wait_until

# Clients by their era and the server that they use: 100 in all, each with as many calls.
CLIENTS = {
    ("legacy", "legacy"): 40,
    ("legacy", "modern"): 20,
    ("modern", "legacy"): 20,
    ("modern", "modern"): 20,
}
CALLS_EACH = 20
# Clients of one principal: those of an era share children where there are no sessions.
CLIENTS_EACH = 5
# Calls in flight at once, of all clients.
IN_FLIGHT = 40
# After so many calls a child is killed, whatever it does.
CALLS_PER_KILL = 8
# The longest that a call may take, in seconds: many times what a start of a child takes on a loaded machine.
DEADLINE = 20.0
# How often a server, or a session, may fail is another test's subject.
SETTINGS = SessionSettings(
    max_sessions=128, max_children=256, breaker=RestartPolicy(max_restarts=100_000, max_backoff=0.1)
)


@dataclass(slots=True)
class Outcome:
    """What came of all calls.

    Attributes:
        counts: How many had a result, and how many an error, by its reason.
        wrong: Answers that nobody may get.
        killed: Children that were killed.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    killed: int = 0

    def note(self, answer: httpx.Response, expected: str) -> None:
        """Count an answer, as what it is."""
        if answer.status_code == 503 and "retry-after" in answer.headers:
            self.counts["503"] += 1
            return
        message = message_in(answer)
        if answer.status_code == 200 and "result" in message and text_of(message) == expected:
            self.counts["result"] += 1
        elif answer.status_code == 200 and "reason" in message.get("error", {}).get("data", {}):
            self.counts[message["error"]["data"]["reason"]] += 1
        else:
            self.wrong.append(f"{answer.status_code}: {answer.text}")

    @property
    def calls(self) -> int:
        """How many calls were answered as they should."""
        return self.counts.total()


@contextlib.asynccontextmanager
async def many_clients(node: ServingNode) -> AsyncIterator[list[AnyClient]]:
    """Connect all clients, in no order; those that have sessions open them."""
    async with contextlib.AsyncExitStack() as stack:
        clients: list[AnyClient] = []
        for (era, name), count in CLIENTS.items():
            for number in range(count):
                subject = f"{era}-{number // CLIENTS_EACH}"
                client = node.modern(name, subject) if era == "modern" else node.legacy(name, subject)
                await stack.enter_async_context(client)
                clients.append(client)
        await open_all([client for client in clients if isinstance(client, McpClient)])
        random.Random(1).shuffle(clients)  # noqa: S311 - no secret
        yield clients


async def open_all(clients: list[McpClient]) -> None:
    """Open the sessions of clients, a few at a time."""
    turns = asyncio.Semaphore(IN_FLIGHT)

    async def open_one(client: McpClient) -> None:
        async with turns:
            await open_session(client)

    async with asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(open_one(client))


def kill_one(chance: random.Random) -> bool:
    """Kill a child, whichever it is, and whatever it is doing; return whether there was one."""
    children = sorted(children_of(os.getpid()))
    if not children:
        return False
    # It is our child: until it is reaped, its number is nobody else's, and killing a zombie does nothing.
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice(children), signal.SIGKILL)
        return True
    return False


async def call_all(clients: list[AnyClient], outcome: Outcome, chance: random.Random) -> None:
    """Have every client make its calls, one after the other, and kill children meanwhile."""
    turns = asyncio.Semaphore(IN_FLIGHT)

    async def call(client: AnyClient, text: str) -> None:
        async with turns:
            if chance.random() < 0.5:
                request, expected = client.tool("wait", seconds=chance.uniform(0.01, 0.1)), "waited"
            else:
                request, expected = client.tool("echo", text=text), text
            outcome.note(await client.post(request, timeout=DEADLINE), expected)
            if (outcome.calls + len(outcome.wrong)) % CALLS_PER_KILL == 0:
                outcome.killed += kill_one(chance)

    async def work(number: int, client: AnyClient) -> None:
        for count in range(CALLS_EACH):
            await call(client, f"{number}-{count}")

    async with asyncio.TaskGroup() as tasks:
        for number, client in enumerate(clients):
            tasks.create_task(work(number, client))


async def expect_alive(client: AnyClient) -> None:
    """Fail unless a client is answered in the session that it has had from the beginning, at once or soon."""
    async with asyncio.timeout(DEADLINE):
        while True:
            answer = await client.post(client.tool("echo", text="still here"))
            assert answer.status_code in {200, 503}, answer.text
            if answer.status_code == 200 and "result" in message_in(answer):
                return


async def test_a_modern_server_is_not_taken_for_another_one_because_two_of_its_children_start_at_once(
    tmp_path: Path,
) -> None:
    """Ours: what is known of a server holds until it is refuted, also for whoever asks meanwhile."""
    gate = tmp_path / "go"
    gate.touch()
    configuration = node_configuration(server("alpha", child_config("era=modern", f"start-when={gate}")))
    async with (
        serving_node(configuration) as node,
        node.modern("alpha", "anna") as anna,
        node.modern("alpha", "bernd") as bernd,
        node.modern("alpha", "carl") as carl,
        asyncio.TaskGroup() as tasks,
    ):
        trials = [task for task in asyncio.all_tasks() if task.get_name() == "try alpha"]
        await asyncio.gather(*trials)
        await anna.ask("pid")
        await wait_until(lambda: len(children_of(os.getpid())) == 1, what="Anna's child, and no other")
        gate.unlink()
        before = children_of(os.getpid())
        slow = tasks.create_task(bernd.call("echo", text="slow"))
        await wait_until(lambda: len(children_of(os.getpid())) == 2, what="start of Bernd's child")
        his = children_of(os.getpid()) - before
        unlucky = tasks.create_task(carl.call("echo", text="unlucky"))
        await wait_until(lambda: len(children_of(os.getpid())) == 3, what="start of Carl's child")
        (killed,) = children_of(os.getpid()) - before - his
        os.kill(killed, signal.SIGKILL)
        error = (await unlucky)["error"]
        assert error["data"]["reason"] == "server process ended", error
        gate.touch()
        assert text_of(await slow) == "slow"
        assert await carl.ask("echo", text="again") == "again"


@pytest.mark.timeout(240)
async def test_children_are_killed_at_random_and_every_call_is_answered() -> None:
    """Issue 5: kill -9 during 2,000 calls over 100 sessions; and no session is lost, no process left.

    That no descriptor is, the leak check around every test sees.
    """
    chance, outcome = random.Random(5), Outcome()  # noqa: S311 - no secret
    configuration = node_configuration(
        server("legacy", child_config("era=legacy"), settings=SETTINGS),
        server("modern", child_config("era=modern"), settings=SETTINGS),
    )
    async with serving_node(configuration) as node:
        async with many_clients(node) as clients:
            await call_all(clients, outcome, chance)
            assert outcome.wrong == []
            assert outcome.calls == CALLS_EACH * sum(CLIENTS.values()) == 2000
            for client in clients:
                await expect_alive(client)
        report(f"{outcome.killed} children killed: {dict(outcome.counts)}")
        # Enough were hit in the middle of a call, and many more calls were not.
        assert outcome.killed > 100
        assert 20 < outcome.calls - outcome.counts["result"] < outcome.calls / 2
        # The killed were replaced: nobody waits for an end that nobody has noticed.
        await wait_until(
            lambda: node.children == len(children_of(os.getpid())), what="the supervisor knows its children"
        )
    assert not children_of(os.getpid())
