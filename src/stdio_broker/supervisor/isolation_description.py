"""What an isolation gives on this machine, in words, for operators: also what it does not."""

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields

from .isolation import Isolation, limits_of_none

__all__ = ["describe"]


def describe(isolation: Isolation) -> tuple[str, ...]:
    """Say in words what this isolation gives on this machine, and what it does not. Starts nothing."""
    return (*_DESCRIPTIONS[isolation.level](isolation), *_describe_limits(isolation))


def _describe_none(_isolation: Isolation) -> Iterator[str]:
    yield "a session of its own, and none of our open files"
    yield _SIBLINGS


def _describe_level_limits(_isolation: Isolation) -> Iterator[str]:
    yield "a session of its own, and none of our open files"
    if (setpriv := shutil.which("setpriv")) is not None:
        yield f"no further rights by set-uid programs (no_new_privs, by {setpriv})"
    else:
        yield "NOT: no_new_privs, because setpriv is not installed"
    yield _SIBLINGS


def _describe_landlock(isolation: Isolation) -> Iterator[str]:
    yield "no further rights by set-uid programs (no_new_privs), and none of root's"
    yield from _describe_paths(isolation)
    yield "signals to and tracing of its own processes only; it sees that there are others, not their insides"
    yield "no TCP; UDP and named Unix sockets stay open" if not isolation.network else _OPEN_NETWORK


def _describe_bwrap(isolation: Isolation) -> Iterator[str]:
    yield "no further rights by set-uid programs (no_new_privs), and none of root's"
    yield from _describe_paths(isolation)
    yield f"its temporary directory is memory, {isolation.tmp_bytes} bytes at most"
    yield "processes, users, IPC and host name of its own: others are not there"
    yield "no network" if not isolation.network else _OPEN_NETWORK


def _describe_wrapper(isolation: Isolation) -> Iterator[str]:
    yield f"whatever {isolation.wrapper[0]} gives; its limits are the wrapper's"


def _describe_paths(isolation: Isolation) -> Iterator[str]:
    yield "of the file system: the system's programs and libraries, and what they need of /etc"
    yield "to change: a temporary directory of its own"
    for paths, what in ((isolation.read_only, "read-only"), (isolation.read_write, "to change")):
        if paths:
            yield f"{what}: {', '.join(paths)}"
    yield "to change: its working directory, if one is configured and not read-only"


def _describe_limits(isolation: Isolation) -> Iterator[str]:
    limits = limits_of_none(isolation.limits) if isolation.level == "none" else isolation.limits
    for item in fields(limits):
        if (value := getattr(limits, item.name)) is not None:
            # The defaults are left out where they cannot be set.
            if sys.platform != "linux" and value == item.default:
                yield f"NOT: limit {item.name} {value}, which needs Linux"
            else:
                yield f"limit {item.name}: {value}"


_SIBLINGS = (
    "NOT: protection from its siblings, or ours from it: the same user can read environments, files, memory"
)
_OPEN_NETWORK = "NOT: protection of the network, our own host's included"

_DESCRIPTIONS: dict[str, Callable[[Isolation], Iterator[str]]] = {
    "none": _describe_none,
    "limits": _describe_level_limits,
    "landlock": _describe_landlock,
    "bwrap": _describe_bwrap,
    "wrapper": _describe_wrapper,
}
