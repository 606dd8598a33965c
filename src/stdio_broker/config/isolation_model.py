"""The `isolation` and `limits` of a server, as classes: each key with its default and the reason."""

# ruff: noqa: RUF012 - pydantic copies a default

from typing import Annotated

from pydantic import Field

from ..supervisor.isolation import Isolation, IsolationLevel
from ..supervisor.limits import Limits
from .keys import Table, about

__all__ = ["ChildLimits", "IsolationTable"]

_ISOLATION = Isolation()
_LIMITS = Limits()


class IsolationTable(Table):
    """What keeps the children of a server from the rest of the machine."""

    level: Annotated[
        IsolationLevel,
        about(
            '"none": nothing but `limits` that are given. "limits": `limits`, and no rights by set-uid '
            'programs. "landlock": only files that are listed, and no other process. "bwrap": bubblewrap '
            'gives it file system, processes and network of its own. "wrapper": a program of yours starts '
            "it.",
            why='"limits" works everywhere and costs next to nothing. What this machine cannot do fails at '
            "start, and is never weakened.",
        ),
    ] = _ISOLATION.level
    read_only: Annotated[
        list[str],
        about(
            "Paths that children may read and execute, besides the system's programs and libraries. For "
            "landlock and bwrap, like the three that follow.",
            why="A server sees no file of yours that is not listed.",
        ),
    ] = []
    read_write: Annotated[
        list[str],
        about(
            "Paths that children may change, besides `cwd` and a temporary directory of their own.",
            why="Most servers need none.",
        ),
    ] = []
    network: Annotated[
        bool,
        about(
            "Whether children may use the network. False cuts all of it off in bwrap, TCP in landlock.",
            why="Most servers talk to something; one that does not should not be able to.",
        ),
    ] = _ISOLATION.network
    tmp_bytes: Annotated[
        int,
        Field(ge=1024 * 1024),
        about(
            "Size of the temporary directory in bwrap.",
            unit="bytes",
            why="It is memory, and nobody else's limit holds there.",
        ),
    ] = _ISOLATION.tmp_bytes
    wrapper: Annotated[
        list[str],
        Field(repr=False),
        about(
            'For the level "wrapper": a program and its arguments, of which exactly one is "{cmd}" and '
            "stands for the command and its arguments.",
            why="For what is not built in: `systemd-run`, `docker`, a sandbox of your own.",
        ),
    ] = []


class ChildLimits(Table):
    """What each child of a server may use. What is not given stays as the child inherits it."""

    nofile: Annotated[
        int | None,
        Field(ge=16, le=1 << 30),
        about(
            "Open files of each process.",
            unit="files",
            why="Not set: the system has a limit of its own, and programs differ.",
        ),
    ] = _LIMITS.nofile
    core_bytes: Annotated[
        int | None,
        Field(ge=0, le=1 << 62),
        about("Size of a core dump.", unit="bytes", why="None at all: a core dump holds the credential."),
    ] = _LIMITS.core_bytes
    cpu_seconds: Annotated[
        int | None,
        Field(ge=1, le=1 << 31),
        about(
            "CPU time of each process, over its whole life.",
            unit="seconds",
            why="Not set: it is for runaways, and a server that lives long needs much.",
        ),
    ] = _LIMITS.cpu_seconds
    file_bytes: Annotated[
        int | None,
        Field(ge=1024, le=1 << 62),
        about(
            "Largest file that a process can write.",
            unit="bytes",
            why="Not set: it is no quota, for it may write many.",
        ),
    ] = _LIMITS.file_bytes
    nice: Annotated[
        int | None,
        Field(ge=-20, le=19),
        about(
            "Scheduling priority; the greater, the less.",
            unit="steps of niceness",
            why="Not set: one below the broker's own takes rights.",
        ),
    ] = _LIMITS.nice
    oom_score_adj: Annotated[
        int | None,
        Field(ge=0, le=1000),
        about(
            "How much rather than the broker a child is killed when memory runs out; added to the broker's "
            "own.",
            unit="points of the kernel's score",
            why="A child can be started again; the broker holds everybody's sessions.",
        ),
    ] = _LIMITS.oom_score_adj
    memory_bytes: Annotated[
        int | None,
        Field(ge=1024 * 1024, le=1 << 62),
        about(
            "Memory of a child with all its descendants. Needs a control group (version 2, controller "
            "memory) that the broker may write to; the start fails without.",
            unit="bytes",
            why="Not set: not every machine has one. Set it where one does.",
        ),
    ] = _LIMITS.memory_bytes
    processes: Annotated[
        int | None,
        Field(ge=1, le=1 << 22),
        about(
            "Processes and threads of a child with all its descendants. Needs a control group (controller "
            "pids).",
            unit="processes and threads",
            why="Not set, as `memory_bytes`.",
        ),
    ] = _LIMITS.processes
