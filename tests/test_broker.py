"""The composition root: the order of start and shutdown, in the process of the test."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stdio_broker.broker import Ready, Shutdown, serve
from stdio_broker.config import Configuration, ServerConfiguration
from stdio_broker.errors import BrokerError, SpawnError
from stdio_broker.http import LOOPBACK_HOSTS, bind
from stdio_broker.http import Settings as HttpSettings
from stdio_broker.sessions import ProbeFailed, ServerRecipe
from stdio_broker.sessions import Settings as SessionSettings
from stdio_broker.supervisor import Config, Isolation
from tests.support.edge import child_config
from tests.support.mcp_client import McpClient, message_in
from tests.support.processes import children_of, wait_until


def _server(config: Config | None, settings: SessionSettings) -> ServerConfiguration:
    recipe = ServerRecipe("child", config or child_config())
    # A session ends with its child.
    settings = dataclasses.replace(settings, recovery="end")
    return ServerConfiguration(recipe=recipe, sessions=settings, isolation=Isolation(level="none"))


def configuration(
    config: Config | None = None,
    *,
    settings: SessionSettings | None = None,
    **options: Any,  # noqa: ANN401 - passed on
) -> Configuration:
    """Return the configuration of a broker on a free port."""
    return Configuration(
        **{
            "host": "127.0.0.1",
            "port": 0,
            "drain_grace": 10.0,
            "servers": (_server(config, settings or SessionSettings()),),
            **options,
        }
    )


class Running:
    """A broker that runs in this process.

    Attributes:
        ready: What it announced, every time.
        shutdown: Ends it.
        task: Done when nothing of it is left.
    """

    def __init__(self, config: Configuration) -> None:
        self.ready: list[Ready] = []
        self.shutdown = Shutdown()
        self.task = asyncio.create_task(serve(config, shutdown=self.shutdown, announce=self.ready.append))

    @property
    def url(self) -> str:
        return f"{self.ready[0].url}/mcp"

    async def ended(self, timeout: float = 10.0) -> None:
        async with asyncio.timeout(timeout):
            await self.task


@contextlib.asynccontextmanager
async def running(config: Configuration) -> AsyncIterator[Running]:
    """Serve until the block is left, or until the test has ended it."""
    broker = Running(config)
    try:
        await wait_until(lambda: bool(broker.ready) or broker.task.done())
        yield broker
    finally:
        broker.shutdown.request()
        await broker.ended()


async def failure(config: Configuration, kind: type[Exception]) -> Exception:
    """Return why a broker does not start; fail if it announced anything or left a child."""
    announced: list[Ready] = []
    with pytest.raises(kind) as caught:
        await serve(config, shutdown=Shutdown(), announce=announced.append)
    assert announced == []
    assert not children_of(os.getpid())
    return caught.value


async def test_it_announces_once_when_requests_are_answered() -> None:
    """design.md, 5: when it is ready to serve."""
    async with running(configuration()) as broker, McpClient(broker.url) as client:
        await client.open()
        assert await client.ask("echo", text="hello") == "hello"
        assert len(broker.ready) == 1
        agreement = broker.ready[0].agreement
        assert agreement is not None
        assert agreement.name == "mcp-child"


async def test_the_trial_child_is_gone_before_it_serves() -> None:
    """Ours: what is left running costs somebody memory."""
    async with running(configuration(child_config("ignore-eof", eof_grace=0.1))):
        assert not children_of(os.getpid())


async def test_a_taken_port_is_known_before_anything_is_started() -> None:
    """Ours: take the port first."""
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        exc = await failure(configuration(Config(cmd=("/nonexistent",)), port=taken), BrokerError)
    assert str(taken) in str(exc)
    assert not isinstance(exc, SpawnError)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (Config(cmd=("/nonexistent",)), SpawnError),
        (child_config("exit-at-start=1"), ProbeFailed),
        (child_config("refuse"), ProbeFailed),
        (child_config("silent"), ProbeFailed),
    ],
)
async def test_a_server_that_does_not_start_is_an_error_and_the_port_is_free_again(
    config: Config, kind: type[Exception]
) -> None:
    """Ours: the caller gets the very error, to tell its user."""
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = SessionSettings(start_timeout=0.3)
    await failure(configuration(config, port=port, settings=settings), kind)
    bind("127.0.0.1", port).close()


async def test_the_port_is_free_again_when_it_has_ended() -> None:
    """Ours: a restart must not fail."""
    async with running(configuration()) as broker:
        port = int(broker.url.rpartition(":")[2].partition("/")[0])
    bind("127.0.0.1", port).close()


async def test_an_announcement_that_fails_ends_it_whole() -> None:
    """Ours: stdout may be a pipe whose reader has gone."""

    def announce(_ready: Ready) -> None:
        raise BrokenPipeError

    with pytest.raises((BrokenPipeError, ExceptionGroup)):
        async with asyncio.timeout(10):
            await serve(configuration(), shutdown=Shutdown(), announce=announce)
    assert not children_of(os.getpid())


async def test_the_first_wish_to_end_lets_calls_finish_and_the_second_does_not() -> None:
    """design.md, 5: the second one hurries."""
    async with running(configuration(drain_grace=60.0)) as broker, McpClient(broker.url) as client:
        await client.open()
        call = asyncio.create_task(client.post(client.tool("wait")))
        await wait_until(lambda: bool(children_of(os.getpid())))
        async with McpClient(broker.url) as idle:
            idle.session_id = client.session_id
            while '\\"wait\\"' not in await idle.ask("seen"):
                pass
        broker.shutdown.request()
        assert (broker.shutdown.requested.is_set(), broker.shutdown.hurried.is_set()) == (True, False)
        await asyncio.sleep(0.2)
        assert not call.done()
        broker.shutdown.request()
        assert "error" in message_in(await call)
        await broker.ended()


async def test_a_wish_during_the_trial_ends_it_without_an_announcement() -> None:
    """Ours: SIGTERM while the server starts."""
    broker = Running(configuration(child_config("silent")))
    await wait_until(lambda: bool(children_of(os.getpid())))
    broker.shutdown.request()
    await broker.ended()
    assert broker.ready == []
    await wait_until(lambda: not children_of(os.getpid()))


async def test_a_wish_before_the_start_leaves_nothing() -> None:
    """Ours: at whatever moment the signal comes. What was just being started is killed in the background."""
    broker = Running(configuration(child_config("silent")))
    broker.shutdown.request()
    await broker.ended()
    assert broker.ready == []
    await wait_until(lambda: not children_of(os.getpid()))


@pytest.mark.parametrize(("names", "warned"), [(set(), True), ({"mcp.example.com"}, False)])
async def test_every_address_without_a_name_for_others_is_worth_a_warning(
    names: set[str], *, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """docs/running.md, "Options": with `--host 0.0.0.0`, each name that clients use needs `--allow-host`."""
    http = HttpSettings(allowed_hosts=LOOPBACK_HOSTS | {"0.0.0.0"} | names)  # noqa: S104
    async with running(configuration(host="0.0.0.0", http=http)):  # noqa: S104
        assert ("broker.no_remote_host_allowed" in caplog.messages) is warned


async def test_being_cancelled_leaves_nothing() -> None:
    """Style guide, "Concurrency": whoever opens a thing closes it, also when cancelled."""
    broker = Running(configuration())
    await wait_until(lambda: bool(broker.ready))
    async with McpClient(broker.url) as client:
        await client.open()
        broker.task.cancel()
        _, pending = await asyncio.wait({broker.task}, timeout=4)
        if pending:  # it cannot be cancelled, so ask again, and more politely
            broker.shutdown.request()
            broker.shutdown.request()
            await asyncio.wait({broker.task}, timeout=4)
    assert not pending
    assert not children_of(os.getpid())


async def test_signals_are_wishes_within_the_block_only() -> None:
    """Ours: the library's own user keeps their handlers."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    shutdown = Shutdown()
    with shutdown.on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(5):
            await shutdown.requested.wait()
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(5):
            await shutdown.hurried.wait()
        shutdown.request()  # a third one changes nothing
    assert before[signal.SIGTERM] == signal.getsignal(signal.SIGTERM)
    assert before[signal.SIGHUP] == signal.getsignal(signal.SIGHUP)
