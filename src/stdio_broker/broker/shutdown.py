"""Wishes to end, and to look at the configuration again: what a process hears by signals."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator

__all__ = ["Shutdown"]

logger = logging.getLogger(__name__)

#: Without anything to reload SIGHUP ends, too: a closed terminal must not leave children behind.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Shutdown:
    """Wishes to end: the first is polite, the second is not. And wishes to reload.

    Attributes:
        requested: Set by the first wish to end.
        hurried: Set by the second.
        reload: Set by a wish to reload; whoever does it clears it.
    """

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.hurried = asyncio.Event()
        self.reload = asyncio.Event()

    def request(self) -> None:
        """Wish to end, or to end faster."""
        if self.requested.is_set():
            logger.warning("broker.hurrying")
            self.hurried.set()
        else:
            logger.info("broker.stopping")
            self.requested.set()

    @contextlib.contextmanager
    def on_signals(self, *, reloads: bool = False) -> Iterator[None]:
        """Take the process's signals as wishes, within the block.

        Args:
            reloads: Whether SIGHUP is a wish to reload, not to end.
        """
        loop = asyncio.get_running_loop()
        handlers = dict.fromkeys(STOP_SIGNALS, self.request)
        # Under nohup SIGHUP is ignored, which is what its user asked for.
        if reloads:
            handlers[signal.SIGHUP] = self.reload.set
        elif signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            handlers[signal.SIGHUP] = self.request
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
