"""A reload in the wrong moment: every test here began as a suspicion of a reviewer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses

import pytest

from stdio_broker.broker import node as node_module
from tests.support.nodes import node_configuration, server, serving_node


@pytest.mark.parametrize("turns", range(6))
async def test_a_reload_that_is_cancelled_ends_no_server_that_is_served(turns: int) -> None:
    """Ours: a shutdown may come at any moment, and calls may finish."""
    async with serving_node(node_configuration(server("alpha"))) as serving:
        more = dataclasses.replace(serving.configuration, servers=(server("alpha"), server("beta")))
        task = asyncio.create_task(serving.node.apply(more))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        for _ in range(10):
            await asyncio.sleep(0)
        assert "alpha" not in serving.app.readiness().problems


async def test_a_mistake_of_ours_in_a_trial_ends_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a server that is broken stops no other, whatever is wrong with it."""
    tried = asyncio.Event()

    async def mistaken(*_: object, **__: object) -> None:
        tried.set()
        raise LookupError("a mistake")

    monkeypatch.setattr(node_module, "probe", mistaken)
    with pytest.raises(AssertionError, match=r"server\.not_tried"):
        async with serving_node(node_configuration(server("alpha"))) as serving:
            async with asyncio.timeout(10):
                await tried.wait()
            for _ in range(10):
                await asyncio.sleep(0)
            assert serving.app.readiness().ready
