"""A temporary directory for one child, made before it starts and removed when nothing of it is left.

Its name is in TMPDIR (and TMP and TEMP, which some programs read instead). We hold a lock on it, which
the system drops when we die, of whatever: so the next process of ours that makes one knows which
directories nobody needs any more, also where process numbers tell nothing (containers that share /tmp).

Source: flock(2); POSIX, XBD 8.3, TMPDIR.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from .containment import Containment

__all__ = ["PREFIX", "Temporary", "remove_abandoned"]

logger = logging.getLogger(__name__)

#: What the names of the directories begin with.
PREFIX = "stdio-broker-tmp-"

#: The variables that name it.
VARIABLES = ("TMPDIR", "TMP", "TEMP")

#: How often a directory is made anew because somebody took it for abandoned before it was locked.
_ATTEMPTS = 5


class Temporary:
    """A child that has a temporary directory, whatever else holds it together.

    It costs one descriptor more.

    Args:
        inner: What holds its descendants.
    """

    def __init__(self, inner: Containment) -> None:
        self._inner = inner
        self.leader_sweeps = inner.leader_sweeps
        self._path = ""
        self._lock = -1

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """What the other one passes."""
        return self._inner.pass_fds

    def launch(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[Sequence[str], Mapping[str, str]]:
        """Make the directory."""
        _remove_abandoned_once()
        self._path, self._lock = _make()
        return self._inner.launch(argv, {**env, **dict.fromkeys(VARIABLES, self._path)})

    def adopt(self, pid: int, pidfd: int | None) -> bool:
        """Have the other one take it."""
        return self._inner.adopt(pid, pidfd)

    def kill(self) -> None:
        """Have the other one kill it."""
        self._inner.kill()

    def alive(self) -> bool:
        """Ask the other one."""
        return self._inner.alive()

    def close(self) -> None:
        """Remove the directory; what takes longer is done by a thread of its own."""
        self._inner.close()
        path, lock, self._lock = self._path, self._lock, -1
        if lock < 0:
            return
        try:
            os.rmdir(path)  # noqa: PTH106 - on the way of every end; and mostly it is empty
        except FileNotFoundError:
            os.close(lock)
        except OSError:
            threading.Thread(
                target=_remove, args=(path, lock), name="stdio-broker-remover", daemon=True
            ).start()
        else:
            os.close(lock)


def _make() -> tuple[str, int]:
    """Make and lock a directory; return its path and the descriptor that holds the lock."""
    for _ in range(_ATTEMPTS):
        path = tempfile.mkdtemp(prefix=PREFIX)
        lock = _locked(path)
        if lock is not None:
            return path, lock
    raise OSError("every temporary directory for it was taken for abandoned at once")


def _locked(path: str) -> int | None:
    """Return a descriptor that holds the lock; None if somebody else has it, or has removed the directory."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            return descriptor
    except OSError:  # locked by another; or removed before we had the lock
        pass
    os.close(descriptor)
    return None


def _remove(path: str, lock: int) -> None:
    try:
        shutil.rmtree(path)
    except OSError as exc:  # something in it belongs to another user, or is mounted
        logger.warning("temporary.left", extra={"path": path, "error": exc.strerror})
    finally:
        os.close(lock)


def remove_abandoned(folder: Path) -> None:
    """Remove the directories in a folder whose owner was killed. Of our own user only."""
    for path in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else is at it
            if path.lstat().st_uid == os.geteuid() and (lock := _locked(str(path))) is not None:
                _remove(str(path), lock)


_looked = False


def _remove_abandoned_once() -> None:
    global _looked  # noqa: PLW0603 - once per process, however many children
    if not _looked:
        _looked = True
        remove_abandoned(Path(tempfile.gettempdir()))
