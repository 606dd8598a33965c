"""What the kernel says about processes, and bounded waits for it to say something else.

`/proc` on Linux; elsewhere `ps`, which is slower and cannot see into an environment.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from stdio_broker.supervisor import warden_process

__all__ = [
    "alive_descendants_of",
    "children_of",
    "command_of",
    "descendants_of",
    "find_tagged",
    "is_alive",
    "is_stopped",
    "is_zombie",
    "wait_until",
    "wait_until_sync",
    "wardens_of",
]

_PROC = Path("/proc")
_HAS_PROC = sys.platform == "linux"

# Between two looks at the kernel, in seconds: short beside what a test costs anyway.
_POLL_INTERVAL = 0.005


def children_of(pid: int) -> set[int]:
    """Return the direct children of all threads of a process, zombies included; empty if it is gone.

    But not its warden, which is there as long as the process is.
    """
    return {child for child in _children_of(pid) if warden_process.__file__ not in command_of(child)}


def wardens_of(pid: int) -> set[int]:
    """Return the wardens of a process: one, or none before its first child is started."""
    return {child for child in _children_of(pid) if warden_process.__file__ in command_of(child)}


def _children_of(pid: int) -> set[int]:
    if not _HAS_PROC:
        return {child for child, (parent, _) in _process_table().items() if parent == pid}
    children: set[int] = set()
    for task in _entries(_PROC / str(pid) / "task"):
        children.update(int(child) for child in _read(task / "children").split())
    return children


def descendants_of(pid: int) -> set[int]:
    """Return the children of a process, theirs, and so on, zombies included.

    A descendant whose parent has exited belongs to init and is not found: look for it with `find_tagged`.
    """
    found: set[int] = set()
    unseen = children_of(pid)
    while unseen:
        found |= unseen
        unseen = {grandchild for child in unseen for grandchild in children_of(child)} - found
    return found


def alive_descendants_of(pid: int) -> set[int]:
    """Return the descendants that still run, zombies excluded."""
    return {descendant for descendant in descendants_of(pid) if is_alive(descendant)}


def is_alive(pid: int) -> bool:
    """Tell whether a process runs or could run; a zombie has ended."""
    return _state(pid) not in ("", "Z", "X")


def is_zombie(pid: int) -> bool:
    """Tell whether a process has ended and waits to be reaped."""
    return _state(pid) == "Z"


def is_stopped(pid: int) -> bool:
    """Tell whether SIGSTOP has taken effect; until then a process may still read and write."""
    return _state(pid) == "T"


def command_of(pid: int) -> str:
    """Return the command line of a process for a message; empty for a zombie or a process that is gone."""
    if not _HAS_PROC:
        return _ps("-o", "command=", "-p", str(pid)).strip()
    return _read(_PROC / str(pid) / "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def find_tagged(tag: str) -> set[int]:
    """Return the running processes, except this one, that carry a tag in their arguments or environment.

    This is how a test finds what escaped: a tag is inherited even by a daemon that nobody is the parent of.
    """
    if not _HAS_PROC:
        lines = _ps("-A", "-E", "-o", "pid=,command=").splitlines()
        return {int(line.split(None, 1)[0]) for line in lines if tag in line} - {os.getpid()}
    wanted = tag.encode()
    tagged = {
        int(process.name)
        for process in _entries(_PROC)
        if process.name.isdigit()
        and (wanted in _read(process / "cmdline") or wanted in _read(process / "environ"))
    }
    return tagged - {os.getpid()}


async def wait_until(condition: Callable[[], bool], timeout: float = 10.0, *, what: str = "") -> None:
    """Look again and again until a condition holds that only the kernel or another process can make true.

    Args:
        condition: What must hold; must be cheap, and must not wait.
        timeout: Seconds after which the test fails.
        what: What was waited for, for the message of the failure.
    """
    for _ in _looks(condition, timeout, what):
        await asyncio.sleep(_POLL_INTERVAL)


def wait_until_sync(condition: Callable[[], bool], timeout: float = 10.0, *, what: str = "") -> None:
    """Do what `wait_until` does, in a test without an event loop."""
    for _ in _looks(condition, timeout, what):
        time.sleep(_POLL_INTERVAL)


def _looks(condition: Callable[[], bool], timeout: float, what: str) -> Iterator[None]:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            # At the deadline the wait itself may have been what took so long: look once more.
            if condition():
                return
            raise AssertionError(f"not within {timeout} s: {what or condition}")
        yield


def _state(pid: int) -> str:
    if not _HAS_PROC:
        return _process_table().get(pid, (0, ""))[1]
    # "pid (name) state ...", where the name may hold anything, parentheses too.
    fields = _read(_PROC / str(pid) / "stat").rpartition(b")")[2].split()
    return fields[0].decode() if fields else ""


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _read(path: Path) -> bytes:
    """Return what a file of `/proc` holds; nothing when its process is gone or not ours to look at."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _process_table() -> dict[int, tuple[int, str]]:
    table: dict[int, tuple[int, str]] = {}
    for line in _ps("-A", "-o", "pid=,ppid=,stat=").splitlines():
        pid, parent, state = line.split(None, 2)
        table[int(pid)] = (int(parent), state[0])
    return table


def _ps(*arguments: str) -> str:
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout
