"""Mode `keys`: who has a bearer key is its principal. See `auth.keys` for what a key is.

All good keys are in memory, by their hash, so a request costs one SHA-256 and one look-up, and a database
that is away for a while stops nobody: keys go on to be good, and to expire. A task asks the database a few
times a second whether anything has changed, and a timer waits for the next key to expire. Either way the
key's principal is told at once to whoever listens (`on_revoked`); that one of a principal's keys has ended
ends all that the principal has running, which is simple and safe. When a key was last used is not written
down: that would be a write for every request.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from ..errors import StorageError, TooManyRequests, Unauthenticated
from ..sessions import Principal
from .authenticator import Access, OnRevoked
from .bearer import bearer_token, challenge
from .failures import FailureLimit, network_of
from .keys import KEY_ISSUER, KeyRecord, KeySource, hash_of
from .settings import Settings

__all__ = ["KeyAuthenticator"]

logger = logging.getLogger(__name__)

#: Seconds for which a question to the database may go on after we end. To cut it off costs its connection.
STOP_GRACE = 2.0

#: Bounds of the timer's sleep, in seconds: the two clocks do not agree to the last digit, and the one on the
#: wall may be set meanwhile.
MIN_SLEEP = 0.001
MAX_SLEEP = 60.0


class KeyAuthenticator:
    """An `Authenticator` for bearer keys.

    Use as an async context manager; entering it loads the keys.

    Args:
        source: Where the keys are.
        settings: Limits of failures, and how often to look for changes.
        clock: Tells the seconds since the epoch.

    Raises:
        StorageError: On entering: the keys cannot be had.
    """

    def __init__(
        self, source: KeySource, settings: Settings, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._settings = settings
        self._clock = clock
        self._failures = FailureLimit(per_minute=settings.failures_per_minute, burst=settings.failure_burst)
        self._callbacks: list[OnRevoked] = []
        self._live: dict[str, Access] = {}  # as many as there are good keys in the database
        self._revision = 0
        self._away = False
        self._next_expiry: asyncio.TimerHandle | None = None
        self._stopping = asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Load the keys, and begin to look for changes."""
        await self._load()
        await self._tasks.__aenter__()
        self._watcher = self._tasks.create_task(self._watch(), name="watch keys")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop looking."""
        self._stopping.set()
        try:
            await asyncio.wait({self._watcher}, timeout=STOP_GRACE)
        finally:
            self._watcher.cancel()
            if self._next_expiry is not None:
                self._next_expiry.cancel()
            await self._tasks.__aexit__(None, None, None)

    def recognise(self, authorization: bytes | None) -> Access | None:
        """Return what the bearer of the key may do; None if the key is not good."""
        try:
            return self._find(bearer_token(authorization))
        except Unauthenticated:
            return None

    async def authenticate(self, authorization: bytes | None, peer: str) -> Access:
        """Return what the bearer of the key may do.

        Raises:
            Unauthenticated: There is no key, or none that is good.
            TooManyRequests: The key is not good, and that address has failed too often.
        """
        try:
            return self._find(bearer_token(authorization))
        except Unauthenticated as exc:
            self._count_failure(exc, peer)
            raise

    def challenge(self, exc: Unauthenticated) -> bytes:
        """Return the `WWW-Authenticate` field of the answer to a failure."""
        return challenge(exc)

    def on_revoked(self, callback: OnRevoked) -> None:
        """Have a callback told each principal one of whose keys is revoked or has expired, from now on."""
        self._callbacks.append(callback)

    def _find(self, token: bytes) -> Access:
        access = self._live.get(hash_of(token))
        if access is None or not self._is_good(access):
            raise Unauthenticated(presented=True)
        return access

    def _is_good(self, access: Access) -> bool:
        return access.expires is None or self._clock() < access.expires

    def _count_failure(self, exc: Unauthenticated, peer: str) -> None:
        """Log a failure, unless there were too many.

        Who presents nothing is never refused for it: the challenge is how a client learns what is
        expected. Counted apart, such requests take no turns from bad keys behind the same proxy.

        Raises:
            TooManyRequests: There were, and a proof was presented.
        """
        now = self._loop.time()
        key = (network_of(peer), exc.presented)
        facts = {"peer": peer, "presented": exc.presented}
        wait = self._failures.take(key, now)
        if not wait:
            logger.info("auth.failed", extra=facts)
            if until_next := self._failures.wait(key, now):
                logger.warning("auth.failures_limited", extra=facts | {"retry_after": until_next})
        elif exc.presented:
            raise TooManyRequests("too many requests with a bad key", retry_after=wait) from None

    async def _watch(self) -> None:
        while not await self._stopped_within(self._settings.poll_interval):
            await self._look()

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._stopping.wait()
        except TimeoutError:
            return False

    async def _look(self) -> None:
        """Load the keys if there was a change. If the database is away, go on with what is known."""
        try:
            if await self._source.revision() != self._revision:
                await self._load()
        except StorageError as exc:
            if not self._away:
                logger.warning("auth.storage_away", extra={"reason": str(exc)})
            self._away = True
        else:
            if self._away:
                logger.warning("auth.storage_back")
            self._away = False

    async def _load(self) -> None:
        keys = await self._source.live()
        self._expire()  # before what has expired looks as if it were revoked
        self._revision = keys.revision
        now = self._clock()
        live = {record.hash: _access_of(record) for record in keys.records if record.is_live(now)}
        # What has changed in any way has ended: sessions were opened under what it said before.
        gone = [access for digest, access in self._live.items() if live.get(digest) != access]
        self._live = live
        self._tell(gone, "revoked")
        self._expire()

    def _expire(self) -> None:
        """Forget the keys that have expired, and wait for the next one."""
        gone = [digest for digest, access in self._live.items() if not self._is_good(access)]
        self._tell([self._live.pop(digest) for digest in gone], "expired")
        if self._next_expiry is not None:
            self._next_expiry.cancel()
        expiries = [access.expires for access in self._live.values() if access.expires is not None]
        if expiries:
            sleep = min(max(min(expiries) - self._clock(), MIN_SLEEP), MAX_SLEEP)
            self._next_expiry = self._loop.call_later(sleep, self._expire)

    def _tell(self, gone: Iterable[Access], reason: str) -> None:
        principals: dict[Principal, None] = {}  # each once, in their order
        for access in gone:
            principals[access.principal] = None
            logger.info(
                "auth.key_ended",
                extra={"key": access.grant, "principal": access.principal.subject, "reason": reason},
            )
        for principal in principals:
            for callback in self._callbacks:
                callback(principal)


def _access_of(record: KeyRecord) -> Access:
    return Access(
        principal=Principal(issuer=KEY_ISSUER, subject=record.principal),
        grant=record.id,
        servers=record.servers,
        expires=record.expires_at,
    )
