"""What everybody's children should have been started from by now: looked at again and again.

A credential that was rotated, or a recipe that the operator has changed, reaches children that run
already. One that cannot be had just now changes nothing; one that was withdrawn ends everything.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Protocol, Self

from ..errors import BrokerError, CredentialMissing
from .principal import Principal
from .server import Launch
from .state import ServerState

__all__ = ["Refresher"]

logger = logging.getLogger(__name__)

#: Credentials that are asked for at once: some may take as long as their source may, and that is nobody
#: else's loss. Not as many as a source answers at once: others wait for it to start something.
MAX_LOOKS = 4


class Renew(Protocol):
    """Replaces what a principal has that was started from something else."""

    def __call__(self, principal: Principal, launch: Launch, *, configured: bool) -> None:
        """Replace it.

        Args:
            principal: Whose.
            launch: From what it would be started now.
            configured: Whether it was the operator who changed something, not the credential's source.
        """


class Refresher:
    """Look at the credentials of one server's principals.

    Use as an async context manager: it looks within the block.

    Args:
        server: Whose children.
        holders: Returns who has a child.
        renew: Replaces children.
        withdrawn: Takes everything from a principal that has no credential any more.
    """

    def __init__(
        self,
        server: ServerState,
        *,
        holders: Callable[[], Collection[Principal]],
        renew: Renew,
        withdrawn: Callable[[Principal], None],
    ) -> None:
        self._server = server
        self._holders = holders
        self._renew = renew
        self._withdrawn = withdrawn
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="refresh credentials")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            configured = await self._wait_look()
            if not (configured or self._server.recipe.per_principal):
                continue
            left = set(self._holders())
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(MAX_LOOKS, len(left))):
                    tasks.create_task(self._look_at_all(left, configured=configured))

    async def _look_at_all(self, left: set[Principal], *, configured: bool) -> None:
        while left:
            principal = left.pop()
            try:
                await self._look_at(principal, configured=configured)
            except Exception:  # an entry point: a mistake of ours must not end all refreshing
                logger.exception("credential.failed", extra=self._facts(principal))

    async def _wait_look(self) -> bool:
        """Wait until it is time to look; tell whether it is because something was configured."""
        try:
            async with asyncio.timeout(self._server.settings.refresh_interval):
                await self._server.changed.wait()
        except TimeoutError:
            return False
        self._server.changed.clear()
        return True

    async def _look_at(self, principal: Principal, *, configured: bool) -> None:
        recipe = self._server.recipe
        try:
            launch = await recipe.resolve(principal)
        except CredentialMissing:
            if recipe is not self._server.recipe:
                return  # it was another source's to say, and that is asked next
            logger.warning("credential.withdrawn", extra=self._facts(principal))
            self._withdrawn(principal)
        except BrokerError as exc:
            # What it has is good as far as we know.
            logger.warning("credential.not_refreshed", extra={**self._facts(principal), "problem": str(exc)})
        else:
            if recipe is self._server.recipe:
                self._renew(principal, launch, configured=configured)

    def _facts(self, principal: Principal) -> dict[str, str]:
        return {"principal": principal.subject, "server": self._server.name}
