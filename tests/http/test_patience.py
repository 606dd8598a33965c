"""Many waits of one length share a timer, and each is over in its time, unless it has ended before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.http.patience import Patience
from tests.support.clock import run_in_virtual_time

SECONDS = 10.0


class Waiting:
    """A wait that notes when it was over."""

    def __init__(self, on_over: Callable[[], None] = lambda: None) -> None:
        self.over: list[float] = []
        self._on_over = on_over

    def run_out(self) -> None:
        """Note that it has waited for too long."""
        self.over.append(asyncio.get_running_loop().time())
        self._on_over()


@given(
    waits=st.lists(
        st.tuples(st.integers(0, 40), st.one_of(st.none(), st.integers(0, 30))), min_size=1, max_size=12
    )
)
def test_each_wait_is_over_in_its_time_unless_it_has_ended(waits: list[tuple[int, int | None]]) -> None:
    """Ours: `keep_alive_interval`; a wait is begun at some time, and may be ended so many seconds later."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        patience, started = Patience(SECONDS), loop.time()
        found = [Waiting() for _ in waits]

        def begin(wait: Waiting, lasts: int | None) -> None:
            patience.begin(wait)
            if lasts is not None and lasts < SECONDS:
                loop.call_later(lasts, patience.end, wait)

        for wait, (begins, lasts) in zip(found, waits, strict=True):
            loop.call_at(started + begins, begin, wait, lasts)
        await asyncio.sleep(100)
        for wait, (begins, lasts) in zip(found, waits, strict=True):
            ended = lasts is not None and lasts < SECONDS
            assert wait.over == ([] if ended else [pytest.approx(started + begins + SECONDS)])

    run_in_virtual_time(main())


def test_one_timer_is_set_for_all_and_none_if_nothing_waits() -> None:
    """Ours: a timer for each would cost as much as the parsing of an answer."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        timers: list[float] = []
        call_at = loop.call_at

        def count(when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:  # noqa: ANN401 - passed on
            timers.append(when)
            return call_at(when, *args, **options)

        loop.call_at = count  # type: ignore[method-assign, assignment]
        patience, started = Patience(SECONDS), loop.time()
        for _ in range(100):
            patience.begin(wait := Waiting())
            patience.end(wait)
        assert len(timers) == 1
        await asyncio.sleep(2 * SECONDS)
        timers.clear()
        await asyncio.sleep(10 * SECONDS)
        assert timers == [started + 12 * SECONDS]  # that of this test

    run_in_virtual_time(main())


def test_a_wait_that_is_over_may_end_another_and_begin_a_new_one() -> None:
    """Ours: whoever is told may do what it likes."""

    async def main() -> None:
        patience, started = Patience(SECONDS), asyncio.get_running_loop().time()
        second, third = Waiting(), Waiting()

        def meddle() -> None:
            patience.end(second)
            patience.begin(third)

        patience.begin(Waiting(meddle))
        patience.begin(second)
        await asyncio.sleep(3 * SECONDS)
        assert second.over == []
        assert third.over == [pytest.approx(started + 2 * SECONDS)]

    run_in_virtual_time(main())
