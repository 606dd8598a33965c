"""Credentials that lie ready: one for all, a file for each principal, a variable for each.

Each source serves one server. A user is told only that there is no credential, or none now; why, the
operator reads in the log, which never contains what was found.

What runs as the same user as the broker can read these files, and the broker's own variables. Only
isolation keeps children from them.

Source: identity reference, section 9.6; design decision 8.
"""

import errno
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import CredentialMissing, CredentialUnavailable
from ..sessions import Principal
from ..sessions.credentials import Credential
from ..sessions.templates import MAX_VALUE_BYTES, flaw_of
from .credential_names import path_of, path_pattern, variable_of, variable_pattern

__all__ = [
    "RETRY_AFTER",
    "EnvironmentCredentials",
    "FileCredentials",
    "Refused",
    "Report",
    "StaticCredential",
]

logger = logging.getLogger(__name__)

#: Seconds that a client waits before it tries again, and a source of credentials, too.
RETRY_AFTER = 5.0


class StaticCredential:
    """The same credential for everybody: to the server all of them are one user.

    Args:
        token: The credential.

    Raises:
        ValueError: No variable can hold it.
    """

    per_principal = False

    def __init__(self, token: str) -> None:
        if flaw := flaw_of(token):
            raise ValueError(f"expected a credential, found one that {flaw}")
        self._credential = Credential(token)

    async def resolve(self, principal: Principal) -> Credential:  # noqa: ARG002 - the same for everybody
        """Return it."""
        return self._credential


class FileCredentials:
    """A file for each principal, which contains the token and maybe a line end.

    It is read each time, on the event loop: a file of this size comes out of the page cache in less time
    than a thread takes to wake up. So a directory that is slow to read (a network's) is no good place.
    Replace a file by renaming another one: of one that is being written half may be read.

    Percent-encoded in a name is all but ASCII letters, digits and `_ . ~ @ + -`, and a dot at its beginning.

    Args:
        server: Name of the server that they are for.
        pattern: Absolute path with `{principal}` and maybe `{issuer}` in it; without `{principal}` it is a
            directory of files that are named by it. On a file system that ignores case, so do names.
        issuer: Whose principals have one; needed without `{issuer}`, because names are unique within an
            issuer only.

    Raises:
        ValueError: The pattern cannot tell all principals apart, or is no path.
    """

    per_principal = True

    def __init__(self, server: str, pattern: str | os.PathLike[str], *, issuer: str | None = None) -> None:
        self._pattern = path_pattern(os.fspath(pattern))
        if issuer is None and "{issuer}" not in self._pattern:
            raise ValueError(f"expected {{issuer}} in the path, or one issuer, found {self._pattern!r}")
        self._server = server
        self._issuer = issuer

    async def resolve(self, principal: Principal) -> Credential:
        """Return what is in the principal's file.

        Raises:
            CredentialMissing: There is no file.
            CredentialUnavailable: The file cannot be read, is not only ours to read, or holds no token.
        """
        report = Report(self._server, principal)
        path = path_of(self._pattern, principal)
        if path is None or self._issuer not in {None, principal.issuer}:
            raise CredentialMissing(self._server)
        try:
            content = _read_private(path)
        except FileNotFoundError:
            raise report.missing(path) from None
        except OSError as exc:
            if exc.errno == errno.ENAMETOOLONG:
                raise report.missing(path) from None
            # A symbolic link, or no right to read it.
            raise report.unavailable(f"{path}: {exc.strerror}") from None
        except Refused as exc:
            raise report.unavailable(f"{path}: {exc}") from None
        return report.credential(content, path)


class EnvironmentCredentials:
    """A variable of the broker's own for each principal.

    In the name of a variable a small letter is a capital, and a hyphen between letters or digits is `_`.
    Anything else is `__` and its bytes in hexadecimal, so that no two principals have the same: `anna-b` is
    ANNA_B, `anna@b` ANNA__40B, and `Anna` __41NNA.

    Args:
        server: Name of the server that they are for.
        pattern: Name of the variables, with `{PRINCIPAL}` in it after a `_`.
        issuer: Whose principals have one.
        environment: Where they are; None is our own environment.

    Raises:
        ValueError: The pattern is no name of a variable.
    """

    per_principal = True

    def __init__(
        self, server: str, pattern: str, *, issuer: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self._server = server
        self._pattern = variable_pattern(pattern)
        self._issuer = issuer
        self._environment = os.environ if environment is None else environment

    async def resolve(self, principal: Principal) -> Credential:
        """Return what the principal's variable contains.

        Raises:
            CredentialMissing: There is no such variable.
            CredentialUnavailable: It contains no token.
        """
        if not principal.subject or self._issuer != principal.issuer:
            raise CredentialMissing(self._server)
        report = Report(self._server, principal)
        variable = variable_of(self._pattern, principal.subject)
        value = self._environment.get(variable)
        if value is None:
            raise report.missing(variable)
        return report.credential(os.fsencode(value), variable)


class Refused(Exception):
    """What was found is not used. The message tells why, without it."""


@dataclass(frozen=True, slots=True)
class Report:
    """Tells the operator why a principal gets no credential, and makes the error that tells the principal."""

    server: str
    principal: Principal

    def missing(self, place: str) -> CredentialMissing:
        """Return the error of a principal for whom nothing is in its place."""
        logger.info("credential.missing", extra={**self._facts(), "place": place})
        return CredentialMissing(self.server)

    def unavailable(self, problem: str) -> CredentialUnavailable:
        """Return the error of a credential that is not to be had, or cannot be used."""
        logger.warning("credential.unavailable", extra={**self._facts(), "problem": problem})
        return CredentialUnavailable(self.server, retry_after=RETRY_AFTER)

    def credential(self, content: bytes, place: str) -> Credential:
        """Return what was found in its place, line end excluded, as a credential.

        Raises:
            CredentialUnavailable: It cannot be one.
        """
        try:
            token = content.rstrip(b"\r\n").decode()
        except UnicodeDecodeError:
            raise self.unavailable(f"{place}: what is there is not UTF-8") from None
        if flaw := flaw_of(token):
            raise self.unavailable(f"{place}: what is there {flaw}")
        return Credential(token)

    def _facts(self) -> dict[str, str]:
        return {
            "server": self.server,
            "principal": self.principal.subject,
            "issuer": self.principal.issuer,
        }


def _read_private(path: str) -> bytes:
    """Return the beginning of a file that nobody but its owner may read: all of it, if it is a token.

    Raises:
        OSError: It cannot be read.
        Refused: It is no such file.
    """
    # Not blocking: to open a FIFO would wait until somebody opens its other end.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise Refused("expected a regular file")
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            found = f"found {stat.S_IMODE(mode):04o}"
            raise Refused(f"expected a file that only its owner may use (chmod 0600), {found}")
        with open(fd, "rb", closefd=False) as file:
            return file.read(MAX_VALUE_BYTES + len(b"\r\n") + 1)
    finally:
        os.close(fd)
