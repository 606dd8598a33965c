"""What this process knows, kept from the processes of the same user that it starts.

It holds the secrets of all its children. By default every process of the same user may read its memory
and its environment, and a crash would write both to the disk. Source: prctl(2), PR_SET_DUMPABLE; core(5).
"""

import ctypes
import resource
import sys

__all__ = ["forbid_dumps"]

PR_SET_DUMPABLE = 4


def forbid_dumps() -> None:
    """Let nobody but root look into this process, and let neither it nor its children leave core dumps.

    A child is readable again by its own user: that is what isolation is for. Debuggers and profilers of
    the same user cannot attach any more.
    """
    # Not 0, at which the kernel would still hand a dump to a collecting program: core(5).
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
