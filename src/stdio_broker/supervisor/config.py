"""What to run and how long to wait for it. Pure values, checked when they are made.

Source of the stop order and of its graces: MCP 2025-11-25, basic/lifecycle, "Shutdown",
"stdio"; MCP python-sdk and go-sdk wait 2 to 5 s per step.
"""

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from .limits import Limits

__all__ = ["Config", "Level", "StderrCallback"]

StderrCallback = Callable[[str], None]

#: What holds the descendants of a child together.
Level = Literal["auto", "group", "cgroup", "shim"]

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One child to run.

    Args:
        cmd: Program and arguments; no shell is involved. A name without a slash is looked up
            on the *child's* PATH.
        env: Variables to set over the inherited ones; None as a value unsets one.
        inherit_env: Which of our own variables the child sees: "minimal" (HOME, PATH, LANG and
            the like, see `environment.MINIMAL`), "all", or a collection of names.
        cwd: Working directory; None is ours.
        on_stderr: Called on the event loop with every line of stderr, decoded, without its line
            end. It must not block. An exception is logged and goes no further.
        flush_grace: Seconds that accepted but unwritten lines get before stdin is closed.
        eof_grace: Seconds between closing stdin and SIGTERM. EOF is the only portable way to ask
            a server to exit, so it gets a grace of its own; 0 sends SIGTERM at once.
        stop_grace: Seconds between SIGTERM and SIGKILL; 0 kills at once.
        kill_grace: Seconds after SIGKILL before the child is reported as unkillable.
        drain_grace: Seconds after the exit for what is left in the pipes. Only used up when a
            process that escaped the group holds a pipe open.
        max_line_bytes: Longest line of stdout accepted, newline excluded. A longer one is
            reported, not kept, and the next line is in sync.
        stdout_buffer_bytes: Unread stdout above which we stop reading (the child then blocks).
        stdin_buffer_bytes: Unwritten stdin above which `send` waits.
        max_stderr_line_bytes: Longer lines of stderr are delivered in pieces of this size.
        stderr_tail_lines: How many of the last lines of stderr are kept for reports.
        orphans: What happens to the child's descendants once the child has ended: "kill" them,
            or "leave" them.
        containment: What holds the descendants together. "group": its process group; what leaves
            that is found by a mark in its environment (Linux). "cgroup": a control group, which
            nobody can leave; the start may wait 10 ms for the kernel, and fails where none can be
            made. "auto": a control group where one can be made, else "group". "shim": a process in
            front of the child that adopts all its orphans (Linux; some 40 ms and 11 MB each, 4.5
            MB of them its own).
        warden: Whether a companion process ends the child should this process be killed, and hunts
            what left the group. There is one for all children; without it neither is done.
        limits: What the child may use; None touches nothing. With `memory_bytes` or `processes` it
            gets a control group whatever `containment` says, or does not start.
        signal_codes: Whether an exit code of 128 + N means that signal N ended the child: so say
            programs that run another one for it (bwrap, container engines, shells).
        private_tmp: Whether TMPDIR is a directory of the child's own, removed with it. Costs a descriptor.

    Raises:
        ValueError: A value is out of range; the message names the field, and what it expects.
    """

    cmd: Sequence[str | os.PathLike[str]]
    # Not in the repr: values may be secrets, and a repr ends in a log sooner or later.
    env: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    inherit_env: Literal["minimal", "all"] | Collection[str] = "minimal"
    cwd: str | os.PathLike[str] | None = None
    on_stderr: StderrCallback | None = None
    flush_grace: float = 0.5
    eof_grace: float = 2.0
    stop_grace: float = 5.0
    kill_grace: float = 2.0
    drain_grace: float = 0.5
    max_line_bytes: int = 64 * _MIB
    stdout_buffer_bytes: int = 1 * _MIB
    stdin_buffer_bytes: int = 1 * _MIB
    max_stderr_line_bytes: int = 64 * 1024
    stderr_tail_lines: int = 64
    orphans: Literal["kill", "leave"] = "kill"
    containment: Level = "auto"
    warden: bool = True
    limits: Limits | None = None
    signal_codes: bool = False
    private_tmp: bool = False

    def __post_init__(self) -> None:
        """Check every field; the first mistake is named."""
        _check_command(self.cmd)
        _check_environment(self.env)
        _check_inherited(self.inherit_env)
        if self.cwd is not None and "\0" in os.fspath(self.cwd):
            raise ValueError("cwd: contains a NUL character, which no path can")
        for name in ("flush_grace", "eof_grace", "stop_grace", "kill_grace", "drain_grace"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ValueError(f"{name}: expected seconds, 0 or more, found {seconds!r}")
        for name in (
            "max_line_bytes",
            "stdout_buffer_bytes",
            "stdin_buffer_bytes",
            "max_stderr_line_bytes",
            "stderr_tail_lines",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, found {getattr(self, name)!r}")
        if self.orphans not in {"kill", "leave"}:
            raise ValueError(f'orphans: expected "kill" or "leave", found {self.orphans!r}')
        if self.containment not in get_args(Level):
            raise ValueError(
                f'containment: expected "auto", "group", "cgroup" or "shim", found {self.containment!r}'
            )
        if self.orphans == "leave" and self.containment in {"cgroup", "shim"}:
            raise ValueError(f'orphans: expected "kill" with containment "{self.containment}", found "leave"')
        if self.limits is not None and self.limits.controllers:
            _check_group(self.containment, self.orphans)


def _check_command(cmd: Sequence[str | os.PathLike[str]]) -> None:
    # A lone string is a sequence too, of letters: the classic mistake.
    if isinstance(cmd, str | bytes) or not cmd:
        raise ValueError(f"cmd: expected a list of a program and its arguments, found {cmd!r}")
    arguments = [os.fspath(argument) for argument in cmd]
    if not all(isinstance(argument, str) for argument in arguments):
        raise ValueError("cmd: expected text, found bytes")
    if not arguments[0]:
        raise ValueError("cmd: expected a program, found an empty string")
    if any("\0" in argument for argument in arguments):
        raise ValueError("cmd: an argument contains a NUL character, which no program can receive")


def _check_group(containment: Level, orphans: str) -> None:
    """Check that the child can get the control group that its limits take."""
    why = "with limits of memory_bytes or processes"
    if containment not in {"auto", "cgroup"}:
        raise ValueError(f'containment: expected "auto" or "cgroup" {why}, found "{containment}"')
    if orphans == "leave":
        raise ValueError(f'orphans: expected "kill" {why}, found "leave"')


def _check_inherited(names: str | Collection[str]) -> None:
    # As above: "PATH" would let through P, A, T and H.
    if isinstance(names, str) and names not in {"minimal", "all"}:
        raise ValueError(f'inherit_env: expected "minimal", "all" or a list of names, found {names!r}')


def _check_environment(env: Mapping[str, str | None]) -> None:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            raise ValueError(f"env: expected a variable's name without '=' and NUL, found {name!r}")
        if value is not None and "\0" in value:
            # The value may be a secret: name only the variable.
            raise ValueError(f"env: the value of {name} contains a NUL character")
