"""A call that was passed on, and whose server has said nothing yet. No task waits with it.

Nearly always its answer is the first thing that comes, and is written as it comes. Else a task writes a
stream.
"""

import abc
from collections.abc import Coroutine

from ..bridge import Exchange
from ..protocol.encoding import Pieces
from ..sessions import Quotas, Session
from .faults import JSON
from .patience import Patience
from .settings import Settings
from .streaming import stream_exchange
from .wire import HttpRequest

__all__ = ["JSON_HEADERS", "SessionCall", "SilentCall", "knows_priming"]

#: One tuple for all answers, so that their head is looked up and not made.
JSON_HEADERS = (JSON,)


class SilentCall(abc.ABC):
    """See the module. It is a `Wait`.

    Args:
        request: Where the answer goes.
        exchange: Where it comes from.
        patience: Says when the client must see that we are there.
    """

    __slots__ = ("_exchange", "_patience", "_request")

    def __init__(self, request: HttpRequest, exchange: Exchange, patience: Patience) -> None:
        self._request = request
        self._exchange = exchange
        self._patience = patience

    def begin(self) -> None:
        """Wait for the first thing that comes."""
        self._patience.begin(self)
        self._exchange.when_first(self._hear)

    def run_out(self) -> None:
        """Answer with a stream: nothing has come for too long."""
        self._exchange.read_first()
        self._go_on()

    def _hear(self, answer: bytes | Pieces | None) -> None:
        self._patience.end(self)
        if answer is None:
            self._go_on()
        else:
            self._over()
            self._request.answer(self._status(), JSON_HEADERS, answer)

    def _go_on(self) -> None:
        self._request.when_gone(None)  # the task looks itself
        self._request.go_on(self._stream_to_end())

    async def _stream_to_end(self) -> None:
        try:
            await self._stream()
        finally:
            self._over()

    def _status(self) -> int:
        """Return the status of an answer that came first."""
        return 200

    @abc.abstractmethod
    def _stream(self) -> Coroutine[None, None, None]:
        """Answer with a stream."""

    @abc.abstractmethod
    def _over(self) -> None:
        """Let go of everything."""


class SessionCall(SilentCall):
    """A call of a session's.

    Args:
        request: As above.
        exchange: As above. It is released in the end.
        patience: As above.
        session: Whose call it is.
        quotas: Count it as one in flight. They are told when it is over.
        settings: Of the stream that it may become.
    """

    __slots__ = ("_quotas", "_session", "_settings")

    def __init__(
        self,
        request: HttpRequest,
        exchange: Exchange,
        patience: Patience,
        *,
        session: Session,
        quotas: Quotas,
        settings: Settings,
    ) -> None:
        super().__init__(request, exchange, patience)
        self._session = session
        self._quotas = quotas
        self._settings = settings

    def _stream(self) -> Coroutine[None, None, None]:
        return stream_exchange(
            self._request,
            self._exchange,
            settings=self._settings,
            priming=knows_priming(self._session),
            suspend=self._session.bridge.suspend,
        )

    def _over(self) -> None:
        self._session.bridge.release(self._exchange)
        self._quotas.leave(self._session.share)


def knows_priming(session: Session | None) -> bool:
    """Return whether the client of a session knows priming events, and so how to come back to a stream."""
    return session is not None and session.agreement is not None and session.agreement.revision.priming
