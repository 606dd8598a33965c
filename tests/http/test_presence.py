"""A block that ends when the client goes."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from stdio_broker.http.presence import WhileThere
from stdio_broker.http.wire import HttpRequest, PeerGone
from tests.support.clock import run_in_virtual_time


class _Client:
    """A client that goes when it is told to."""

    def __init__(self) -> None:
        self._told: Callable[[], None] | None = None
        self._gone = False

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        self._told = callback
        if self._gone and callback is not None:
            asyncio.get_running_loop().call_soon(self.go)

    def go(self) -> None:
        self._gone = True
        if self._told is not None:
            self._told()


def _request(client: _Client) -> HttpRequest:
    return cast("HttpRequest", client)


async def _block(request: HttpRequest, work: asyncio.Event, done: list[str]) -> None:
    async with WhileThere(request):
        try:
            await work.wait()
            done.append("through")
        except asyncio.CancelledError:
            done.append("cancelled")
            raise


async def test_a_block_that_ends_first_ends_as_if_there_were_no_watch() -> None:
    gone, work, done = _Client(), asyncio.Event(), list[str]()
    work.set()
    await _block(_request(gone), work, done)
    gone.go()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert done == ["through"]


async def test_a_client_that_goes_ends_the_block_and_says_so() -> None:
    gone, done = _Client(), list[str]()
    block = asyncio.create_task(_block(_request(gone), asyncio.Event(), done))
    await asyncio.sleep(0)
    gone.go()
    with pytest.raises(PeerGone):
        await block
    assert done == ["cancelled"]
    # The task itself was not cancelled: whoever waits for it must not think so.
    assert not block.cancelled()


async def test_whoever_caught_that_the_client_has_gone_can_go_on() -> None:
    """Ours: as with `asyncio.timeout`, the task is as before."""
    gone = _Client()

    async def main() -> str:
        asyncio.get_running_loop().call_soon(gone.go)
        with pytest.raises(PeerGone):
            await _block(_request(gone), asyncio.Event(), [])
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return "went on"

    assert await asyncio.create_task(main()) == "went on"


async def test_a_block_that_is_cancelled_by_somebody_else_is_cancelled() -> None:
    done = list[str]()
    block = asyncio.create_task(_block(_request(_Client()), asyncio.Event(), done))
    await asyncio.sleep(0)
    block.cancel()
    await asyncio.wait({block})
    assert block.cancelled()


async def test_a_block_that_is_cancelled_after_its_client_has_gone_is_cancelled() -> None:
    """Ours: who wants the task to end must not be overheard."""
    gone, noticed = _Client(), asyncio.Event()

    async def main() -> None:
        async with WhileThere(_request(gone)):
            try:
                await asyncio.Event().wait()
            finally:
                noticed.set()
                await asyncio.Event().wait()

    block = asyncio.create_task(main())
    gone.go()
    await noticed.wait()
    block.cancel()
    await asyncio.wait({block})
    assert block.cancelled()


async def test_an_error_of_the_block_is_its_error() -> None:
    with pytest.raises(ZeroDivisionError):
        async with WhileThere(_request(_Client())):
            raise ZeroDivisionError


async def test_an_error_on_the_way_out_of_a_client_that_has_gone_is_told_to_nobody() -> None:
    """Ours: there is nobody."""
    gone = _Client()

    async def main() -> None:
        async with WhileThere(_request(gone)):
            try:
                await asyncio.Event().wait()
            finally:
                raise ZeroDivisionError

    task = asyncio.create_task(main())
    await asyncio.sleep(0)
    gone.go()
    with pytest.raises(PeerGone) as caught:
        await task
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_time_out_within_the_block_stays_a_time_out() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with WhileThere(_request(_Client())), asyncio.timeout(1.0):
                await asyncio.Event().wait()

    run_in_virtual_time(main())


def test_a_client_that_goes_before_the_time_is_over_is_no_time_out() -> None:
    async def main() -> None:
        gone = _Client()
        asyncio.get_running_loop().call_later(0.5, gone.go)
        with pytest.raises(PeerGone):
            async with WhileThere(_request(gone)), asyncio.timeout(1.0):
                await asyncio.Event().wait()

    run_in_virtual_time(main())


def test_it_watches_tasks_only() -> None:
    """Ours: there is nothing else that could be cancelled."""
    entering = WhileThere(_request(_Client())).__aenter__()

    async def main() -> None:
        asyncio.get_running_loop().call_soon(step)
        await asyncio.sleep(0)

    def step() -> None:
        with pytest.raises(RuntimeError, match="a task"):
            entering.send(None)

    run_in_virtual_time(main())
