import asyncio
import time

import pytest

from tests.support.clock import VirtualClockLoop, run_in_virtual_time
from tests.support.leaks import LeakError


def test_half_an_hour_of_sleep_takes_no_time() -> None:
    started = time.monotonic()

    async def main() -> float:
        await asyncio.sleep(1800)
        return asyncio.get_running_loop().time()

    assert run_in_virtual_time(main()) == pytest.approx(1800)
    assert time.monotonic() - started < 5


def test_timers_fire_in_the_order_of_their_deadlines() -> None:
    fired: list[tuple[str, float]] = []

    async def sleeper(name: str, delay: float) -> None:
        await asyncio.sleep(delay)
        fired.append((name, asyncio.get_running_loop().time()))

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            for name, delay in (("late", 3.0), ("early", 1.0), ("middle", 2.0)):
                tasks.create_task(sleeper(name, delay))

    run_in_virtual_time(main())
    assert fired == [("early", 1.0), ("middle", 2.0), ("late", 3.0)]


def test_a_timeout_fires_at_its_deadline() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_in_virtual_time(main()) == pytest.approx(30)


def test_waiting_for_what_can_never_happen_fails_instead_of_hanging() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    loop = VirtualClockLoop()
    waiting = loop.create_task(main())
    with pytest.raises(RuntimeError, match="deadlock"):
        loop.run_until_complete(waiting)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(waiting)
    loop.close()


def test_a_task_left_behind_fails_the_run() -> None:
    async def main() -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(asyncio.sleep(3600))

    with pytest.raises(LeakError, match="sleep"):
        run_in_virtual_time(main())
