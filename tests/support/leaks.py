"""The leak check: what a test opened it has closed, what it started it has ended and reaped.

Four kinds of leak: file descriptors, threads, child processes (zombies too) and pending asyncio tasks. The
first three are compared around a test, after its event loop is closed; tasks at the end of an async test,
while its loop still runs, because closing the loop would cancel them and hide the leak.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tests.support.processes import children_of, command_of, is_zombie, wait_until_sync

__all__ = [
    "TEAR_DOWN_TIMEOUT",
    "LeakError",
    "Resources",
    "checked_for_pending_tasks",
    "fail_on_leaks",
    "fail_on_pending_tasks",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")

# One thread starts every child of the process and outlives its first use by design.
_PERMANENT_THREADS = frozenset({"stdio-broker-spawner"})

# How long the kernel may take to tear down what was closed, in seconds. Costs nothing when nothing is leaked.
TEAR_DOWN_TIMEOUT = 2.0

# How many rounds of the loop a cancelled task may take to finish: enough for a few nested `finally` blocks.
_ROUNDS_TO_FINISH = 20


class LeakError(AssertionError):
    """A test left something behind; the message names every piece."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What this process holds at one moment, each piece with the words to name it by."""

    fds: frozenset[str]
    threads: frozenset[str]
    children: frozenset[int]

    @classmethod
    def now(cls) -> "Resources":
        """Look at this process."""
        return cls(
            fds=frozenset(_open_fds()),
            threads=frozenset(
                f"thread {thread.name} (ident {thread.ident}{', daemon' if thread.daemon else ''})"
                for thread in threading.enumerate()
                if thread.name not in _PERMANENT_THREADS
            ),
            children=frozenset(children_of(os.getpid())),
        )

    def added_since(self, before: "Resources") -> list[str]:
        """Describe everything that is here now and was not before."""
        return sorted(
            [*(self.fds - before.fds), *(self.threads - before.threads)]
            + [_describe_child(pid) for pid in self.children - before.children]
        )


def fail_on_leaks(before: Resources) -> None:
    """Compare with now.

    Raises:
        LeakError: Something is here that was not before, and stays for `TEAR_DOWN_TIMEOUT`.
    """
    try:
        wait_until_sync(lambda: not Resources.now().added_since(before), TEAR_DOWN_TIMEOUT)
    except AssertionError:
        if leaks := Resources.now().added_since(before):
            raise LeakError("the test leaked:\n  " + "\n  ".join(leaks)) from None


async def fail_on_pending_tasks(main: Coroutine[object, object, _T]) -> _T:
    """Await `main`, then look for tasks that were not there before and still are.

    Raises:
        LeakError: A task that `main` started is pending. Not raised when `main` itself fails: its own error
            tells more.
    """
    before = asyncio.all_tasks()
    result = await main
    pending: set[asyncio.Task[Any]] = set()
    for _ in range(_ROUNDS_TO_FINISH):
        pending = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not pending:
            return result
        await asyncio.sleep(0)
    raise LeakError("the test leaked:\n  " + "\n  ".join(sorted(_describe_task(task) for task in pending)))


def checked_for_pending_tasks(
    test: Callable[_P, Coroutine[object, object, _T]],
) -> Callable[_P, Coroutine[object, object, _T]]:
    """Return the async test with `fail_on_pending_tasks` around its body."""

    @wraps(test)
    async def checked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await fail_on_pending_tasks(test(*args, **kwargs))

    return checked


def _open_fds() -> Iterator[str]:
    # /dev/fd is /proc/self/fd on Linux; elsewhere it lists the numbers, but does not tell what they are.
    for fd in list(Path("/dev/fd").iterdir()):
        try:
            os.fstat(int(fd.name))
            what = fd.readlink() if fd.is_symlink() else "unknown"
        except OSError:
            continue  # it was the one that listed the directory; or a thread has closed it meanwhile
        yield f"fd {fd.name} ({what})"


def _describe_child(pid: int) -> str:
    return f"child process {pid} ({'zombie, not reaped' if is_zombie(pid) else command_of(pid)})"


def _describe_task(task: asyncio.Task[object]) -> str:
    frames = task.get_stack(limit=1)
    place = f" at {frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else ""
    return f"task {task.get_name()} ({getattr(task.get_coro(), '__qualname__', task.get_coro())}{place})"
