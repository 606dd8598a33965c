"""What is over leaves nothing for the garbage collector, which looks rarely (`cli.common.spare_pauses`)."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable

import httpx

from tests.support.edge import serving
from tests.support.processes import wait_until

_TIMES = 4


async def _garbage(work: Callable[[], Awaitable[None]]) -> Counter[str]:
    """Do something a few times; return what of ours only the collector has found afterwards."""
    await work()  # first use makes what stays
    gc.collect()
    gc.disable()
    try:
        for _ in range(_TIMES):
            await work()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [type(thing) for thing in gc.garbage]
        return Counter(kind.__qualname__ for kind in found if kind.__module__.startswith("stdio_broker"))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def test_a_connection_leaves_nothing_behind() -> None:
    """Ours: a broker has many, and each would keep some kilobytes until the collector comes."""
    async with serving() as edge:

        async def connect() -> None:
            url = httpx.URL(edge.url)
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert await reader.readuntil(b"ok\n")
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(0)

        found = await _garbage(connect)
        # The last one may not be closed on our side yet; it is no garbage then.
        assert not found


async def test_a_session_and_its_child_leave_nothing_behind() -> None:
    """Ours: the same."""
    async with serving() as edge:

        async def live() -> None:
            async with edge.client() as client:
                await client.open()
                assert await client.ask("echo", text="x") == "x"
                await client.send("DELETE")
            await wait_until(lambda: not edge.children)
            await asyncio.sleep(0)

        assert not await _garbage(live)
