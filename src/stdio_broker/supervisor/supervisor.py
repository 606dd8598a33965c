"""All children of one owner: none of them outlives it."""

import asyncio
import functools
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ..errors import SpawnError
from .child import Child, start
from .config import Config
from .ladder import check_graces
from .restart import Attempt, Breaker, BreakerState, RestartPolicy, RestartsExhausted
from .spawner import Spawner
from .status import ExitStatus

__all__ = ["Supervisor", "SupervisorStatistics"]

logger = logging.getLogger(__name__)


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
        # One for each child that is kept running; done when it shall not be started again.
        self._keeping: set[asyncio.Future[None]] = set()

    async def start(self, config: Config) -> Child:
        """Start a child; see `stdio_broker.supervisor.start`.

        Raises:
            SpawnError: The operating system refused.
            RuntimeError: The supervisor was closed, maybe while the child was being started.
        """
        return await self._start(config)

    async def keep(
        self, config: Config, *, policy: RestartPolicy | None = None
    ) -> AsyncGenerator[Child, None]:
        """Keep a child running: start it, yield it, and when it has ended start the next one.

            async with aclosing(supervisor.keep(config)) as incarnations:
                async for child in incarnations:
                    async for line in child.stdout:
                        ...

        The body of the loop does not end a child: the next one comes when this one is done and the
        back-off is over. An end by itself is a failure, even with exit code 0; so is a start that
        fails. A stop ends the loop: `child.stop()`, or `stop_all()`, even during a
        back-off.

        There is no task behind it. `aclose()` stops the child, and so does cancelling whoever waits
        for the next one. Hence `aclosing`, as with every async generator: without it `break` stops
        the child some time later, when the generator is collected.

        Args:
            config: What to run.
            policy: How many failures are borne, and how long the waits are; None is the default one.

        Raises:
            RestartsExhausted: It fails too often. What then is for the caller to decide (OTP: it fails too).
            RuntimeError: The supervisor was closed before.
        """
        start = functools.partial(self._start, config)
        stopping = asyncio.get_running_loop().create_future()
        keeper = _Keeper(start, policy or RestartPolicy(), stopping)
        self._keeping.add(stopping)
        try:
            while (child := await keeper.start_next()) is not None:
                try:
                    yield child
                    status = await child.wait()
                    wished = child.stop_requested
                finally:
                    await child.stop()
                if wished:
                    return
                keeper.ended(status)
        finally:
            self._keeping.discard(stopping)

    async def stop_all(self, *, eof_grace: float | None = None, stop_grace: float | None = None) -> None:
        """Stop every child, the youngest first, all at the same time; keep none running any more.

        Cancelling it kills them all at once; it then ends when they are done.

        Args:
            eof_grace: Seconds between EOF and SIGTERM; None is each child's own.
            stop_grace: Seconds between SIGTERM and SIGKILL; None is each child's own.

        Raises:
            ValueError: A grace is negative; nobody is stopped.
        """
        check_graces(eof_grace=eof_grace, stop_grace=stop_grace)
        while self._keeping:
            self._keeping.pop().set_result(None)
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

    async def _start(self, config: Config, on_done: Callable[[], None] | None = None) -> Child:
        def forget(child: Child) -> None:
            self._children.pop(child, None)
            if on_done is not None:
                on_done()

        self._check_open()
        child = await start(config, spawner=self._spawner, on_done=forget)
        self._children[child] = None
        self._started += 1
        try:
            self._check_open()
        except RuntimeError:
            await child.stop(eof_grace=0, stop_grace=0)
            raise
        return child

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the supervisor is closed")


class _Keeper:
    """What `Supervisor.keep` remembers from one child to the next.

    Args:
        start: Starts one; its argument is called when it is done.
        policy: How many failures are borne, and how long the waits are.
        stopping: Done when no child shall be started any more.
    """

    def __init__(
        self,
        start: Callable[[Callable[[], None]], Awaitable[Child]],
        policy: RestartPolicy,
        stopping: asyncio.Future[None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._start = start
        self._policy = policy
        self._stopping = stopping
        self._breaker = Breaker(policy, uniform=random.uniform)
        self._attempt: Attempt | None = None
        self._started_at = self._ended_at = 0.0

    async def start_next(self) -> Child | None:
        """Start a child once the back-off is over; None if a stop of all comes first.

        Raises:
            RestartsExhausted: No start succeeds, and that was the last one that is borne.
        """
        while not await self._stopped_within(self._breaker.backoff(self._loop.time())):
            self._attempt = self._breaker.try_start(self._loop.time())
            try:
                child = await self._start(self._note_end)
            except SpawnError as exc:
                self._ended_at = self._loop.time()
                self._failed(str(exc), None, exc)
            except RuntimeError:
                if not self._stopping.done():
                    raise
            else:
                if not self._stopping.done():
                    self._started_at = self._loop.time()
                    return child
                # When all were stopped it was not there yet.
                await child.stop(eof_grace=0, stop_grace=0)
        return None

    def ended(self, status: ExitStatus) -> None:
        """Take note of an end that nobody wished for.

        Raises:
            RestartsExhausted: It was one too many.
        """
        if self._ended_at - self._started_at >= self._policy.stable_after:
            self._breaker.succeeded()
        self._failed(f"the child {status}", status, None)

    def _note_end(self) -> None:
        # When the caller's loop comes back for more it may be much later: a short life would look long.
        self._ended_at = self._loop.time()

    def _failed(self, reason: str, status: ExitStatus | None, cause: SpawnError | None) -> None:
        if self._stopping.done():
            return
        self._breaker.failed(self._attempt, self._ended_at, reason)
        if self._breaker.state is not BreakerState.CLOSED:
            raise RestartsExhausted(
                f"more than {self._policy.max_restarts} failures within {self._policy.window:g} s; "
                f"the last one: {reason}",
                exit_status=status,
            ) from cause
        backoff = self._breaker.backoff(self._loop.time())
        logger.warning("child.restarting", extra={"reason": reason, "backoff": backoff})

    async def _stopped_within(self, seconds: float) -> bool:
        await asyncio.wait([self._stopping], timeout=seconds)
        return self._stopping.done()
