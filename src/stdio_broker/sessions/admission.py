"""Who may start a child of a server, and when: places, turns, and a breaker for a server that fails.

A place is taken from before a child is started until nothing of it is left, so places bound
processes. A turn is held while a child starts, which costs far more than a running child.

A server that keeps failing is left alone: a breaker refuses to start it for a while, then lets one
client try. A failure is a child that cannot be started, ends before it answers the handshake, or
does not answer in time. Any answer is a success, and at once: it shows that the server starts, and a
trial that took `stable_after` would keep everybody out for as long. So a refusal is a success too:
what one user asks for must not shut out the others. For the same reason the end of a server *after*
its answer is no failure, however early: from then on it does what one user tells it, and an agent
repeats the call that crashed it. Nor are failures what we cause: a limit of this machine, a client
that goes away, our shutdown.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator

from ..errors import (
    BridgeBroken,
    CapacityError,
    Draining,
    LimitReached,
    ServerFailing,
    SpawnError,
    StartTimeout,
)
from ..supervisor.restart import Attempt, Breaker, BreakerStatistics
from ..telemetry import redact
from .server import ServerRecipe
from .settings import Settings

__all__ = ["Admission"]

logger = logging.getLogger(__name__)


class Admission:
    """The places and turns of one server.

    Args:
        server: What is started.
        settings: Bounds.
        uniform: Draws the back-off of the breaker.

    Attributes:
        places: Places taken.
        draining: Whether nothing new may start.
    """

    def __init__(
        self, server: ServerRecipe, settings: Settings, *, uniform: Callable[[float, float], float]
    ) -> None:
        self.places = 0
        self.draining = False
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._settings = settings
        self._breaker = Breaker(settings.breaker, uniform=uniform)
        self._start_slots = asyncio.Semaphore(settings.max_starting)

    def breaker_statistics(self) -> BreakerStatistics:
        """Return whether the server can be started, as far as is known."""
        return self._breaker.statistics(self._loop.time())

    def check(self) -> None:
        """Let a new call through, or refuse it.

        Raises:
            Draining: We are shutting down: calls in flight may finish, but nothing starts.
        """
        if self.draining:
            raise Draining

    @contextlib.contextmanager
    def place(self) -> Iterator[contextlib.ExitStack]:
        """Hold a place within the block, or beyond it if the block keeps what it gets (`pop_all`).

        Raises:
            ServerFailing: The server keeps failing: a wait for a turn would end in a refusal.
            LimitReached: There is none.
        """
        if not self._breaker.admits(self._loop.time()):
            raise self._refusal()
        if self.places >= self._settings.max_sessions:
            raise LimitReached(
                f"all {self._settings.max_sessions} sessions are in use",
                retry_after=self._settings.retry_after,
            )
        self.places += 1
        with contextlib.ExitStack() as place:
            place.callback(self.give_back)
            yield place

    def give_back(self) -> None:
        """Give a place back that was kept."""
        self.places -= 1

    @contextlib.asynccontextmanager
    async def start(self) -> AsyncIterator[Attempt]:
        """Start something in this block, in its turn, if the breaker lets it through.

        What fails with an error is told to the breaker here; who gets an answer tells it himself.

        Raises:
            Draining: We are shutting down.
            LimitReached: No turn came in time.
            ServerFailing: The server keeps failing, and is not started.
        """
        async with self._turn():
            self.check()  # the turn may have come after the drain
            attempt = self._breaker.try_start(self._loop.time())
            if attempt is None:
                raise self._refusal()
            try:
                yield attempt
            except CapacityError:  # ours, not the server's
                raise
            except (SpawnError, StartTimeout, BridgeBroken) as exc:
                self.failed(attempt, str(exc))
                raise
            finally:
                self._breaker.abandoned(attempt)  # unless its outcome was told

    def failed(self, attempt: Attempt, reason: str) -> None:
        """Tell the breaker that the server did not come up."""
        if self.draining:  # it ended because we end everything
            return
        now = self._loop.time()
        reason = redact(reason, self._server.secrets)
        if self._breaker.failed(attempt, now, reason):
            facts = {"server": self._server.name, "reason": reason, "retry_after": self._breaker.backoff(now)}
            logger.warning("server.breaker_opened", extra=facts)

    def answered(self) -> None:
        """Tell the breaker that the server has answered."""
        if self._breaker.succeeded():
            logger.warning("server.breaker_closed", extra={"server": self._server.name})

    def _refusal(self) -> ServerFailing:
        # While a trial is under way nobody knows how long that takes.
        left = self._breaker.statistics(self._loop.time()).retry_after
        return ServerFailing(retry_after=left or self._settings.retry_after)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._settings.queue_timeout):
                await self._start_slots.acquire()
        except TimeoutError:
            raise LimitReached(
                f"{self._settings.max_starting} servers are being started already",
                retry_after=self._settings.retry_after,
            ) from None
        try:
            yield
        finally:
            self._start_slots.release()
