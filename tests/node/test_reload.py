"""A configuration file that changes while everybody works: issue 5, "Reload", and its sixth "Done when"."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from mcp import ClientSession
from mcp.client.sse import sse_client

from stdio_broker.broker import node as node_module
from stdio_broker.broker.reloading import LOOK_INTERVAL, Reloading
from stdio_broker.config import Configuration, load_configuration
from stdio_broker.errors import ConfigError
from stdio_broker.sessions import Principal
from tests.support.deployment import Deployment, server_table
from tests.support.edge import CHILD, UNBOUNDED
from tests.support.eras import ISSUER, NamedPrincipals
from tests.support.mcp_client import COMMENT, McpClient, Message, message_in, text_of
from tests.support.modern_client import ModernClient
from tests.support.nodes import ServingNode, serving_node
from tests.support.processes import is_alive, wait_until

#: Calls that a client makes between two changes at least, so that each change is under load.
CALLS_BETWEEN = 5


class Principals(NamedPrincipals):
    """Believes whoever names a principal as a bearer, and can be told that one is revoked."""

    def __init__(self) -> None:
        self.revoke: Callable[[Principal], None] = lambda _principal: None

    def on_revoked(self, callback: Callable[[Principal], None]) -> None:
        """Have a callback told who is revoked."""
        self.revoke = callback


@dataclass(frozen=True, slots=True)
class Watched:
    """A node that does what its file says.

    Attributes:
        serving: The node.
        deployment: The file.
        principals: Who asks.
    """

    serving: ServingNode
    deployment: Deployment
    principals: Principals
    wished: asyncio.Event
    caplog: pytest.LogCaptureFixture

    async def reload(self, *tables: str, limits: str = "") -> None:
        """Write another file, and wait until it is taken over."""
        before = self.caplog.messages.count("configuration.reloaded")
        self.write(*tables, limits=limits)
        self.wished.set()
        await wait_until(lambda: self.caplog.messages.count("configuration.reloaded") > before)

    def write(self, *tables: str, limits: str = "") -> None:
        self.deployment.write(*tables, limits=limits)


@contextlib.asynccontextmanager
async def watched(
    directory: Path, caplog: pytest.LogCaptureFixture, *tables: str, limits: str = "", http: str = ""
) -> AsyncIterator[Watched]:
    """Serve what a file says, and what it says later."""
    caplog.set_level(logging.INFO, "stdio_broker")
    deployment = Deployment(directory)
    deployment.write(*tables, limits=limits)
    if http:
        deployment.write_text(deployment.config.read_text().replace("[http]\n", f"[http]\n{http}\n"))

    def load() -> Configuration:
        return dataclasses.replace(load_configuration(deployment.config, {}), quotas=UNBOUNDED)

    configuration, principals, wished = load(), Principals(), asyncio.Event()
    async with serving_node(configuration, authenticator=principals) as serving:
        reloading = Reloading(serving.node, load, wished, configuration.sources)
        task = asyncio.create_task(reloading.run())
        try:
            yield Watched(serving, deployment, principals, wished, caplog)
        finally:
            task.cancel()
            await asyncio.wait({task})


class Load:
    """Clients of a server that never stop calling it.

    Attributes:
        calls: How many calls each has made; every one had the answer that it should.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    async def more(self) -> None:
        """Wait until every client has made some more calls."""
        wanted = {name: count + CALLS_BETWEEN for name, count in self.calls.items()}
        await wait_until(lambda: all(self.calls[name] >= count for name, count in wanted.items()))

    async def legacy(self, name: str, client: McpClient) -> None:
        """Call in a session."""
        while True:
            text = f"{name} {self.calls[name]}"
            assert await client.ask("echo", text=text) == text
            self.calls[name] += 1

    async def modern(self, name: str, client: ModernClient) -> None:
        """Call without a session."""
        while True:
            text = f"{name} {self.calls[name]}"
            assert await client.ask("echo", text=text) == text
            self.calls[name] += 1

    async def streaming(self, name: str, client: ModernClient | McpClient) -> None:
        """Call what answers by a stream, and read all of it."""
        while True:
            async with client.stream(_with_progress(client, steps=3)) as stream:
                messages = await stream.rest()
            assert [message["params"]["progress"] for message in messages[:-1]] == [0, 1, 2]
            assert "result" in messages[-1]
            self.calls[name] += 1


def _with_progress(client: ModernClient | McpClient, *, steps: int) -> Message:
    request = client.tool("progress", steps=steps)
    meta = {**request["params"].get("_meta", {}), "progressToken": "token"}
    return {**request, "params": {**request["params"], "_meta": meta}}


@contextlib.asynccontextmanager
async def under_load(serving: ServingNode, *names: str) -> AsyncIterator[Load]:
    """Call servers without a pause, in every way, within the block; fail with the first call that fails."""
    load = Load()
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        clients: list[asyncio.Task[None]] = []
        for server in names:
            for user in ("anna", "ben"):
                label = f"{user} at {server}"
                session = await stack.enter_async_context(serving.legacy(server, user))
                await session.open()
                plain = await stack.enter_async_context(serving.modern(server, user))
                load.calls |= {
                    f"{label} {kind}": 0 for kind in ("legacy", "modern", "streams", "old streams")
                }
                clients += [
                    tasks.create_task(load.legacy(f"{label} legacy", session)),
                    tasks.create_task(load.modern(f"{label} modern", plain)),
                    tasks.create_task(load.streaming(f"{label} streams", plain)),
                    tasks.create_task(load.streaming(f"{label} old streams", session)),
                ]
        yield load
        for client in clients:
            client.cancel()


@contextlib.asynccontextmanager
async def waiting_call(client: McpClient) -> AsyncIterator[asyncio.Task[Message]]:
    """Have a call of the tool `wait` open in a session, which the child has read."""

    async def call() -> Message:
        return message_in(await client.post(client.tool("wait")))

    task = asyncio.create_task(call())
    while '\\"wait\\"' not in await client.ask("seen"):
        pass
    try:
        yield task
    finally:
        await asyncio.wait({task})


def variable(value: str) -> str:
    return f'env = {{ VALUE = "{value}" }}'


async def value_of(client: McpClient) -> str | None:
    """Return what the child of a session has as `VALUE`."""
    environment = await client.ask("environment")
    return environment.partition('"VALUE": "')[2].partition('"')[0] or None


async def test_servers_come_change_and_go_without_one_failed_call_on_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 5, done 6: add, change, remove a server under load without a failed call on the others."""
    old, new = server_table("old"), server_table("new", "era=modern")
    async with (
        watched(tmp_path, caplog, old, new, server_table("third")) as node,
        under_load(node.serving, "old", "new") as load,
        node.serving.legacy("old", "carl") as listener,
        node.serving.modern("new", "carl") as modern_listener,
    ):
        await listener.open()
        pid = await listener.ask("pid")
        async with (
            listener.listen() as stream,
            modern_listener.listen(toolsListChanged=True) as changes,
            waiting_call(listener) as call,
        ):
            assert await stream.next() == COMMENT
            assert (await changes.message())["method"] == "notifications/subscriptions/acknowledged"
            await load.more()
            started = node.serving.supervisor.statistics().started
            await node.reload(old, new, server_table("third"), server_table("fourth"))
            async with node.serving.legacy("fourth", "carl") as added:
                await added.open()
                await load.more()
                await node.reload(
                    old, new, server_table("third", lines=variable("x")), server_table("fourth")
                )
                await load.more()
                await node.reload(old, new)
                await load.more()
                await wait_until(lambda: "fourth" not in str(node.serving.app.readiness()))
                assert (await added.post(added.tool("pid"))).status_code == 404
            # The children of the others are the same, and so are their streams.
            assert await listener.ask("pid") == pid
            assert await modern_listener.ask("change", method="notifications/tools/list_changed") == "1"
            assert (await changes.message())["method"] == "notifications/tools/list_changed"
            assert await listener.ask("say", count=1, method="notifications/x") == "said"
            await listener.ask("release")
            assert text_of(await call) == "released"
        # Those of the added one, and of the trials of two.
        assert node.serving.supervisor.statistics().started - started <= 1 + 3 * 2
    names = [event for event in caplog.messages if event.startswith("server.")]
    assert names.count("server.removed") == 2
    assert "configuration.refused" not in caplog.messages


# Removed.


async def test_calls_of_a_removed_server_finish_and_nothing_new_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: as at a shutdown; what a client says to its open call still reaches it."""
    async with (
        watched(tmp_path, caplog, server_table("stays"), server_table("goes")) as node,
        node.serving.legacy("goes", "anna") as client,
        node.serving.legacy("goes", "ben") as newcomer,
    ):
        await client.open()
        pid = int(await client.ask("pid"))
        async with waiting_call(client) as call:
            await node.reload(server_table("stays"))
            refused = await newcomer.initialize()
            assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
            assert (await client.post(client.tool("echo", text="x"))).status_code == 503
            assert is_alive(pid)
            assert (await client.notify("notifications/test/release")).status_code == 202
            assert text_of(await call) == "released"
        await wait_until(lambda: not is_alive(pid))
        assert (await client.post(client.tool("echo", text="x"))).status_code == 404
        assert (await newcomer.initialize()).status_code == 404


async def test_a_call_of_a_removed_server_that_does_not_finish_is_ended_after_the_grace(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: `limits.drain_grace`; the client learns why."""
    stays, goes = server_table("stays"), server_table("goes")
    async with (
        watched(tmp_path, caplog, stays, goes) as node,
        node.serving.legacy("goes", "anna") as client,
    ):
        await client.open()
        async with waiting_call(client) as call:
            await node.reload(stays, limits="drain_grace = 0.2")
            assert "removed from the configuration" in (await call)["error"]["message"]
        await wait_until(lambda: node.serving.children == 0)


async def test_who_is_revoked_loses_what_runs_on_a_removed_server_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 5: a revoked principal's children are killed at once, not drained."""
    async with (
        watched(tmp_path, caplog, server_table("stays"), server_table("goes", "ignore-eof")) as node,
        node.serving.legacy("goes", "anna") as client,
    ):
        await client.open()
        pid = int(await client.ask("pid"))
        async with waiting_call(client) as call:
            await node.reload(server_table("stays"))
            node.principals.revoke(Principal(ISSUER, "anna"))
            assert "revoked" in (await call)["error"]["message"]
        await wait_until(lambda: not is_alive(pid))


async def test_a_server_that_comes_back_while_the_old_one_leaves_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: the end of the old one takes nothing from the new one."""
    both = (server_table("stays"), server_table("moves"))
    async with (
        watched(tmp_path, caplog, *both) as node,
        node.serving.legacy("moves", "anna") as client,
        node.serving.legacy("moves", "anna") as newcomer,
    ):
        await client.open()
        pid = int(await client.ask("pid"))
        async with waiting_call(client) as call:
            await node.reload(both[0], limits="drain_grace = 1.0")
            await node.reload(*both, limits="drain_grace = 1.0")
            await newcomer.open()
            assert "error" in await call
        await wait_until(lambda: not is_alive(pid))
        assert await newcomer.ask("echo", text="still here") == "still here"


async def test_the_end_of_the_node_does_not_wait_for_a_server_that_leaves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: a shutdown ends what was removed before, whatever is left of its grace."""
    async with contextlib.AsyncExitStack() as stack:
        node = await stack.enter_async_context(
            watched(tmp_path, caplog, server_table("stays"), server_table("goes"), limits="drain_grace = 50")
        )
        client = node.serving.legacy("goes", "anna")
        await client.open()
        call = asyncio.create_task(client.post(client.tool("wait")))
        while '\\"wait\\"' not in await client.ask("seen"):
            pass
        await node.reload(server_table("stays"), limits="drain_grace = 50")
        async with asyncio.timeout(20):
            await stack.aclose()
        assert "error" in message_in(await call)
        await client.__aexit__(None, None, None)


# Changed.


async def test_old_sessions_move_to_a_changed_server_when_they_are_idle_and_new_ones_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 5: new sessions use it, old ones move when idle; the id of a session stays."""
    async with (
        watched(tmp_path, caplog, server_table("one", lines=variable("old"))) as node,
        node.serving.legacy("one", "anna") as idle,
        node.serving.legacy("one", "ben") as busy,
        node.serving.legacy("one", "carl") as newcomer,
        node.serving.modern("one", "carl") as modern_client,
    ):
        await idle.open()
        await busy.open()
        assert '"VALUE": "old"' in await modern_client.ask("environment")
        session_id, pid = idle.session_id, int(await idle.ask("pid"))
        async with waiting_call(busy) as call:
            await node.reload(server_table("one", lines=variable("new")))
            await newcomer.open()
            assert await value_of(newcomer) == "new"
            await wait_until(lambda: not is_alive(pid))
            assert await value_of(idle) == "new"
            assert idle.session_id == session_id
            # What asks while a call runs asks the same child.
            assert await value_of(busy) == "old"
            await busy.notify("notifications/test/release")
            assert text_of(await call) == "released"
        await wait_until(lambda: caplog.messages.count("session.sleeps") == 2)
        assert await value_of(busy) == "new"
        while '"VALUE": "new"' not in await modern_client.ask("environment"):
            pass
    assert "session.ended" in caplog.messages  # at the end of the test; none before
    assert caplog.messages.index("session.ended") > caplog.messages.index("session.sleeps")


async def test_who_may_not_use_a_changed_server_any_more_loses_what_runs_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 5: every verb is checked against the principal; what they have running ends."""
    table = server_table("one", lines='principals = ["anna", "ben"]')
    async with (
        watched(tmp_path, caplog, table) as node,
        node.serving.legacy("one", "anna") as anna,
        node.serving.legacy("one", "ben") as ben,
    ):
        await anna.open()
        await ben.open()
        pid = int(await ben.ask("pid"))
        async with waiting_call(ben) as call:
            await node.reload(server_table("one", lines='principals = ["anna"]'))
            assert "may not use this server any more" in (await call)["error"]["message"]
        await wait_until(lambda: not is_alive(pid))
        assert (await ben.post(ben.tool("pid"))).status_code == 403
        assert await anna.ask("echo", text="here") == "here"


async def test_clients_of_the_oldest_transport_stay_connected_to_a_changed_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """design.md, 5: `/{server}/sse` and `/{server}/messages`."""
    async with watched(tmp_path, caplog, server_table("one"), http="legacy_sse = true") as node:
        url, headers = f"{node.serving.url}/one/sse", {"authorization": "Bearer anna"}
        async with sse_client(url, headers=headers) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            await node.reload(server_table("one", lines=variable("new")))
            answer = await session.call_tool("environment", {})
            assert '"VALUE": "new"' in str(answer.content)


async def test_a_server_that_was_mended_is_ready_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 5: truthful readiness; a balancer that sends nobody must not keep it from being found out."""
    monkeypatch.setattr(node_module, "FIRST_TRIAL_INTERVAL", 0.05)
    broken = tmp_path / "fine"
    script = f'[ -e {broken} ] || exit 3; exec "$@"'
    table = server_table("one", "exit-at-start=3")
    async with watched(tmp_path, caplog, table) as node:
        await wait_until(lambda: not node.serving.app.readiness().ready)
        # By its file,
        await node.reload(server_table("one"))
        await wait_until(lambda: node.serving.app.readiness().ready)
        # by what its file leads to,
        await node.reload(server_table("one", *CHILD, command=("sh", "-c", script, "sh")))
        await wait_until(lambda: not node.serving.app.readiness().ready)
        broken.touch()
        await wait_until(lambda: node.serving.app.readiness().ready)
        assert caplog.messages.count("server.does_not_start") == 2


async def test_a_server_that_somebody_could_use_meanwhile_is_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours: that it starts is known then, and a start costs a process."""
    monkeypatch.setattr(node_module, "FIRST_TRIAL_INTERVAL", 1.5)
    mended = tmp_path / "mended"
    script = f'[ -e {mended} ] || exit 3; exec "$@"'
    table = server_table("one", *CHILD, command=("sh", "-c", script, "sh"))
    async with (
        watched(tmp_path, caplog, table) as node,
        node.serving.legacy("one", "anna") as client,
    ):
        await wait_until(lambda: not node.serving.app.readiness().ready)
        mended.touch()
        await client.open()
        assert node.serving.app.readiness().ready
        trials = [task for task in asyncio.all_tasks() if task.get_name() == "try one"]
        assert len(trials) == 1
        await asyncio.wait(trials, timeout=10)
        assert trials[0].done()
        assert "server.starts" not in caplog.messages
        assert await client.ask("echo", text="still here") == "still here"


# The file.


class Recording:
    """A node that only notes what it is to do."""

    def __init__(self) -> None:
        self.applied: list[Configuration] = []

    async def apply(self, configuration: Configuration) -> node_module.Changed:
        """Note it."""
        self.applied.append(configuration)
        return node_module.Changed(("one",), (), ())


@contextlib.asynccontextmanager
async def reloading(
    load: Callable[[], Configuration], path: Path
) -> AsyncIterator[tuple[Recording, asyncio.Event]]:
    node, wished = Recording(), asyncio.Event()
    task = asyncio.create_task(Reloading(node, load, wished, [path]).run())  # type: ignore[arg-type]
    try:
        yield node, wished
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_file_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    """Ours: a copy over the network takes its time, and half a file says something else."""
    deployment = Deployment(tmp_path)
    deployment.write(server_table("one"))
    whole, config = deployment.config.read_bytes(), deployment.config
    loads = 0

    def load() -> Configuration:
        nonlocal loads
        loads += 1
        return load_configuration(config, {})

    async with reloading(load, config) as (node, _):
        await wait_until(lambda: len(node.applied) == 1)
        half = 0
        loop = asyncio.get_running_loop()
        until = loop.time() + 3 * LOOK_INTERVAL
        # In this very loop, so that no look can come without a write before it.
        while loop.time() < until:
            half += 1
            config.write_bytes(whole[: len(whole) // 2] + b"\n" * (half % 7))
            await asyncio.sleep(LOOK_INTERVAL / 20)
        assert loads == 1
        config.write_bytes(whole + b"\n")
        await wait_until(lambda: len(node.applied) == 2)


async def test_what_is_written_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    """Ours: no change is lost, at whatever moment it comes, that of the start included."""
    deployment = Deployment(tmp_path)
    deployment.write(server_table("one"))
    loads = 0

    def load() -> Configuration:
        nonlocal loads
        loads += 1
        configuration = load_configuration(deployment.config, {})
        if loads < 3:  # somebody writes as soon as we have read
            deployment.write(server_table("one"), server_table(f"more{loads}"))
        return configuration

    async with reloading(load, deployment.config) as (node, _):
        await wait_until(lambda: len(node.applied) == 3)
        assert [one.recipe.name for one in node.applied[-1].servers] == ["one", "more2"]


@pytest.mark.parametrize("failure", [ConfigError("one", "two"), RuntimeError("a mistake of ours")])
async def test_whatever_is_wrong_with_a_file_nothing_ends_and_nothing_changes(
    failure: Exception, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 5: a bad file changes nothing and says why, all of it in one event."""
    deployment = Deployment(tmp_path)
    deployment.write(server_table("one"))
    fails = True

    def load() -> Configuration:
        if fails:
            raise failure
        return load_configuration(deployment.config, {})

    async with reloading(load, deployment.config) as (node, wished):
        await wait_until(lambda: bool(caplog.records))
        (record,) = caplog.records
        if isinstance(failure, ConfigError):
            assert (record.getMessage(), vars(record)["problems"]) == (
                "configuration.refused",
                ["one", "two"],
            )
            assert record.exc_info is None
        else:
            assert record.getMessage() == "configuration.failed"
        assert node.applied == []
        fails = False
        wished.set()
        await wait_until(lambda: len(node.applied) == 1)


async def test_a_file_that_is_gone_for_a_while_changes_nothing(tmp_path: Path) -> None:
    """Ours: some editors and copies take the old one away first."""
    deployment = Deployment(tmp_path)
    deployment.write(server_table("one"))
    loads = 0

    def load() -> Configuration:
        nonlocal loads
        loads += 1
        return load_configuration(deployment.config, {})

    async with reloading(load, deployment.config) as (node, _):
        await wait_until(lambda: len(node.applied) == 1)
        deployment.config.unlink()
        await wait_until(lambda: loads == 2)
        assert len(node.applied) == 1
        deployment.write(server_table("one"))
        await wait_until(lambda: len(node.applied) == 2)


async def test_a_secret_that_others_may_read_is_seen_to_be_mended(tmp_path: Path) -> None:
    """Ours: what was wrong with a file need not be its content."""
    deployment = Deployment(tmp_path)
    secret = deployment.secret("word", "the word")
    deployment.write(server_table("one", lines='env = { WORD = { file = "word" } }'))
    sources = load_configuration(deployment.config, {}).sources
    assert secret in sources
    loads = 0

    def load() -> Configuration:
        nonlocal loads
        loads += 1
        return load_configuration(deployment.config, {})

    async with reloading(load, deployment.config) as (node, _):
        await wait_until(lambda: len(node.applied) == 1)
        secret.chmod(0o644)
        await wait_until(lambda: loads == 2)
        secret.chmod(0o600)
        await wait_until(lambda: len(node.applied) == 2)


async def test_files_that_say_the_same_disturb_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: what is equal is not changed, whatever it is made of; a wish is answered all the same."""
    deployment = Deployment(tmp_path)
    deployment.secret("static", "the static credential")
    deployment.secret("word", "the word")
    lines = [
        'credential = { source = "static", value = { file = "static" } }',
        'credential = { source = "file", path = "tokens" }',
        'credential = { source = "env", name = "TOKEN_{PRINCIPAL}" }',
        'credential = { source = "command", command = ["./token"], env = { WORD = { file = "word" } } }',
    ]
    env = 'env = { TOKEN = "${credential.token}", WORD = { file = "word" }, NAME = "${principal.name}" }'
    tables = [server_table(f"s{number}", lines=f"{line}\n{env}") for number, line in enumerate(lines)]
    async with watched(tmp_path, caplog, *tables) as node:
        os.utime(deployment.config)
        await node.reload(*tables)
        record = next(one for one in caplog.records if one.getMessage() == "configuration.reloaded")
        assert (vars(record)["added"], vars(record)["changed"], vars(record)["removed"]) == ((), (), ())
    assert "server.changed" not in caplog.messages
