"""Where control groups can be made that limit what is in them: memory, processes. cgroup v2 only.

A group gives its controllers to the groups in it only while no process is in itself ("no internal
processes"), the root of all aside. We are in our own group, so the groups of our children are made
next to it, if a service manager has left us the group around it (systemd: Delegate=yes and
DelegateSubgroup=). We do not move ourselves: others may be in our group, and it may not be ours to change.

Source: cgroups(7); kernel documentation, admin-guide/cgroup-v2, "No Internal Process Constraint";
systemd, CGROUP_DELEGATION, for the mark on delegated groups.
"""

import contextlib
import errno
import os
from collections.abc import Collection
from pathlib import Path

__all__ = ["enable", "place_with"]

#: How systemd marks a group that it has left to somebody.
_MARKS = ("user.delegate", "trusted.delegate")


def place_with(own: Path, controllers: Collection[str]) -> Path:
    """Return where groups with these controllers can be made: in our own group, or next to it.

    Raises:
        OSError: Nowhere; the message says why, and what would help.
    """
    reasons = []
    for place in (own, own.parent) if _is_delegated(own.parent) else (own,):
        try:
            enable(place, controllers)
        except OSError as exc:
            reasons.append(str(exc))
        else:
            return place
    raise OSError(
        "limits of memory_bytes or processes need a cgroup v2 with the controllers for that, and none can be "
        f"made: {'; '.join(reasons)}. A systemd unit gets one by Delegate=yes with DelegateSubgroup="
    )


def enable(group: Path, controllers: Collection[str]) -> None:
    """Give the groups that are made in a group these controllers.

    Raises:
        OSError: It may not, or has them not itself. The error has no number.
    """
    try:
        missing = sorted(set(controllers).difference((group / "cgroup.controllers").read_text().split()))
        if not missing:
            # Also where they are given already: it changes nothing.
            wish = " ".join(f"+{name}" for name in sorted(controllers))
            (group / "cgroup.subtree_control").write_text(wish)
    except OSError as exc:
        reason = "processes are in it" if exc.errno == errno.EBUSY else exc.strerror
        raise OSError(f"{group} cannot give controllers to groups in it: {reason}") from exc
    if missing:
        raise OSError(f"{group} has no controller {', '.join(missing)}")


def _is_delegated(group: Path) -> bool:
    for mark in _MARKS:
        # No such mark; or no such system call (macOS), where nobody comes here.
        with contextlib.suppress(OSError):
            return os.getxattr(group, mark) == b"1"
    return False
