"""What holds the descendants of one child together, so that all of them can be ended.

========  ===================================================================================
group     its process group. What leaves that is found by a mark in its environment (Linux),
          hunted by the warden
cgroup    a control group, which nobody leaves: proof; a hunt only if somebody may have been born
          outside, before the child was in it
shim      a process between us and the child that adopts all orphans (opt-in: it costs an
          interpreter per child)
========  ===================================================================================

Should we be killed, the warden ends the first two, and the shim its child by itself.
"""

import contextlib
import errno
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Protocol

from . import shim_process
from .cgroup import Cgroup, CgroupFolder, Held, default_folder, limiting_folder
from .config import Config
from .warden import Lifeline, default_lifeline, new_key
from .warden_process import MARK

__all__ = ["Contained", "Containment", "Shimmed", "Uncontained", "contain"]

#: Too little of something else: the start fails, and the next one may have its control group again.
_FULL = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class Containment(Protocol):
    """One child with all its descendants.

    `launch` and `adopt` belong to the thread that starts it, the others to its event loop.

    Attributes:
        leader_sweeps: Whether the process that was started kills the others itself, at `kill`, and
            then ends. Until then it must not be killed.
    """

    leader_sweeps: bool

    def launch(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
        """Return what to run, and in which environment."""

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """Descriptors that the process inherits."""

    def adopt(self, pid: int, pidfd: int | None, /) -> bool:
        """Take the process that was started; return whether it has certainly forked nobody before.

        Raises:
            OSError: It cannot be held; it must be ended.
        """

    def kill(self) -> None:
        """Kill it with everything that belongs to it, or begin to. May be called again."""

    def alive(self) -> bool:
        """Return whether anything of it lives, as far as can be known. After `kill`."""

    def close(self) -> None:
        """Give it up: nothing is left, or nothing can be done."""


class Uncontained:
    """A child whose process group is all there is."""

    leader_sweeps = False
    pass_fds = ()

    def launch(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
        """Change nothing."""
        return argv, env

    def adopt(self, _pid: int, _pidfd: int | None) -> bool:
        """Do nothing."""
        return False

    def kill(self) -> None:
        """Do nothing: whoever holds it signals its group."""

    def alive(self) -> bool:
        """Nothing is known beyond the group."""
        return False

    def close(self) -> None:
        """Hold nothing."""


class Contained:
    """A child that is marked, in a control group if there is one, and known to the warden.

    Args:
        config: What its end shall be like.
        lifeline: Our side of the warden; None is without.
        folder: Where its control group is made; None is without, and then the warden hunts for
            what leaves the process group.
    """

    leader_sweeps = False
    pass_fds: tuple[int, ...] = ()

    def __init__(self, config: Config, lifeline: Lifeline | None, folder: CgroupFolder | None) -> None:
        self._key = ""
        self._config = config
        self._lifeline = lifeline
        self._folder = folder
        self._cgroup: Cgroup | None = None
        limits = config.limits
        #: What its control group limits, as the kernel names it.
        self._limits: Mapping[str, int] = {} if limits is None else limits.of_group()
        #: Whether it is not started without a control group.
        self._group_required = config.containment == "cgroup" or bool(self._limits)
        #: Whether somebody may be outside of its control group.
        self._escaped = False

    def launch(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
        """Announce it to the warden, make its control group, and mark it."""
        self._key = self._new_key()
        if self._folder is not None:
            try:
                self._cgroup = self._folder.make(self._key, limits=self._limits)
            except OSError as exc:
                if self._group_required or exc.errno is not None:
                    raise
                self._folder.report(exc)
        # What is there already marks us, as the child of another supervisor, and goes on doing so.
        outer = os.environ.get(MARK)
        mark = {MARK: f"{outer},{self._key}" if outer else self._key}
        return argv, mark | dict(env) | mark  # the first of all, and whatever is inherited

    def adopt(self, pid: int, pidfd: int | None) -> bool:
        """Put it into its control group, and tell the warden whom to look after."""
        alone = False
        if self._folder is not None and self._cgroup is not None:
            alone = self._join(self._folder, self._cgroup, pid)
        if self._lifeline is not None:
            group = "" if self._cgroup is None else self._cgroup.path
            self._lifeline.started(self._key, pid, pidfd, group)
        return alone

    def kill(self) -> None:
        """Kill everybody in its control group; begin a hunt, if somebody may be outside."""
        if self._cgroup is not None:
            self._cgroup.kill()
        hunted = self._cgroup is None or self._escaped
        if hunted and self._lifeline is not None and self._config.orphans == "kill":
            self._lifeline.hunt(self._key)

    def alive(self) -> bool:
        """Return whether somebody is in its control group, or the hunt has not found nobody yet."""
        if self._cgroup is not None and self._cgroup.populated():
            return True
        found = 0 if self._lifeline is None else self._lifeline.found(self._key)
        if found:
            self.kill()
        return found != 0

    def close(self) -> None:
        """Give the control group back, and take the child back from the warden."""
        group, removed = self._cgroup, True
        if self._folder is not None and group is not None and not group.clean:
            removed = self._folder.remove(group)
        if self._lifeline is not None:
            # Who cannot be killed now may be when we are gone.
            self._lifeline.forget(self._key, altogether=removed)
        if self._folder is not None and group is not None and group.clean:
            self._folder.remove(group)  # last: from here on it may be another child's

    def _new_key(self) -> str:
        if self._lifeline is None:
            return new_key()
        return self._lifeline.announce(
            eof_grace=self._config.eof_grace,
            stop_grace=self._config.stop_grace,
            orphans=self._config.orphans,
            folder="" if self._folder is None else self._folder.place(),
        )

    def _join(self, folder: CgroupFolder, group: Cgroup, pid: int) -> bool:
        """Put it into its control group; return whether it has certainly forked nobody yet."""
        try:
            held = group.adopt(pid, self._key)
        except OSError as exc:
            if exc.errno in _FULL:
                raise
            if group.name != self._key:  # it was another child's, and has been changed by it
                folder.remove(group)
                self._cgroup = group = folder.make(self._key, fresh=True)
                return self._join(folder, group, pid)
            why = OSError(f"it cannot be put into its control group: {exc.strerror}")
            if self._group_required:
                raise why from exc
            folder.give_up(why)
            folder.remove(group)
            self._cgroup = None
            return False
        self._escaped = not held
        return held is Held.ALONE


class Shimmed:
    """A child behind a shim, which adopts all its orphans and ends them. See `shim_process`."""

    leader_sweeps = True

    def __init__(self, config: Config) -> None:
        self._config = config
        self._program = ""
        # Numbers, not objects: those the garbage collector may close before we have said our last word.
        self._control = self._theirs = -1
        self._pidfd: int | None = None
        self._survivors = False

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """The shim's side of the control socket."""
        return (self._theirs,)

    def launch(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
        """Put the shim in front of the command."""
        if sys.platform != "linux" or not sys.executable:
            raise OSError("a shim needs Linux, and an interpreter to run it")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            # Not 0, 1 or 2, which become its standard descriptors.
            self._theirs = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3)
            ours.setblocking(False)  # noqa: FBT003 - the function has no keyword
            self._control = ours.detach()
        self._program = argv[0]
        config = self._config
        shim = [
            *(sys.executable, "-I", "-S", shim_process.__file__, str(self._theirs), str(os.getpid())),
            *map(str, (config.eof_grace, config.stop_grace, config.kill_grace)),
        ]
        return [*shim, "--", *argv], env

    def adopt(self, _pid: int, pidfd: int | None) -> bool:
        """Have the command started, and wait until it runs: as long as its exec takes.

        It is the first that the shim forks.
        """
        self._pidfd = pidfd
        os.close(self._theirs)  # else we could not see that the shim ends without a word
        self._theirs = -1
        self._tell(b"G")
        os.set_blocking(self._control, True)
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # the shim has ended, and has not read that
            answer = os.read(self._control, 16)
        os.set_blocking(self._control, False)
        if not answer:
            raise OSError("its shim has ended before it could start the command")
        if code := int(answer):
            raise OSError(code, os.strerror(code), self._program)
        return True

    def kill(self) -> None:
        """Have the shim kill everything, and then end itself."""
        self._tell(b"K")
        if self._pidfd is not None:
            with contextlib.suppress(OSError):  # it has ended
                signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)  # it cannot hear while it is stopped

    def alive(self) -> bool:
        """Return whether the shim, which has ended, has left somebody behind that it could not kill."""
        with contextlib.suppress(OSError):  # it has said nothing
            self._survivors = self._survivors or os.read(self._control, 16) == b"S"
        return self._survivors

    def close(self) -> None:
        """Close the control socket. A shim that is not done goes on with the ladder by itself."""
        for descriptor in (self._control, self._theirs):
            if descriptor >= 0:
                os.close(descriptor)
        self._control = self._theirs = -1
        self._pidfd = None

    def _tell(self, message: bytes) -> None:
        if self._control < 0:
            return
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=self._control)
        control.setblocking(False)  # noqa: FBT003 - the function has no keyword
        with contextlib.suppress(OSError):  # the shim has ended
            control.send(message, socket.MSG_NOSIGNAL)
        control.detach()


def contain(config: Config) -> Containment:
    """Return what holds a child together. Nothing is made yet: `launch` does that."""
    if config.containment == "shim":
        return Shimmed(config)
    # What may be left alive needs nothing that holds it.
    wanted = config.containment == "cgroup" or (config.containment == "auto" and config.orphans == "kill")
    return Contained(
        config,
        default_lifeline() if config.warden else None,
        _folder(config) if wanted else None,
    )


def _folder(config: Config) -> CgroupFolder:
    controllers = config.limits.controllers if config.limits is not None else frozenset()
    return limiting_folder(controllers) if controllers else default_folder()
