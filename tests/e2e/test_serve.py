"""`stdio-broker serve`, as a team has it: a process, a file, keys by the command, clients of both eras."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from stdio_broker.http import bind
from tests.support.broker_process import BrokerProcess, serving_broker
from tests.support.deployment import Deployment, legacy, modern, server_table, stdio_broker
from tests.support.mcp_client import COMMENT, McpClient, message_in, text_of
from tests.support.nodes import bearer_http
from tests.support.processes import is_alive, wait_until

# What is over "at once" may take a loaded machine so long, in seconds.
SOON = 10.0


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


async def get(broker: BrokerProcess, path: str, key: str | None = None) -> httpx.Response:
    async with bearer_http(key) as http:
        return await http.get(broker.url + path)


@contextlib.asynccontextmanager
async def waiting_call(client: McpClient, **arguments: object) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """Have a call of the tool `wait` open in a session, which the child has read."""
    call = asyncio.create_task(client.post(client.tool("wait", **arguments)))
    while '\\"wait\\"' not in await client.ask("seen"):
        pass
    try:
        yield call
    finally:
        await asyncio.wait({call})


async def test_every_server_has_a_url_of_its_own_and_a_broken_one_stops_no_other(
    deployment: Deployment,
) -> None:
    """design.md, 5: `/{server}/mcp`; issue 5: one broken server never stops the others."""
    deployment.write(
        server_table("old"),
        server_table("new", "era=modern"),
        server_table("broken", "exit-at-start=3"),
        server_table("missing", command=("/nonexistent/program",)),
    )
    key = deployment.key("anna")
    async with serving_broker(deployment.config) as broker:
        assert re.fullmatch(
            r"stdio-broker: ready at http://127\.0\.0\.1:\d+, "
            r"serving /old/mcp, /new/mcp, /broken/mcp, /missing/mcp\n",
            broker.stdout_text(),
        )
        for name in ("old", "new"):
            async with legacy(broker.url, name, key) as client:
                await client.open()
                assert await client.ask("echo", text="hello") == "hello"
            async with modern(broker.url, name, key) as modern_client:
                assert await modern_client.ask("echo", text="hello") == "hello"
        for name in ("broken", "missing"):
            async with legacy(broker.url, name, key) as client:
                answer = await client.initialize()
                assert (answer.status_code, "error" in answer.json()) == (200, True)
                assert "nonexistent" not in answer.text
        await broker.wait_event("server.does_not_start", 2)
        ready = await get(broker, "/readyz")
        assert ready.status_code == 200
        assert sorted(ready.text.splitlines()) == [
            "broken: the server did not start when it was tried",
            "missing: the server did not start when it was tried",
            "ready",
        ]
        assert (await get(broker, "/healthz")).text == "ok\n"
        assert {event["server"] for event in broker.events("server.starts")} == {"old", "new"}


async def test_a_node_none_of_whose_servers_starts_is_not_ready(deployment: Deployment) -> None:
    """Issue 5: truthful readiness."""
    deployment.write(server_table("broken", "exit-at-start=3"))
    async with serving_broker(deployment.config) as broker:
        await broker.wait_event("server.does_not_start")
        ready = await get(broker, "/readyz")
        assert (ready.status_code, ready.text.splitlines()[0]) == (503, "not ready")


async def test_whoever_has_no_key_or_one_for_other_servers_gets_nowhere(deployment: Deployment) -> None:
    """Issue 5: modes `keys`; per key: principal, servers, expiry. RFC 6750, 3."""
    deployment.write(server_table("one"), server_table("two", lines='principals = ["ben"]'))
    anna, only_one = deployment.key("anna"), deployment.key("carl", "--server", "one")
    async with serving_broker(deployment.config) as broker:
        for key, status in ((None, 401), ("stdiob_key_" + "x" * 49, 401), (only_one, 403), (anna, 403)):
            async with legacy(broker.url, "two", key) as client:
                answer = await client.initialize()
                assert answer.status_code == status
                assert ("www-authenticate" in answer.headers) is (status == 401)
        for key in (anna, only_one):
            async with legacy(broker.url, "one", key) as client:
                await client.open()
        # A key that is made while it serves is good at once.
        ben = deployment.key("ben")
        async with legacy(broker.url, "two", ben) as client:
            deadline = time.monotonic() + SOON
            while (answer := await client.initialize()).status_code == 401:
                assert time.monotonic() < deadline
            assert answer.status_code == 200


async def test_each_user_has_a_child_with_their_own_credential(deployment: Deployment) -> None:
    """Issue 5: each user's own credential in their own child and nowhere else."""
    lines = 'credential = { source = "file", path = "tokens" }\n'
    deployment.write(server_table("forge", lines=lines + 'env = { TOKEN = "${credential.token}" }'))
    keys = {name: deployment.key(name) for name in ("anna", "ben", "carl")}
    for name in ("anna", "ben"):
        deployment.secret(f"tokens/{name}", f"token-of-{name}")
    async with serving_broker(deployment.config) as broker:
        for name in ("anna", "ben"):
            async with legacy(broker.url, "forge", keys[name]) as client:
                await client.open()
                assert f'"TOKEN": "token-of-{name}"' in await client.ask("environment")
            async with modern(broker.url, "forge", keys[name]) as modern_client:
                assert f'"TOKEN": "token-of-{name}"' in await modern_client.ask("environment")
        async with legacy(broker.url, "forge", keys["carl"]) as client:
            answer = await client.initialize()
            assert "no credential for the server 'forge'" in answer.json()["error"]["message"]
        await broker.wait_event("server.not_tried")


async def test_a_revoked_key_ends_a_running_call_and_its_child_at_once(deployment: Deployment) -> None:
    """Issue 5, done 5: running call ended, child gone, next request 401; others notice nothing."""
    deployment.write(server_table("one"))
    anna, ben = deployment.key("anna"), deployment.key("ben")
    async with (
        serving_broker(deployment.config) as broker,
        legacy(broker.url, "one", anna) as revoked,
        legacy(broker.url, "one", ben) as other,
    ):
        await revoked.open()
        await other.open()
        pid = int(await revoked.ask("pid"))
        async with waiting_call(revoked) as call, waiting_call(other) as others:
            deployment.revoke("--principal", "anna")
            answer = message_in(await call)
            assert "error" in answer
            await wait_until(lambda: not is_alive(pid), SOON)
            assert (await revoked.post(revoked.tool("echo", text="x"))).status_code == 401
            await other.ask("release")
            assert text_of(message_in(await others)) == "released"


# Exit codes.


def test_every_mistake_in_the_file_is_told_with_exit_code_2(deployment: Deployment) -> None:
    """design.md, 5: 2 for configuration, every mistake with file and key; nothing is started."""
    deployment.write_text(
        '[http]\nhots = "127.0.0.1"\nport = 70000\n[auth]\nmode = "none"\n[servers.Bad]\ncommand = ""\n'
    )
    for command in ("serve", "check"):
        done = stdio_broker(command, "--config", str(deployment.config))
        assert (done.returncode, done.stdout) == (2, "")
        lines = done.stderr.splitlines()
        for key in ("http.hots", "http.port", "servers.Bad", "servers.Bad.command"):
            assert any(line.startswith(f"stdio-broker: {deployment.config}: {key}: ") for line in lines), key
        assert 'did you mean "host"?' in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_file_that_is_not_there_is_a_mistake_in_the_usage(command: str) -> None:
    """design.md, 5: 2 for usage."""
    for arguments in ([], ["--config", "/nonexistent.toml"]):
        done = stdio_broker(command, *arguments)
        assert done.returncode == 2
        assert "--config" in done.stderr


def test_a_port_in_use_ends_it_with_exit_code_1(deployment: Deployment) -> None:
    """design.md, 5: 1 for what failed."""
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        deployment.write(server_table("one"))
        deployment.write_text(deployment.config.read_text().replace("port = 0", f"port = {port}"))
        done = stdio_broker("serve", "--config", str(deployment.config))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port}" in done.stderr
    assert "child.started" not in done.stderr


def test_a_database_that_cannot_be_used_ends_it_with_exit_code_1(deployment: Deployment) -> None:
    """Ours: whoever cannot check keys must not serve."""
    deployment.write(server_table("one"))
    (deployment.directory / "keys.db").write_text("this is no database, " * 100)
    done = stdio_broker("serve", "--config", str(deployment.config))
    assert (done.returncode, done.stdout) == (1, "")
    assert "storage" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_tells_what_there_is() -> None:
    """design.md, 5: `--help`."""
    helped = stdio_broker("serve", "--help")
    assert helped.returncode == 0
    for words in ("--config", "--log-level", "--log-format", "SIGHUP", "SIGTERM"):
        assert words in helped.stdout
    everything = stdio_broker("--help").stdout
    for command in ("run", "serve", "check", "import", "config", "key"):
        assert re.search(rf"^  {command} ", everything, re.MULTILINE)


# Shutdown.


async def test_sigterm_lets_calls_finish_and_refuses_what_is_new(deployment: Deployment) -> None:
    """Issue 5, drain: no new sessions; calls in flight finish; 503 with Retry-After for the rest."""
    deployment.write(server_table("one"), server_table("two", "era=modern"))
    anna, ben = deployment.key("anna"), deployment.key("ben")
    async with (
        serving_broker(deployment.config) as broker,
        legacy(broker.url, "one", anna) as client,
        modern(broker.url, "two", ben) as modern_client,
    ):
        await client.open()
        modern_call = asyncio.create_task(modern_client.ask("wait", seconds=2.0))
        while '\\"wait\\"' not in await modern_client.ask("seen"):
            pass
        async with waiting_call(client) as call, client.listen() as stream:
            assert await stream.next() == COMMENT
            broker.signal(signal.SIGTERM)
            await broker.wait_event("broker.stopping")
            async with legacy(broker.url, "two", ben) as newcomer:
                refused = [
                    await newcomer.initialize(),
                    await client.post(client.tool("echo", text="x")),
                    await modern_client.post(modern_client.tool("echo", text="x")),
                ]
            assert [answer.status_code for answer in refused] == [503] * 3
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            ready = await get(broker, "/readyz")
            assert ready.status_code == 503
            assert "one: shutting down" in ready.text
            assert (await get(broker, "/healthz")).status_code == 200
            assert (await client.notify("notifications/test/release")).status_code == 202
            assert text_of(message_in(await call)) == "released"
            assert await modern_call == "waited"
        assert await broker.wait(SOON) == 0
        assert not [event for event in broker.events() if event["level"] == "error"]


async def test_what_does_not_finish_within_the_grace_is_told_so(deployment: Deployment) -> None:
    """Ours: `limits.drain_grace`."""
    deployment.write(server_table("one"), mode="none", limits="drain_grace = 0.3")
    async with serving_broker(deployment.config) as broker, legacy(broker.url, "one", None) as client:
        await client.open()
        async with waiting_call(client) as call:
            broker.signal(signal.SIGTERM)
            assert "shutting down" in message_in(await call)["error"]["message"]
        assert await broker.wait(SOON) == 0


async def test_a_second_signal_hurries(deployment: Deployment) -> None:
    """design.md, 5: a second one hurries, and the exit code is 0 still."""
    deployment.write(server_table("one"), mode="none", limits="drain_grace = 50")
    async with serving_broker(deployment.config) as broker, legacy(broker.url, "one", None) as client:
        await client.open()
        async with waiting_call(client) as call:
            broker.signal(signal.SIGTERM)
            await broker.wait_event("broker.stopping")
            broker.signal(signal.SIGINT)
            assert "shutting down" in message_in(await call)["error"]["message"]
        assert await broker.wait(SOON) == 0


async def test_a_signal_while_a_server_is_tried_does_not_wait_for_it(deployment: Deployment) -> None:
    """Ours: a server that hangs must not keep the broker from ending."""
    deployment.write(server_table("hangs", "silent", lines="start_timeout = 50"), mode="none")
    async with serving_broker(deployment.config) as broker:
        await wait_until(lambda: bool(broker.descendants()))
        assert await broker.stop(SOON) == 0
        assert not [event for event in broker.events() if event["level"] == "error"]


# Reload.


async def test_sighup_takes_over_a_changed_file_and_a_broken_one_changes_nothing(
    deployment: Deployment,
) -> None:
    """Issue 5, reload: validated first; a bad file changes nothing and says why."""
    deployment.write(server_table("one"), mode="none")
    async with serving_broker(deployment.config) as broker, legacy(broker.url, "one", None) as client:
        await client.open()
        pid = await client.ask("pid")
        deployment.write(server_table("one"), server_table("two"), mode="none")
        os.kill(broker.pid, signal.SIGHUP)
        reloaded = await broker.wait_event("configuration.reloaded")
        assert (reloaded["added"], reloaded["changed"], reloaded["removed"]) == (["two"], [], [])
        async with legacy(broker.url, "two", None) as other:
            await other.open()
        deployment.write_text('[servers.one]\ncommand = 1\n[servers.two]\ncommnd = "x"\n')
        os.kill(broker.pid, signal.SIGHUP)
        refused = await broker.wait_event("configuration.refused")
        assert refused["level"] == "error"
        told = "\n".join(refused["problems"])
        for key in ("servers.one.command", "servers.two.commnd", "servers.two.command"):
            assert key in told
        assert await client.ask("pid") == pid
        async with legacy(broker.url, "two", None) as other:
            await other.open()


async def test_a_file_that_is_written_is_taken_over_without_a_word(deployment: Deployment) -> None:
    """Issue 5, reload: by file watch; the files with secrets too."""
    deployment.secret("first", "the first secret")
    line = 'env = { WORD = { file = "first" } }'
    deployment.write(server_table("one", lines=line), mode="none")
    async with serving_broker(deployment.config) as broker:
        deployment.write(server_table("one", lines=line), server_table("two"), mode="none")
        await broker.wait_event("configuration.reloaded")
        async with legacy(broker.url, "two", None) as client:
            await client.open()
        async with legacy(broker.url, "one", None) as client:
            await client.open()
            assert '"WORD": "the first secret"' in await client.ask("environment")
            deployment.secret("first", "another secret")
            changed = await broker.wait_event("configuration.reloaded", 2)
            assert changed["changed"] == ["one"]
            async with legacy(broker.url, "one", None) as newcomer:
                await newcomer.open()
                assert '"WORD": "another secret"' in await newcomer.ask("environment")


async def test_what_a_reload_cannot_change_is_said(deployment: Deployment) -> None:
    """Ours: `configuration.needs_restart`, for what belongs to the node as a whole."""
    deployment.write(server_table("one"), mode="none")
    async with serving_broker(deployment.config) as broker:
        text = deployment.config.read_text()
        deployment.write_text(text.replace("port = 0", 'port = 1\nhost = "127.0.0.2"'))
        os.kill(broker.pid, signal.SIGHUP)
        await broker.wait_event("configuration.reloaded")
        waiting = {event["key"] for event in broker.events("configuration.needs_restart")}
        assert waiting == {"host", "port", "http"}
        async with legacy(broker.url, "one", None) as client:
            await client.open()
