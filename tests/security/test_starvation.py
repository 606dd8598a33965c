"""One user with a good key cannot keep the others out, whatever they do with it.

Source: issue 5, "Limits": refused fairly; identity reference, T29.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys

import pytest

from stdio_broker.http import Settings as HttpSettings
from stdio_broker.http import sse_transport
from stdio_broker.sessions import Principal
from stdio_broker.sessions import Settings as SessionSettings
from stdio_broker.sessions.credentials import Credential
from stdio_broker.supervisor import Config
from stdio_broker.supervisor.restart import RestartPolicy
from tests.support.edge import CHILD, UNBOUNDED, serving
from tests.support.mcp_client import McpClient
from tests.support.nodes import TOKEN, ServingNode, node_configuration, server, serving_node
from tests.support.processes import wait_until

NO_MERCY = RestartPolicy(max_restarts=0, first_backoff=300.0, max_backoff=300.0)
SETTINGS = SessionSettings(breaker=NO_MERCY)

#: A server that an `initialize` can end; it answers any other one.
FRAGILE = """
import sys
line = sys.stdin.readline()
if "crash" in line:
    sys.exit(3)
print('{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{},'
      '"serverInfo":{"name":"fragile","version":"1"}}}', flush=True)
sys.stdin.read()
"""


class Names:
    """A credential for each principal: its name."""

    per_principal = True

    async def resolve(self, principal: Principal) -> Credential:
        """Return it."""
        return Credential(principal.subject)


def initialize(client: McpClient, name: str) -> dict[str, object]:
    """Return an `initialize` of a client of this name, always with the same id."""
    return {**client.initialize_request(clientInfo={"name": name, "version": "1"}), "id": 1}


async def is_ready(node: ServingNode) -> bool:
    """Return what a balancer is told."""
    return (await node.get("/readyz")).status_code == 200


async def test_a_user_whose_initialize_ends_the_server_is_the_only_one_who_is_refused() -> None:
    """Ours: the breaker was everybody's, and one user could hold it open."""
    fragile = Config(cmd=(sys.executable, "-I", "-S", "-c", FRAGILE))
    async with (
        serving_node(node_configuration(server("alpha", fragile, settings=SETTINGS))) as node,
        node.legacy("alpha", "mallory") as mallory,
        node.legacy("alpha", "anna") as anna,
    ):
        assert '"fragile"' in (await anna.post(initialize(anna, "kind"))).text
        # That it works for the node itself would close every breaker.
        await wait_until(lambda: node.supervisor.statistics().started == 2 and node.children == 1)
        assert "result" not in (await mallory.post(initialize(mallory, "crash"))).text
        assert (await mallory.post(initialize(mallory, "kind"))).status_code == 503
        assert '"fragile"' in (await anna.post(initialize(anna, "kind"))).text
        assert await is_ready(node)


async def test_a_user_with_a_bad_credential_does_not_take_the_node_out_of_its_balancer() -> None:
    """Ours: with one server, /readyz was 503 as soon as one token had expired."""
    picky = Config(cmd=("sh", "-c", f'[ "${TOKEN}" = mallory ] && exit 3; exec "$0" "$@"', *CHILD))
    alpha = server("alpha", picky, credentials=Names(), settings=SETTINGS)
    async with (
        serving_node(node_configuration(alpha)) as node,
        node.legacy("alpha", "mallory") as mallory,
        node.legacy("alpha", "anna") as anna,
    ):
        for _ in range(2):
            assert "result" not in (await mallory.post(mallory.initialize_request())).text
        assert await is_ready(node)
        await anna.open()


async def test_streams_of_2024_11_05_that_one_user_opens_leave_room_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ours: such a stream costs no child, so nothing else bounds them; the bound was everybody's."""
    monkeypatch.setattr(sse_transport, "MAX_WAITING_EACH", 2)
    http = HttpSettings(legacy_sse=True)
    async with (
        serving_node(node_configuration(server("alpha"), http=http)) as node,
        node.legacy("alpha", "mallory") as mallory,
        node.legacy("alpha", "anna") as anna,
        contextlib.AsyncExitStack() as streams,
    ):
        mallory.url = anna.url = f"{node.url}/alpha/sse"
        for _ in range(2):
            stream = await streams.enter_async_context(mallory.listen())
            assert await stream.next()
        async with asyncio.timeout(20):
            assert (await mallory.send("GET", {"accept": "text/event-stream"})).status_code == 429
            async with anna.listen() as hers:
                assert await hers.next()


TWO_CALLS = dataclasses.replace(UNBOUNDED, max_calls_per_principal=2)


async def test_a_batch_is_as_many_calls_as_it_has_requests() -> None:
    """Ours: one POST of 64 calls counted as one call."""
    async with serving(quotas=TWO_CALLS) as edge, edge.client() as client:
        await client.open("2025-03-26")
        calls = [client.tool("wait") for _ in range(3)]
        answer = await client.post([calls[0], client.tool("release"), calls[1]])
        assert (answer.status_code, edge.sessions.quotas.statistics().calls) == (429, 0)
        for _ in range(2):
            assert (await client.post([client.tool("pid"), client.tool("pid")])).text.count('"result"') == 2
            await wait_until(lambda: not edge.sessions.quotas.statistics().calls, what="end of the calls")


async def test_calls_of_the_oldest_transport_count_until_they_are_answered() -> None:
    """Ours: a POST of it is over at once, and so was its count."""
    async with (
        serving(quotas=TWO_CALLS, http=HttpSettings(legacy_sse=True)) as edge,
        edge.client() as stream_client,
        edge.client() as client,
    ):
        root = edge.url.removesuffix("/mcp")
        stream_client.url = f"{root}/sse"
        async with stream_client.listen() as stream:
            path = await stream.next()
            assert path is not None
            client.url = root + path.decode()
            assert (await client.post(client.initialize_request())).status_code == 202
            await stream.message()
            for _ in range(2):
                assert (await client.post(client.tool("wait"))).status_code == 202
            assert (await client.post(client.tool("pid"))).status_code == 429
            await client.notify("notifications/test/release")
            await stream.message()
            await stream.message()
            await wait_until(lambda: not edge.sessions.quotas.statistics().calls, what="end of the calls")
            assert (await client.post(client.tool("wait"))).status_code == 202
        # Whoever hangs up has no calls.
        await wait_until(lambda: not edge.sessions.quotas.statistics().calls, what="end of the calls")
