"""How much memory the processes of a child hold, as the kernel counts it.

Source: proc(5), /proc/PID/stat and /proc/PID/statm.
"""

import os
from pathlib import Path

__all__ = ["resident_bytes"]

_PROC = Path("/proc")


def resident_bytes(pid: int) -> int | None:
    """Return the resident memory of a process and its descendants; None where that cannot be known.

    Pages that several of them share, such as a library's, count for each.
    """
    own = _pages(pid)
    if own is None:
        return None
    pages = own + sum(_pages(descendant) or 0 for descendant in _descendants(pid))
    return pages * os.sysconf("SC_PAGE_SIZE")


def _descendants(pid: int) -> set[int]:
    children: dict[int, set[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (parent := _parent(int(entry.name))) is not None:
            children.setdefault(parent, set()).add(int(entry.name))
    found: set[int] = set()
    unseen = children.get(pid, set())
    while unseen:
        found |= unseen
        unseen = {grandchild for child in unseen for grandchild in children.get(child, ())} - found
    return found


def _parent(pid: int) -> int | None:
    # "pid (name) state ppid …", where the name may hold anything, parentheses too.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else None


def _pages(pid: int) -> int | None:
    fields = _read(pid, "statm").split()
    return int(fields[1]) if len(fields) > 1 else None


def _read(pid: int, name: str) -> bytes:
    """Return what a file of a process holds; nothing if it is gone, or there is no such file here."""
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""
