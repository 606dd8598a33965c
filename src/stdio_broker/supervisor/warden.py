"""Our side of the warden: names the children to it, hears of its hunts, starts it anew if it dies.

What the warden is and does stands in `warden_process`. One of them serves this whole process, and
lives as long; it is started with the first child. Any thread may call; nothing here waits for it,
but `started`, which is called where waiting is allowed.
"""

import atexit
import contextlib
import errno
import fcntl
import logging
import os
import random
import secrets
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from . import warden_process
from .restart import Breaker, RestartPolicy
from .signals import nothing_blocked
from .warden_process import MARK, PACKET_BYTES

__all__ = ["Lifeline", "default_lifeline", "new_key"]

logger = logging.getLogger(__name__)

#: Packets keep their bounds, and descriptors come with their packet. macOS has no such sockets; it
#: has no descriptors to send either, and newlines keep packets apart.
KIND = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_STREAM

#: A broken socket is an error, and no signal to a program that does not ignore SIGPIPE.
FLAGS = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)

#: Seconds that the warden may leave its socket full. Then it hangs, and is replaced.
SEND_TIMEOUT = 2.0

#: Seconds that the end of the program waits for what the warden still has to end.
CLOSE_TIMEOUT = 2.0

#: Most that is sent in front of the start of a child in one message. See `PACKET_BYTES`.
TOGETHER = 6

#: Of how many configurations a name is kept ready.
SPARE_NAMES = 8

#: How many deaths are borne. After more it is not started again.
DEATHS = RestartPolicy()

#: Why the warden may not be had now, but later.
_PASSING = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}

#: What the dynamic linker may need to start our own interpreter. Nothing else of our environment:
#: the warden needs no secret.
LINKER = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", MARK)


def new_key() -> str:
    """Return a name for a child that no other child has, here or anywhere."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class _Started:
    pid: int
    pidfd: int | None
    cgroup: str


class _Wish(NamedTuple):
    """How the children of one configuration shall end, should we be killed. See `Lifeline.announce`."""

    eof_grace: float
    stop_grace: float
    orphans: str
    folder: str


@dataclass(slots=True)
class _Ward:
    """What the warden must be told about a child; and again, should it be replaced."""

    watch: bytes
    started: _Started | None = None


class Lifeline:
    """The children of this process, as its warden knows them.

    The number of entries is bounded by the number of children.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wards: dict[str, _Ward] = {}
        #: Of each child that is hunted: the round, and how many were found in it, once it is over.
        self._hunts: dict[str, tuple[int, int | None]] = {}
        #: Names that nobody bears yet, one for each wish.
        self._spare: dict[_Wish, str] = {}
        #: What goes with the next message, or did not fit into the socket yet.
        self._later: deque[bytes] = deque()
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._breaker = Breaker(DEATHS, uniform=random.uniform)
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The warden's pid; None while there is none."""
        return None if self._process is None else self._process.pid

    def announce(self, *, eof_grace: float, stop_grace: float, orphans: str, folder: str) -> str:
        """Return a name for a child that is about to be started. The warden knows it, if there is one.

        With each name the next one is announced, by the message that the process has been started: so
        there is one message for a start, not two. May take as long as a start of a program does.

        Args:
            eof_grace: Seconds between our death, which is EOF on its stdin, and SIGTERM.
            stop_grace: Seconds between SIGTERM and SIGKILL.
            orphans: Whether what it leaves behind may live ("leave") or not ("kill").
            folder: Where the control groups are; empty if it gets none.
        """
        wish = _Wish(eof_grace, stop_grace, orphans, folder)
        with self._lock:
            key = self._spare.pop(wish, "") or new_key()
            if key not in self._wards and not self._watch(key, wish):
                return key
            if self._wards[key].watch in self._later:
                self._flush()
            if self._watch(spare := new_key(), wish):
                self._spare[wish] = spare
            if len(self._spare) > SPARE_NAMES:
                self._forget(self._spare.pop(next(iter(self._spare))))
        return key

    def started(self, key: str, pid: int, pidfd: int | None, cgroup: str = "") -> None:
        """Give the warden the process of an announced child. May wait, at most `SEND_TIMEOUT`.

        Args:
            key: The child's name.
            pid: Its pid.
            pidfd: Its pidfd. It stays the caller's, who closes it after `forget`.
            cgroup: The folder of its control group; empty if it has none.
        """
        with self._lock:
            if (ward := self._wards.get(key)) is None:
                return
            ward.started = _Started(pid, pidfd, cgroup)
        self._tell_started(key)

    def hunt(self, key: str) -> None:
        """Ask the warden to find and kill whatever of a child lives, wherever it went."""
        with self._lock:
            if key in self._wards:
                number = self._hunts.get(key, (0, None))[0] + 1
                # If there is no warden, nobody is found: nobody may wait for its answer.
                self._hunts[key] = number, 0 if self._closed else None
                self._send(_packet("hunt", key, str(number)))

    def found(self, key: str) -> int | None:
        """Return how many processes the last hunt found; None while it is under way.

        0 if there was none, and if there is no warden any more.
        """
        with self._lock:
            _, found = self._hunts.get(key, (0, 0))
            if found is None:
                self._flush()
            return found

    def forget(self, key: str, *, altogether: bool = True) -> None:
        """Take a child back: nothing of it is left.

        Args:
            key: The child's name.
            altogether: False keeps its name, by which what cannot be ended now is ended after us.
        """
        with self._lock:
            self._hunts.pop(key, None)
            if not altogether and key in self._wards:
                self._wards[key].started = None
            elif key in self._wards:
                self._forget(key)

    def close(self) -> None:
        """Let the warden end what it still has, and wait for it; not for ever."""
        with self._lock:
            self._closed = True
            self._flush()
            process, connection, thread = self._process, self._connection, self._thread
            if process is None or connection is None or thread is None:
                return
            connection.shutdown(socket.SHUT_RDWR)
        thread.join(CLOSE_TIMEOUT)

    def abandon(self) -> None:
        """Let go of it in a forked copy of this process: the warden is our parent's."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.returncode = 0  # it is no child of ours: nothing to wait for

    def _forget(self, key: str) -> None:
        """Let the warden forget a name, by the next message: nobody bears it. Under the lock."""
        del self._wards[key]
        self._later.append(_packet("forget", key))
        if len(self._later) > TOGETHER:
            self._flush()

    def _watch(self, key: str, wish: "_Wish") -> bool:
        """Put the announcement of a child with what is to be sent; False without a warden. Under the lock."""
        if self._process is None and not self._start():
            return False
        packet = _packet("watch", key, *map(str, wish))
        self._wards[key] = _Ward(packet)
        self._later.append(packet)
        return True

    def _start(self) -> bool:
        """Start the warden, and who listens to it. Under the lock."""
        if self._closed or not sys.executable:
            return False
        try:
            connection, process = _start_process()
        except (OSError, ValueError) as exc:
            # Want of descriptors or processes passes, and the next child may have one again.
            self._closed = getattr(exc, "errno", None) not in _PASSING
            logger.warning("warden.unavailable", extra={"error": str(exc)})
            return False
        thread = threading.Thread(
            target=self._listen, args=(connection, process), name="stdio-broker-warden", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as exc:
            connection.close()
            process.wait()  # its lifeline is at its end, and it has nothing to do
            logger.warning("warden.unavailable", extra={"error": str(exc)})
            return False
        self._connection, self._process, self._thread = connection, process, thread
        return True

    def _listen(self, connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """Take the warden's answers, and see to it that there is one. One thread's whole life."""
        while True:
            rest = b""
            while data := _receive(connection):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._note(*line.decode().split())
            process.wait()  # the socket is at its end: it is dead, or we have closed it and it ends
            connection.close()
            with self._lock:
                self._later.clear()
                self._connection = self._process = None
                again = self._replace()
            if again is None:
                return
            connection, process = again
            for key in list(self._wards):
                self._tell_again(key)

    def _replace(self) -> "tuple[socket.socket, subprocess.Popen[bytes]] | None":
        """Start another warden, unless we are at our end, or they keep dying. Under the lock."""
        if self._closed:
            return None
        now = time.monotonic()
        exhausted = self._breaker.failed(self._breaker.try_start(now), now, "it died")
        logger.warning("warden.died", extra={"children": len(self._wards) - len(self._spare)})
        try:
            if not exhausted:
                self._connection, self._process = connection, process = _start_process()
                return connection, process
            reason = "it keeps dying"
        except (OSError, ValueError) as exc:
            reason = str(exc)
        # From here on a broker that is killed leaves its children nothing but their EOF.
        self._closed = True
        self._hunts.clear()
        logger.error("warden.lost", extra={"error": reason, "children": len(self._wards) - len(self._spare)})
        return None

    def _tell_again(self, key: str) -> None:
        with self._lock:
            if (ward := self._wards.get(key)) is None:
                return
            self._send(ward.watch)
            number, found = self._hunts.get(key, (0, 0))
            if found is None:
                self._send(_packet("hunt", key, str(number)))
        self._tell_started(key)

    def _tell_started(self, key: str) -> None:
        deadline = time.monotonic() + SEND_TIMEOUT
        while True:
            with self._lock:
                ward, connection, process = self._wards.get(key), self._connection, self._process
                if ward is None or ward.started is None or connection is None or process is None:
                    return  # it was taken back; or the next warden will be told
                if self._send_started(connection, key, ward.started):
                    return
            poll = select.poll()
            poll.register(connection, select.POLLOUT)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                logger.warning("warden.hangs")
                process.kill()  # whoever comes next is told everything
                return

    def _send_started(self, connection: socket.socket, key: str, started: "_Started") -> bool:
        """Send a process with its pidfd, behind what waits; False if there is no room. Under the lock."""
        self._flush(all_but=TOGETHER)
        if len(self._later) > TOGETHER:
            return False
        rights = []
        if started.pidfd is not None:
            rights.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", started.pidfd)))
        packet = _packet("started", key, str(started.pid), started.cgroup)
        try:
            # Not `send_fds`, which forgets the flags that it is given.
            connection.sendmsg([*self._later, packet], rights, FLAGS)
        except BlockingIOError:
            return False
        except OSError:  # it has just died, and the next one will be told
            pass
        self._later.clear()
        return True

    def _send(self, packet: bytes) -> None:
        self._later.append(packet)
        self._flush()

    def _flush(self, *, all_but: int = 0) -> None:
        """Send what waits, as far as there is room; but the last few. Under the lock."""
        if self._connection is None:
            self._later.clear()  # whoever comes next is told everything
        while len(self._later) > all_but and self._connection is not None:
            packets = list(islice(self._later, TOGETHER))
            try:
                self._connection.sendmsg(packets, (), FLAGS)
            except BlockingIOError:
                return
            except OSError:  # it has just died, and the next one will be told everything
                self._later.clear()
                return
            for _ in packets:
                self._later.popleft()

    def _note(self, key: str, number: str, count: str) -> None:
        with self._lock:
            if self._hunts.get(key, (0, None))[0] == int(number):
                self._hunts[key] = int(number), int(count)


def _packet(*fields: str) -> bytes:
    return "\0".join(fields).encode(errors="surrogateescape") + b"\n"


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(PACKET_BYTES)
    except OSError:
        return b""


def _start_process() -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, KIND)
    with contextlib.ExitStack() as undo:
        undo.enter_context(contextlib.closing(ours))
        # Not 0, 1 or 2, which become its standard descriptors.
        with theirs:
            lifeline = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3)
        undo.callback(os.close, lifeline)
        with nothing_blocked():
            process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", warden_process.__file__),
                    *(str(lifeline), str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[lifeline],
                start_new_session=True,
                cwd="/",
                env={name: os.environ[name] for name in LINKER if name in os.environ},
            )
        undo.pop_all()
        os.close(lifeline)
    return ours, process


_default: Lifeline | None = None
_default_lock = threading.Lock()


def default_lifeline() -> Lifeline:
    """Return the lifeline of this process. The warden is started when it is first needed."""
    global _default  # noqa: PLW0603 - one warden per process
    with _default_lock:
        if _default is None:
            _default = Lifeline()
        return _default


def _forget_after_fork() -> None:
    # A copy of us that held the lifeline would keep the warden waiting after our death.
    global _default, _default_lock
    lifeline, _default, _default_lock = _default, None, threading.Lock()
    if lifeline is not None:
        lifeline.abandon()


def _close_at_exit() -> None:
    if _default is not None:
        _default.close()


os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(_close_at_exit)
