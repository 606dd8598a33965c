"""Who may start a child of a server, and when: places, turns, and breakers for a server that fails.

A place is taken from before a child is started until nothing of it is left, so places bound
processes. A turn is held while a child starts, which costs far more than a running child. The server
has its places; the node, and each principal on it, have theirs (`quotas`), and the turns.

A server that keeps failing is left alone: a breaker refuses to start it for a while, then lets one
client try. A failure is a child that cannot be started, ends before it answers the handshake, or
does not answer in time. Any answer is a success, and at once: it shows that the server starts, and a
trial that took `stable_after` would keep everybody out for as long. So a refusal is a success too:
what one user asks for must not shut out the others. For the same reason the end of a server *after*
its answer is no failure, however early: from then on it does what one user tells it, and an agent
repeats the call that crashed it. Nor are failures what we cause: a limit of this machine, a client
that goes away, our shutdown. Each principal has a breaker of its own: a token that the server does not
start with is nobody else's, and nor is an `initialize` that ends it before it answers.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator

from ..errors import (
    BridgeBroken,
    CapacityError,
    Draining,
    LimitReached,
    ServerFailing,
    SpawnError,
    StartTimeout,
)
from ..supervisor.restart import Attempt, Breaker, BreakerState, BreakerStatistics
from ..telemetry import redact
from .principal import ANONYMOUS, Principal
from .quotas import Quotas
from .state import ServerState

__all__ = ["Admission", "Start"]

logger = logging.getLogger(__name__)


class Start:
    """One start that was let through, and whom to tell how it went."""

    def __init__(self, admission: "Admission", principal: Principal, attempt: Attempt) -> None:
        self._admission = admission
        self._principal = principal
        self._attempt = attempt
        self.secrets: Collection[str] = ()

    def answered(self) -> None:
        """Tell the breaker that the server has answered."""
        self._admission.answered(self._principal)

    def failed(self, reason: str) -> None:
        """Tell the breaker that the server did not come up."""
        self._admission.failed(self._principal, self._attempt, redact(reason, self.secrets))


class Admission:
    """The places of one server, its breakers, and its share in the node's.

    Args:
        server: What is started.
        quotas: What the node, and each principal, may have.
        uniform: Draws the back-off of the breakers.

    Attributes:
        places: Places taken.
        draining: Whether nothing new may start.
    """

    def __init__(
        self, server: ServerState, quotas: Quotas, *, uniform: Callable[[float, float], float]
    ) -> None:
        self.places = 0
        self.draining = False
        self.quotas = quotas
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._uniform = uniform
        # Only those that have something to remember, so no more than principals that failed lately.
        self._breakers: dict[Principal, Breaker] = {}

    def breaker_statistics(self) -> BreakerStatistics:
        """Return whether the server can be started, as far as is known: by whoever has least luck."""
        now = self._loop.time()
        all_statistics = [breaker.statistics(now) for breaker in self._breakers.values()]
        if not all_statistics:
            return self._new_breaker().statistics(now)
        return max(all_statistics, key=lambda one: (one.state is not BreakerState.CLOSED, one.retry_after))

    def keeps_failing(self) -> bool:
        """Whether nobody may start it now: for more than one principal, as one alone may be to blame."""
        now = self._loop.time()
        waiting = [whose for whose, breaker in self._breakers.items() if breaker.statistics(now).retry_after]
        return len(waiting) > 1 or ANONYMOUS in waiting

    def check(self) -> None:
        """Let a new call through, or refuse it.

        Raises:
            Draining: We are shutting down: calls in flight may finish, but nothing starts.
        """
        if self.draining:
            raise Draining

    @contextlib.contextmanager
    def place(self, principal: Principal) -> Iterator[contextlib.ExitStack]:
        """Hold a place within the block, or beyond it if the block keeps what it gets (`pop_all`).

        Raises:
            ServerFailing: The server keeps failing: a wait for a turn would end in a refusal.
            LimitReached: There is none.
        """
        breaker = self._breakers.get(principal)
        if breaker is not None and not breaker.admits(self._loop.time()):
            raise self._refusal(breaker)
        most = self._server.settings.places
        if self.places >= most:
            raise LimitReached(
                f"all {most} processes of the server are in use",
                retry_after=self._server.settings.retry_after,
            )
        self.quotas.take_child(principal)
        self.places += 1
        with contextlib.ExitStack() as place:
            place.callback(self.give_back, principal)
            yield place

    def give_back(self, principal: Principal) -> None:
        """Give a place back that was kept."""
        self.places -= 1
        self.quotas.give_child(principal)

    @contextlib.asynccontextmanager
    async def start(self, principal: Principal) -> AsyncIterator[Start]:
        """Start something in this block, in its turn, if the breaker lets it through.

        What fails with an error is told to the breaker here; who gets an answer tells it himself.

        Raises:
            Draining: We are shutting down.
            LimitReached: No turn came in time, or the principal starts too many.
            ServerFailing: The server keeps failing, and is not started.
        """
        async with self.quotas.turn(principal):
            self.check()  # the turn may have come after the drain
            breaker = self._breakers.get(principal)
            if breaker is None:
                breaker = self._breakers[principal] = self._new_breaker()
            attempt = breaker.try_start(self._loop.time())
            if attempt is None:
                raise self._refusal(breaker)
            start = Start(self, principal, attempt)
            try:
                yield start
            except CapacityError:  # ours, not the server's
                raise
            except (SpawnError, StartTimeout, BridgeBroken) as exc:
                start.failed(str(exc))
                raise
            finally:
                breaker.abandoned(attempt)  # unless its outcome was told
                self._forget_well()

    def failed(self, principal: Principal, attempt: Attempt, reason: str) -> None:
        """Tell the breaker that the server did not come up, in words that may be shown."""
        if self.draining:  # it ended because we end everything
            return
        now = self._loop.time()
        breaker = self._breakers.setdefault(principal, self._new_breaker())
        if breaker.failed(attempt, now, reason):
            logger.warning(
                "server.breaker_opened",
                extra={
                    "server": self._server.name,
                    **_named(principal),
                    "reason": reason,
                    "retry_after": breaker.backoff(now),
                },
            )

    def answered(self, principal: Principal) -> None:
        """Tell the breaker that the server has answered."""
        self._server.problem = None
        breaker = self._breakers.get(principal)
        if breaker is not None and breaker.succeeded():
            logger.warning("server.breaker_closed", extra={"server": self._server.name, **_named(principal)})

    def works(self) -> None:
        """Tell all breakers that the server starts, whoever tried it."""
        self._server.problem = None
        for principal in self._breakers:
            self.answered(principal)

    def _new_breaker(self) -> Breaker:
        return Breaker(self._server.settings.breaker, uniform=self._uniform)

    def _forget_well(self) -> None:
        """Keep no breaker that remembers nothing."""
        now = self._loop.time()
        for whose, breaker in list(self._breakers.items()):
            if breaker.state is BreakerState.CLOSED and not breaker.failures(now):
                del self._breakers[whose]

    def _refusal(self, breaker: Breaker) -> ServerFailing:
        # While a trial is under way nobody knows how long that takes.
        left = breaker.statistics(self._loop.time()).retry_after
        return ServerFailing(retry_after=left or self._server.settings.retry_after)


def _named(principal: Principal) -> dict[str, str]:
    return {} if principal == ANONYMOUS else {"principal": principal.subject}
