"""A changed configuration file, taken over while everything is served: on SIGHUP, and when it is written.

A file with mistakes changes nothing, and says all of them. A file is read when it has not changed for a
moment: an editor, or a copy over the network, may be half done.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from ..config import Configuration
from ..errors import ConfigError
from .node import Node

__all__ = ["LOOK_INTERVAL", "Reloading"]

logger = logging.getLogger(__name__)

#: Seconds between two looks at the files. A look is a system call for each.
LOOK_INTERVAL = 0.5

_Signature = tuple[tuple[int, int, int, int] | None, ...]


class Reloading:
    """What keeps a node as its files say.

    Args:
        node: What is changed.
        load: Reads the configuration.
        wished: Set when somebody wishes that it is read, changed or not.
        sources: The files that it was read from.
    """

    def __init__(
        self,
        node: Node,
        load: Callable[[], Configuration],
        wished: asyncio.Event,
        sources: Iterable[Path],
    ) -> None:
        self._node = node
        self._load = load
        self._wished = wished
        self._sources = tuple(sources)
        self._read: _Signature = ()

    async def run(self) -> None:
        """Reload whenever it makes sense; never ends."""
        # What was written while everything was started is seen by nobody else.
        await self.reload()
        seen = self._read
        while True:
            wished = await self._wait_look()
            found = _signature(self._sources)
            if wished or (found == seen and found != self._read):
                await self.reload(wished=wished)
                found = self._read
            seen = found

    async def reload(self, *, wished: bool = False) -> None:
        """Take over what the files say now, or log everything that is wrong with them.

        Args:
            wished: Whether somebody wants to hear that nothing has changed.
        """
        # Before they are read: what is written meanwhile is another change.
        self._read = _signature(self._sources)
        try:
            # Beside the loop: files may be slow, and checking a long one takes a while.
            configuration = await asyncio.to_thread(self._load)
            if configuration.sources != self._sources:
                self._sources = configuration.sources
                self._read = _signature(self._sources)
            changed = await self._node.apply(configuration)
        except ConfigError as exc:
            logger.error(  # noqa: TRY400 - the operator's mistake: no traceback
                "configuration.refused", extra={"problems": list(exc.problems)}
            )
        except Exception:  # an entry point: a mistake of ours must not end what is served
            logger.exception("configuration.failed")
        else:
            if changed or wished:
                logger.info("configuration.reloaded", extra=dataclasses.asdict(changed))

    async def _wait_look(self) -> bool:
        """Wait for the next look; tell whether somebody wished for it."""
        try:
            async with asyncio.timeout(LOOK_INTERVAL):
                await self._wished.wait()
        except TimeoutError:
            return False
        self._wished.clear()
        return True


def _signature(paths: Iterable[Path]) -> _Signature:
    """Return what differs as soon as a file has been written or replaced."""
    return tuple(_signature_of(path) for path in paths)


def _signature_of(path: Path) -> tuple[int, int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # Its rights count too: a secret that everybody may read is refused.
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode
