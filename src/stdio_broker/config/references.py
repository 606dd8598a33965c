"""Where paths lead and secrets are: relative to the file that names them, and never quoted."""

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from .keys import Reference

__all__ = ["References", "Unresolved"]

#: A key or a certificate, or a few of them; far less than a process can be given.
MAX_SECRET_BYTES = 64 * 1024

#: The rights of those who neither own a file nor are of its group.
_OTHERS = stat.S_IRWXO


class Unresolved(Exception):
    """A path or a secret that is not there, or is not as it should be. Quotes neither."""


class References:
    """What a configuration file refers to.

    Args:
        file: The configuration file.
        environ: The broker's own environment.

    Attributes:
        sources: The files that were read, the configuration file first.
    """

    def __init__(self, file: Path, environ: Mapping[str, str]) -> None:
        self.sources: list[Path] = [file]
        self._directory = file.absolute().parent
        self._environ = environ

    def path(self, text: str) -> Path:
        """Return the path that a text means.

        Raises:
            Unresolved: It is none.
        """
        if not text or "\0" in text:
            raise Unresolved(
                "expected a path, found an empty text" if not text else "a path has no NUL in it"
            )
        if text.startswith("~"):
            raise Unresolved("no shell is involved, so that ~ is not your home; expected the whole path")
        return self._directory / text

    def command(self, argv: Sequence[str]) -> tuple[str, ...]:
        """Return a program and its arguments; a program with a slash in it is a path.

        Raises:
            Unresolved: It is none.
        """
        if not argv or not argv[0]:
            raise Unresolved("expected a program, found an empty text" if argv else "expected a program")
        program, *arguments = argv
        if any("\0" in word for word in argv):
            raise Unresolved("expected text without NUL, which no program can receive")
        if "/" not in program and " " in program:
            raise Unresolved(
                "expected a program alone, found spaces: each argument is a text of its own in a list"
            )
        return (str(self.path(program)) if "/" in program else program, *arguments)

    def directory(self, text: str) -> Path:
        """Return the path of a directory that is there.

        Raises:
            Unresolved: It is not.
        """
        path = self.path(text)
        if not path.is_dir():
            raise Unresolved(f"expected a directory, found {'something else' if path.exists() else 'none'}")
        return path

    def secret(self, reference: Reference) -> str:
        """Return the secret that a reference leads to.

        Raises:
            Unresolved: There is none, or others can read it.
        """
        if reference.env is not None:
            value = self._environ.get(reference.env)
            if value is None:
                raise Unresolved("the broker's environment has no such variable")
        else:
            value = self._content(self.path(reference.file or ""))
        if not value or "\0" in value:
            raise Unresolved("the secret is empty" if not value else "the secret contains a NUL character")
        return value

    def _content(self, path: Path) -> str:
        self.sources.append(path)
        try:
            content = _read_private(path)
        except OSError as exc:
            raise Unresolved(_reason(exc)) from None
        if len(content) > MAX_SECRET_BYTES:
            raise Unresolved(f"the file is longer than {MAX_SECRET_BYTES} bytes")
        try:
            return content.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise Unresolved("the file is not text in UTF-8") from None


def _read_private(path: Path) -> bytes:
    # Never wait for whoever writes to a named pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_mode(os.fstat(descriptor).st_mode)
        return os.read(descriptor, MAX_SECRET_BYTES + 1)
    finally:
        os.close(descriptor)


def _reason(exc: OSError) -> str:
    if exc.errno in {errno.ENOENT, errno.ENOTDIR}:
        return "no such file (a relative path is relative to the configuration file)"
    return f"the file cannot be read: {exc.strerror}"


def _check_mode(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise Unresolved("expected a file, found something else")
    if mode & _OTHERS:
        raise Unresolved(
            f"every user of this machine may use the file (mode {stat.S_IMODE(mode):04o}); "
            "expected 0600 or 0640, as `chmod o= FILE` makes it"
        )
