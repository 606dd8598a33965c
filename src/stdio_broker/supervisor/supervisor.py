"""All children of one owner: none of them outlives it."""

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .child import Child, start
from .config import Config
from .ladder import check_graces
from .spawner import Spawner

__all__ = ["Supervisor", "SupervisorStatistics"]


@dataclass(frozen=True, slots=True)
class SupervisorStatistics:
    """A snapshot.

    Attributes:
        running: Children that are not done.
        started: Children started so far.
    """

    running: int
    started: int


class Supervisor:
    """Start children and know them until they are done.

    As an async context manager it stops all of them at its end. The number of children is
    bounded by whoever asks for them; each costs four descriptors and one task.
    """

    def __init__(self, *, spawner: Spawner | None = None) -> None:
        self._spawner = spawner
        # A dict keeps the order of starting.
        self._children: dict[Child, None] = {}
        self._started = 0
        self._closed = False

    async def start(self, config: Config) -> Child:
        """Start a child; see `stdio_broker.supervisor.start`.

        Raises:
            SpawnError: The operating system refused.
            RuntimeError: The supervisor was closed, maybe while the child was being started.
        """
        self._check_open()
        child = await start(config, spawner=self._spawner, on_done=self._forget)
        self._children[child] = None
        self._started += 1
        try:
            self._check_open()
        except RuntimeError:
            await child.stop(eof_grace=0, stop_grace=0)
            raise
        return child

    async def stop_all(self, *, eof_grace: float | None = None, stop_grace: float | None = None) -> None:
        """Stop every child, the youngest first, all at the same time.

        Cancelling it kills them all at once; it then ends when they are done.

        Args:
            eof_grace: Seconds between EOF and SIGTERM; None is each child's own.
            stop_grace: Seconds between SIGTERM and SIGKILL; None is each child's own.

        Raises:
            ValueError: A grace is negative; nobody is stopped.
        """
        check_graces(eof_grace=eof_grace, stop_grace=stop_grace)
        async with asyncio.TaskGroup() as stops:
            for child in reversed(self._children):
                stops.create_task(child.stop(eof_grace=eof_grace, stop_grace=stop_grace))

    def statistics(self) -> SupervisorStatistics:
        """Return a snapshot."""
        return SupervisorStatistics(running=len(self._children), started=self._started)

    async def __aenter__(self) -> Self:
        """Return the supervisor."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop every child; nothing can be started from now on."""
        self._closed = True
        await self.stop_all()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the supervisor is closed")

    def _forget(self, child: Child) -> None:
        self._children.pop(child, None)
