"""Limits of the system that are nearly reached, for real."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from stdio_broker.supervisor.capacity import DESCRIPTOR_RESERVE

__all__ = ["only_free_descriptors"]

# With so many the guard keeps its whole reserve.
_ROOM = 8 * DESCRIPTOR_RESERVE


@contextlib.contextmanager
def only_free_descriptors(free: int) -> Iterator[int]:
    """Leave exactly so many descriptors, so that the allocation behind them fails; yield the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(int(fd.name) for fd in Path("/dev/fd").iterdir()) + _ROOM
    hogs: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                hogs.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(free):
            os.close(hogs.pop())
        yield limit
    finally:
        for fd in hogs:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
