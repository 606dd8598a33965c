"""A fact that becomes true, and those who wait for it. Bounded by the number of waiters."""

import asyncio

__all__ = ["Flag"]


class Flag:
    """What `asyncio.Event` is, in a tenth of its memory while nobody waits: each child has four.

    For one event loop, as that is.
    """

    __slots__ = ("_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def is_set(self) -> bool:
        """Whether it is true."""
        return self._set

    def set(self) -> None:
        """Make it true, and wake all who wait."""
        self._set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Make it false again."""
        self._set = False

    async def wait(self) -> None:
        """Wait until it is true."""
        if self._set:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters = (*self._waiters, waiter)
        try:
            await waiter
        finally:
            self._waiters = tuple(other for other in self._waiters if other is not waiter)
